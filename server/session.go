package server

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"github.com/dian-im/dian/internal/link"
	"github.com/dian-im/dian/internal/wire"
)

// A session is one client's live connection, from Welcome to its end. Its fields
// are grouped by who may touch them.
type session struct {
	// Set before the session is live, then only read.
	srv       *Server
	link      *link.Link
	ctx       context.Context // ends with the session
	stop      context.CancelFunc
	entered   chan struct{} // closed when everybody has heard that it is up
	app, user string
	role      wire.Role
	instance  string // 16 raw bytes, or "" for a sender without a place
	epoch     uint64
	last      uint64 // of the client's session before, 0 if it is its first
	json      bool
	party     party      // who is charged; held until the session is down
	peer      *wire.Peer // app's user and instance as others see them
	id        uint64     // counts the logins of this server, for audit and admin
	since     time.Time
	address   string // see clientAddr

	state  atomic.Int32 // one of the below
	claims atomic.Pointer[claims]
	status atomic.Uint64 // packed by packStatus

	pending pending // commands to this session
	shares  shares  // of these, by sender
	watcher watcher // what it wants to know of others

	kicks bucket // guarded by the directory's shard

	far  *far // of a stand-in: where it stands for; such a session has no link
	away away // what it has under way at other nodes
	turn turn // of its frames about transfers

	tokenMu sync.Mutex  // guards the next two
	expiry  *time.Timer // nil when the session has ended
	warned  time.Time   // the expiry that it was told of

	downOnce sync.Once
	kicked   atomic.Bool   // set before it goes down: its lanes and tickets end with it
	offCode  atomic.Uint32 // why the server ended it, for the audit

	// Owned by the reader.
	target      *session // whom the last command went to, or nil
	targetShare *share   // of its queue; nil with target
	results     resultFrame
	updates     bucket // of UpdateToken
}

// A session's states. It is live from Welcome on and gone when its end has
// begun: from then on its frames are ignored and it cannot be found (case 35).
const (
	sessionNew int32 = iota
	sessionLive
	sessionGone
)

// closeTooSlow is the close status for a client that does not read what it asked
// for. It may come again.
const closeTooSlow = websocket.CloseTryAgainLater

// violation is a frame that is not allowed here and now: it ends the session.
func violation(err error) error {
	return &link.CloseError{Status: websocket.CloseProtocolError, Err: err}
}

var errFrame = errors.New("frame is not allowed from this client")

// live reports whether the session may be used.
func (s *session) live() bool { return s.state.Load() == sessionLive }

// token returns what the session's present token says.
func (s *session) token() claims { return *s.claims.Load() }

// send queues a frame and does not block. An error means that the session is
// ending: a client that reads so slowly that its queue is full is ended here,
// and reconnects.
func (s *session) send(f *wire.Frame) error { return s.sendBy(nil, f) }

// sendBy is send on the reader of a link, which may be nil: see link.SendBy.
func (s *session) sendBy(reader *link.Link, f *wire.Frame) error {
	if s.far != nil {
		return s.far.tell(f)
	}
	err := s.link.SendBy(reader, f)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, link.ErrClosed):
	case errors.Is(err, link.ErrFull):
		s.close(closeTooSlow)
	default: // a frame that cannot be encoded is a bug of ours
		s.srv.log.Error("frame not sent", "epoch", s.epoch, "frame", fmt.Sprintf("%T", f.Body), "err", err)
		s.close(websocket.CloseInternalServerErr)
	}
	return err
}

// end ends the session for good: LineOff with a code, and a close. It returns at
// once, even if the client reads nothing.
func (s *session) end(code wire.Code, detail string) {
	if s.state.Swap(sessionGone) == sessionGone {
		return
	}
	s.offCode.Store(uint32(code))
	s.srv.metrics.lineOffs.WithLabelValues(codeLabel(code)).Inc()
	s.link.Close(lineOff(code, detail), websocket.ClosePolicyViolation)
}

// distrust ends the session if its token does not count any more, and reports that.
// It does not wait for the client.
func (s *session) distrust() bool {
	if s.srv.keys.trusts(s.token()) {
		return false
	}
	s.end(wire.TokenRefused, "")
	s.down()
	return true
}

// kick ends the session for good because another took its place or an operator
// says so. The mark comes first: the session's own goroutine may be the one that
// takes it out, as soon as its connection ends.
func (s *session) kick(detail string) {
	s.kicked.Store(true)
	s.end(wire.Kicked, detail)
	s.down()
}

// giveWay ends the session because another one has its place. If that is the same client's
// it is not told so for good: a login that the client has given up may have come late, and
// then it is the client's live line that gives way, which has to come again.
func (s *session) giveWay(instance string) {
	if instance != s.instance {
		s.kick("")
		return
	}
	s.srv.metrics.lineOffs.WithLabelValues(codeLabel(wire.Kicked)).Inc()
	s.close(closeRestart)
	s.down()
}

// close ends the session in a way after which the client reconnects.
func (s *session) close(status int) {
	s.state.Store(sessionGone)
	s.link.Close(nil, status)
}

func lineOff(code wire.Code, detail string) *wire.Frame {
	return &wire.Frame{Body: &wire.Frame_LineOff{LineOff: &wire.LineOff{Code: uint32(code), Detail: detail}}}
}

// run carries the session until its connection ends and tells everybody.
func (s *session) run() {
	defer s.stop()
	defer s.down()
	err := s.link.Run(s.ctx)
	s.aim(nil) // the reader has ended
	s.srv.log.Debug("session ended", "epoch", s.epoch, "reason", err)
}

// down takes the session out of everything it is part of, once. Who ends it calls
// it, so as not to wait for its connection, and the session at its own end.
func (s *session) down() {
	s.downOnce.Do(func() {
		<-s.entered // nobody may hear of its end before its beginning
		s.state.Store(sessionGone)
		s.tokenMu.Lock()
		s.expiry.Stop()
		s.expiry = nil
		s.tokenMu.Unlock()

		left := s.role == wire.Role_ROLE_LISTEN && s.srv.dir.leave(s)
		s.srv.presence.forget(s)
		s.commandsLost()
		s.srv.transfers.sessionDown(s, s.kicked.Load())
		s.srv.cluster.sessionDown(s)
		s.srv.forget(s)
		s.srv.audit.logout(s)
		s.party.release()
		if left {
			s.tellCluster()
			s.srv.cluster.came(place{s.app, s.user}) // it may have been at another node for a while
			s.srv.presence.changed(s.app, s.user)
		}
	})
}

// handle gets every frame from the link's reader. An error ends the session.
func (s *session) handle(f *wire.Frame) (err error) {
	defer func() {
		if bug := recover(); bug != nil {
			s.srv.caught("session", bug)
			err = &link.CloseError{Status: websocket.CloseInternalServerErr, Err: errors.New("a bug of the server")}
		}
	}()
	if !s.live() {
		return nil
	}
	return s.dispatch(f)
}

// caught counts and logs a panic. Its value could hold anything, so only its type
// is logged: neither content nor a token may get into a log (case 31).
func (s *Server) caught(where string, bug any) {
	s.metrics.panics.Inc()
	s.log.Error("bug caught", "where", where, "type", fmt.Sprintf("%T", bug), "stack", string(debug.Stack()))
}

// longestPace bounds how long the reader of a session that is over its rate waits
// before a frame; the debt stays.
const longestPace = 250 * time.Millisecond

// pace makes a session that is over its user's rate wait, for frames that have no
// answer which could refuse them. Only its own frames wait.
func (s *session) pace(n int64) {
	wait := min(s.party.pace(n), longestPace)
	if wait <= 0 {
		return
	}
	select {
	case <-time.After(wait):
	case <-s.ctx.Done():
	}
}

// dispatch is the table of who may send what in a live session (case 13). Frames
// of kinds that this version does not know never come here.
func (s *session) dispatch(f *wire.Frame) error {
	listening := s.role == wire.Role_ROLE_LISTEN
	switch b := f.Body.(type) {
	case *wire.Frame_Command:
		s.command(f, b.Command)
		return nil
	case *wire.Frame_CommandAck:
		if listening {
			return s.commandAck(b.CommandAck)
		}
	}
	s.link.WakeOthers() // the others may wait: for a hook, or for their turn
	switch b := f.Body.(type) {
	case *wire.Frame_UpdateToken:
		s.updateToken(b.UpdateToken)
		return nil
	case *wire.Frame_PresenceQuery:
		s.presenceQuery(b.PresenceQuery)
		return nil
	case *wire.Frame_PresenceSubscribe:
		s.presenceSubscribe(b.PresenceSubscribe)
		return nil
	case *wire.Frame_Status:
		if listening {
			s.pace(question) // everybody who watches is told
			s.setStatus(b.Status)
			return nil
		}
	case *wire.Frame_Offer, *wire.Frame_Finish, *wire.Frame_VerdictAck, *wire.Frame_Cancel:
		s.pace(1)
		return s.transfer(f)
	case *wire.Frame_Answer, *wire.Frame_Received, *wire.Frame_Verdict, *wire.Frame_Standing:
		if listening {
			return s.transfer(f)
		}
	}
	// The others are the server's to send, and Hello comes once (case 12).
	return violation(fmt.Errorf("%w: %T", errFrame, f.Body))
}

// tokenNotice is how long before its token's end a client is told.
const tokenNotice = 30 * time.Second

// watchToken is the expiry timer's function: it tells the client that its token
// ends soon, and ends the session when it has. It looks at least once an hour,
// because tokens end by the wall clock and timers do not know that clock.
func (s *session) watchToken() {
	expires := s.token().Expires
	left := time.Until(expires)
	if left <= 0 {
		s.end(wire.TokenExpired, "")
		return
	}
	s.tokenMu.Lock()
	notice := left <= tokenNotice && !s.warned.Equal(expires)
	if notice {
		s.warned = expires
	}
	if s.expiry != nil {
		next := left
		if left > tokenNotice {
			next = left - tokenNotice
		}
		s.expiry.Reset(min(next, time.Hour))
	}
	s.tokenMu.Unlock()
	if notice {
		_ = s.send(&wire.Frame{Body: &wire.Frame_TokenWillExpire{TokenWillExpire: &wire.TokenWillExpire{
			TokenExpiresMs: expires.UnixMilli()}}})
	}
}

// updateToken takes a newer token of the same user. Its reader calls it.
func (s *session) updateToken(u *wire.UpdateToken) {
	answer := &wire.TokenUpdated{}
	if refusal := s.tryToken(u.GetToken()); refusal != nil {
		s.srv.audit.refusedLogin(claims{App: s.app, User: s.user, address: s.address}, "update", refusal.Code)
		answer.Code, answer.Detail = uint32(refusal.Code), refusal.Detail
	}
	answer.TokenExpiresMs = s.token().Expires.UnixMilli()
	if s.send(&wire.Frame{Body: &wire.Frame_TokenUpdated{TokenUpdated: answer}}) == nil && answer.Code == 0 {
		s.watchToken()
		s.srv.transfers.tokenUpdated(s)
		s.srv.cluster.tokenUpdated(s)
	}
}

func (s *session) tryToken(token string) *wire.Error {
	now := time.Now()
	if !s.updates.take(now, 10, 1) { // a signature takes a while to check
		return &wire.Error{Code: wire.OverLimit, Detail: "too many new tokens"}
	}
	at, _ := netip.ParseAddr(s.address)
	c, refusal := s.srv.verify(token, at)
	switch {
	case refusal != nil:
		return refusal
	case c.App != s.app || c.User != s.user:
		return &wire.Error{Code: wire.TokenRefused, Detail: "the token is another user's"}
	case c.Expires.Before(s.token().Expires):
		return &wire.Error{Code: wire.TokenRefused, Detail: "the token ends before the present one"}
	}
	c.address = s.address
	s.claims.Store(&c)
	s.distrust() // a Reload may have looked at the one before
	return nil
}
