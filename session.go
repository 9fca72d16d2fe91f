package dian

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/gorilla/websocket"

	"github.com/dian-im/dian/internal/link"
	"github.com/dian-im/dian/internal/wire"
)

const (
	reconnectFirst = 250 * time.Millisecond // doubles with each try (docs/protocol.md §4)
	reconnectMost  = 15 * time.Second
	loginTime      = 30 * time.Second // for one try, the token source included
	maxGoAway      = 5 * time.Minute  // whatever the server asks for

	// Commands in flight (maxFlyingBytes), offers with inline content and replies
	// fit in; a server that lets more pile up does not read.
	sessionQueueBytes  = 16 << 20
	sessionQueueFrames = 16384
)

// finalCodes end the line: the same Hello would fail again.
var finalCodes = []Code{ErrKicked, ErrTokenExpired, ErrTokenMalformed, ErrNoSuchApp, ErrTokenRefused,
	ErrNoPermission, ErrVersionNotSupported, ErrBadParameter, ErrWrongCredentials}

// isFinal reports whether why ends the line for good. Only the server's word
// does. With a token source an expired token is no reason: the next is asked for.
func (c *Client) isFinal(why *Error) bool {
	return why.Origin == Server && slices.Contains(finalCodes, why.Code) &&
		(why.Code != ErrTokenExpired || c.opts.tokenSource == nil)
}

// A session is one live connection and what its frames have told about its end.
type session struct {
	c *Client
	l *link.Link
	// Owned by the link's reader.
	holds bool // callbacks wait until it has handled all that has come
	// Owned by the link's reader, and read when it has ended.
	off    *Error        // LineOff
	goAway time.Duration // GoAway; 0: none
}

// serve keeps the line up until it is off for good.
func (c *Client) serve(s *session) {
	for {
		why, goAway := s.run()
		if c.isClosing() {
			return
		}
		if c.isFinal(why) {
			c.opts.log.Info("line off", "code", uint32(why.Code))
			c.lineOff(why, true)
			return
		}
		conn := c.reconnect(why, goAway)
		if conn == nil {
			return
		}
		s = c.startSession(conn)
		if h := c.opts.handler.NotifyReconnected; h != nil {
			c.notify(h)
		}
	}
}

func (c *Client) isClosing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closing
}

// startSession puts a connection whose login is done into service. What it
// queues is written once the session runs.
func (c *Client) startSession(conn *websocket.Conn) *session {
	w := c.welcome()
	s := &session{c: c}
	s.l = link.New(conn, link.Config{
		Handle:      s.handle,
		Handled:     s.handled,
		Heartbeat:   time.Duration(w.GetHeartbeatMs()) * time.Millisecond,
		QueueBytes:  sessionQueueBytes,
		QueueFrames: sessionQueueFrames,
	})
	c.opts.log.Info("line up", "user", wire.Quote(c.user), "epoch", w.GetEpoch())

	// What a server may have forgotten goes out before anything new: frames of
	// others find no session until live is set, and commands have a gate of their own.
	c.presence.lineUp(s.l)
	c.commands.lineUp(s.l, w.GetMoment())
	c.mu.Lock()
	c.live = s.l
	closing := c.closing
	c.mu.Unlock()
	if closing { // Close did not see this session
		s.l.Close(nil, websocket.CloseNormalClosure)
	} else {
		c.out.lineUp(w)
		if c.in != nil {
			c.in.lineUp(w)
		}
	}
	return s
}

// run carries the session's frames, and returns why it has ended. Close ends it.
func (s *session) run() (why *Error, goAway time.Duration) {
	c := s.c
	err := s.l.Run(context.Background())
	c.mu.Lock()
	c.live = nil
	c.mu.Unlock()
	c.commands.lineDown()
	c.presence.lineDown()
	c.tokens.lineDown()
	c.out.lineDown()
	if c.in != nil {
		c.in.lineDown()
	}
	why = s.off
	if why == nil {
		why = sessionError(err)
	}
	c.opts.log.Info("line down", "code", uint32(why.Code))
	return why, s.goAway
}

// sessionError makes an error of a link's end.
func sessionError(err error) *Error {
	if closed, ok := errors.AsType[*websocket.CloseError](err); ok {
		return localError("session", "", ErrConnectionClosed, "", closed)
	}
	if errors.Is(err, link.ErrProtocol) {
		return localError("session", "", ErrBadData, "", err)
	}
	return localError("session", "", ErrConnectionLost, "", err)
}

// reconnect logs in again. It returns nil when the line is off for good.
func (c *Client) reconnect(why *Error, goAway time.Duration) *websocket.Conn {
	// While the line is down for longer than the window, tasks end; the tries go on.
	window := time.AfterFunc(c.resumeWindow(), c.loseTasks)
	defer window.Stop()
	h := &c.opts.handler
	for try := 1; ; try++ {
		delay := rand.N(min(reconnectMost, reconnectFirst<<min(try-1, 10)) + 1)
		if try == 1 && goAway > 0 {
			delay = rand.N(goAway)
		}
		if h.NotifyReconnecting != nil {
			r := Reconnecting{Attempt: try, Err: why, Delay: delay}
			c.notify(func() { h.NotifyReconnecting(r) })
		}
		select {
		case <-c.ctx.Done():
			return nil
		case <-time.After(delay):
		}
		conn, failed := c.loginAgain()
		if failed == nil {
			return conn
		}
		if c.isClosing() {
			return nil
		}
		c.opts.log.Info("reconnect failed", "try", try, "code", uint32(failed.Code))
		if c.isFinal(failed) {
			c.lineOff(failed.with("session", ""), true)
			return nil
		}
		why = failed
	}
}

// loginAgain asks for a token and logs in, within loginTime.
func (c *Client) loginAgain() (*websocket.Conn, *Error) {
	ctx, cancel := context.WithTimeout(c.ctx, loginTime)
	defer cancel()
	if err := c.tokens.fetch(ctx); err != nil {
		e, _ := errors.AsType[*Error](err)
		return nil, e
	}
	conn, w, failed := c.net.login(ctx, c.hello())
	if failed != nil {
		return nil, failed
	}
	if w.GetUser() != c.user || w.GetApp() != c.app {
		conn.Close()
		// What this client keeps belongs to the user it was made for.
		return nil, &Error{Op: "session", Origin: Server, Code: ErrTokenRefused, Detail: "the token names another user"}
	}
	c.setWelcome(w)
	return conn, nil
}

// loseTasks ends all tasks because the line was down for too long.
func (c *Client) loseTasks() {
	c.mu.Lock()
	down := c.live == nil && c.off == nil
	c.mu.Unlock()
	if !down {
		return
	}
	c.commands.lose()
	c.loseTransfers(localError("", "", ErrConnectionLost, "", nil))
}

// sendOn queues f on l. A queue that is full means that the server does not read:
// the session is ended, so that everything is told again on the next one.
func (c *Client) sendOn(l *link.Link, f *wire.Frame) error { return c.sendBy(nil, l, f) }

// push is sendOn of what waits for nothing else: see link.Push.
func (c *Client) push(l *link.Link, f *wire.Frame) error { return c.sent(l, l.Push(f)) }

// sendBy is sendOn on the reader of a link, which may be nil: see link.SendBy.
func (c *Client) sendBy(reader, l *link.Link, f *wire.Frame) error {
	return c.sent(l, l.SendBy(reader, f))
}

// sent takes the error of a frame that was to be queued on l.
func (c *Client) sent(l *link.Link, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, link.ErrFull) {
		l.Close(nil, websocket.CloseGoingAway)
	}
	return localError("session", "", ErrConnectionLost, "", err)
}

// handle takes one frame from the server, on the link's reader. A frame with a
// bad field is left out: what it was about is asked for again or runs out of time.
func (s *session) handle(f *wire.Frame) error {
	if err := wire.CheckFromServer(f); err != nil {
		s.c.opts.log.Warn("bad frame from the server", "err", err)
		if b, ok := f.Body.(*wire.Frame_Command); ok {
			s.c.commands.refuse(s.l, b.Command, err)
		}
		return nil
	}
	c := s.c
	switch b := f.Body.(type) {
	case *wire.Frame_Command:
		s.hold()
		c.commands.arrive(s.l, b.Command)
	case *wire.Frame_CommandResult:
		s.hold()
		c.commands.result(b.CommandResult)
	case *wire.Frame_PresenceList:
		c.presence.list(b.PresenceList)
	case *wire.Frame_PresenceChange:
		c.presence.change(b.PresenceChange.GetUsers())
	case *wire.Frame_TokenUpdated:
		c.tokens.updated(b.TokenUpdated)
	case *wire.Frame_TokenWillExpire:
		c.tokens.willExpire(b.TokenWillExpire)
	case *wire.Frame_GoAway:
		s.goAway = min(max(time.Duration(b.GoAway.GetDelayMs())*time.Millisecond, time.Millisecond), maxGoAway)
	case *wire.Frame_LineOff:
		s.off = lineOffError("session", b.LineOff)
		return &link.CloseError{Status: websocket.CloseNormalClosure, Err: s.off}
	case *wire.Frame_Welcome, *wire.Frame_Hello:
		return &link.CloseError{Status: websocket.CloseProtocolError, Err: errSecondLogin}
	case *wire.Frame_Accepted, *wire.Frame_Received, *wire.Frame_Verdict, *wire.Frame_Standing:
		c.out.frame(f)
	case *wire.Frame_Offer, *wire.Frame_Sync, *wire.Frame_Finish, *wire.Frame_VerdictAck,
		*wire.Frame_Cancel, *wire.Frame_Query:
		if c.in != nil {
			c.in.frame(f)
		}
	}
	return nil
}

// hold lets callbacks begin when all that has come is handled and acks are on their
// way, once for all of it.
func (s *session) hold() {
	if !s.holds {
		s.holds = true
		s.c.events.hold()
	}
}

func (s *session) handled() {
	if s.holds {
		s.holds = false
		s.c.events.release()
	}
}

var errSecondLogin = errors.New("a second login in one session")
