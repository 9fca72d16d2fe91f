package server

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	nodes "github.com/dian-im/dian/internal/cluster"
	"github.com/dian-im/dian/internal/link"
	"github.com/dian-im/dian/internal/wire"
)

// logins holds the connections that are not logged in yet.
type logins struct {
	mu    sync.Mutex
	conns map[*websocket.Conn]struct{} // guarded by mu; nil when the server ends
}

func (l *logins) init() { l.conns = map[*websocket.Conn]struct{}{} }

// add reports false if the server ends.
func (l *logins) add(conn *websocket.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns != nil {
		l.conns[conn] = struct{}{}
	}
	return l.conns != nil
}

func (l *logins) remove(conn *websocket.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, conn)
}

// close cuts all of them off.
func (l *logins) close() {
	l.mu.Lock()
	conns := l.conns
	l.conns = nil
	l.mu.Unlock()
	for conn := range conns {
		conn.NetConn().Close()
	}
}

// serveSession is GET /v1/session. It returns after the upgrade, so that an idle
// session costs neither net/http's goroutine nor its buffers.
func (s *Server) serveSession(w http.ResponseWriter, r *http.Request) {
	switch {
	case s.stopping():
		writeProblem(w, wire.ServiceFault, "the server is stopping")
		return
	case !s.cfg.allowsOrigin(r):
		writeProblemStatus(w, http.StatusForbidden, wire.NoPermission, "this origin is not allowed")
		return
	case r.ProtoMajor != 1 || r.ProtoMinor < 1 || !websocket.IsWebSocketUpgrade(r):
		writeProblem(w, wire.BadParameter, "a session is a WebSocket over HTTP/1.1")
		return
	case r.ContentLength != 0:
		// It would be read as the session's first frames.
		w.Header().Set("Connection", "close") // it is not waited for
		writeProblem(w, wire.BadParameter, "a WebSocket handshake has no body")
		return
	}
	protocol := subprotocol(r.Header)
	switch {
	case protocol == "":
		writeProblem(w, wire.VersionNotSupported, "offer the subprotocol dian.v1.proto or dian.v1.json")
		return
	case !slices.Equal(r.Header["Sec-Websocket-Version"], []string{"13"}) || len(r.Header["Sec-Websocket-Key"]) != 1:
		// gorilla takes the first of several, which another one on the way may not.
		w.Header().Set("Sec-WebSocket-Version", "13")
		writeProblem(w, wire.BadParameter, badHandshake)
		return
	}
	addr := s.clientAddr(r)
	from := s.quota.address(addr)
	defer s.quota.releaseAddress(from)
	if refusal := s.quota.knock(from); refusal != nil {
		writeProblem(w, refusal.Code, refusal.Detail)
		return
	}
	free, refusal := s.quota.entering(from)
	if refusal != nil {
		writeProblem(w, refusal.Code, refusal.Detail)
		return
	}
	conn, err := s.upgrader().Upgrade(link.Guarded(w), r, http.Header{"Sec-Websocket-Protocol": {protocol}})
	if err != nil { // the upgrader has answered
		free()
		return
	}
	setUserTimeout(rawConn(conn.NetConn()))
	v := visit{conn: conn, json: protocol == wire.JSONSubprotocol, addr: addr, door: doorOf(r.Context())}
	started := s.start("session", func() { s.serveConn(v, free) })
	if !started {
		free()
		conn.Close()
	}
}

// subprotocol returns the first that we know of those offered, in one header or in
// several (RFC 6455 section 11.3.4), or "".
func subprotocol(h http.Header) string {
	for offered := range strings.SplitSeq(strings.Join(h["Sec-Websocket-Protocol"], ","), ",") {
		if p := strings.TrimSpace(offered); p == wire.ProtoSubprotocol || p == wire.JSONSubprotocol {
			return p
		}
	}
	return ""
}

const badHandshake = "this WebSocket handshake is not right"

// upgrader takes a request for a session over. No extension is ever negotiated:
// EnableCompression stays off (case 5).
func (s *Server) upgrader() *websocket.Upgrader {
	return &websocket.Upgrader{
		HandshakeTimeout: handshakeTimeout,
		ReadBufferSize:   link.IdleReadBytes,
		WriteBufferSize:  link.WriteBufferBytes,
		WriteBufferPool:  link.WriteBuffers,
		CheckOrigin:      func(*http.Request) bool { return true }, // done before
		Error: func(w http.ResponseWriter, _ *http.Request, status int, _ error) {
			if status < 500 {
				status = http.StatusBadRequest
			}
			writeProblemStatus(w, status, wire.BadParameter, badHandshake)
		},
	}
}

// rawConn returns the connection below TLS and what else wraps it.
func rawConn(conn net.Conn) net.Conn {
	for {
		t, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return conn
		}
		conn = t.NetConn()
	}
}

// A visit is a connection that wants to log in.
type visit struct {
	conn *websocket.Conn
	json bool
	addr netip.Addr // see clientAddr
	door *doorConn  // nil with a program's own listener
}

// serveConn logs a connection in and carries its session to the end. The login
// has a goroutine of its own, because the stack that signatures need would stay
// with the session's: 4 KiB of an idle session.
func (s *Server) serveConn(v visit, loginOver func()) {
	defer loginOver()
	defer v.conn.Close()
	if !s.logins.add(v.conn) {
		return
	}
	defer s.logins.remove(v.conn)

	var sess *session
	over := make(chan struct{})
	if !s.start("login", func() {
		defer close(over)
		sess = s.admit(v)
	}) {
		return
	}
	if <-over; sess == nil {
		return
	}
	s.logins.remove(v.conn)
	loginOver()
	v.door.vouch()
	s.lines.own(v.door, sess.app, sess.user)
	sess.run()
}

// admit makes a live session of a connection, or refuses it. Before Welcome a
// client gets a fixed budget: one message of 16 KiB within LoginWait, and nothing
// but Hello counts (cases 10 and 11).
func (s *Server) admit(v visit) *session {
	conn, json := v.conn, v.json
	f, err := link.ReadFirst(conn, json, wire.LoginBytes, s.cfg.LoginWait)
	hello := f.GetHello()
	if err != nil || hello == nil {
		s.metrics.logins.WithLabelValues("none").Inc()
		link.Refuse(conn, json, nil, websocket.ClosePolicyViolation)
		return nil
	}
	who := claims{address: addressText(v.addr)}
	sess, refusal := s.login(v, hello, &who)
	if refusal != nil {
		s.log.Debug("login refused", "code", uint32(refusal.Code), "address", v.addr)
		s.audit.refusedLogin(who, "session", refusal.Code)
		s.metrics.logins.WithLabelValues(codeLabel(refusal.Code)).Inc()
		link.Refuse(conn, json, lineOff(refusal.Code, refusal.Detail), websocket.ClosePolicyViolation)
		return nil
	}
	s.log.Debug("logged in", "epoch", sess.epoch, "address", v.addr)
	s.metrics.logins.WithLabelValues(codeLabel(wire.OK)).Inc()
	return sess
}

// login makes a live session of a Hello, or says why not. who has the client's
// address, and then what a good token says.
func (s *Server) login(v visit, hello *wire.Hello, who *claims) (_ *session, refusal *wire.Error) {
	if err := wire.CheckHello(hello); err != nil {
		return nil, asRefusal(err)
	}
	if hello.LastEpoch > maxEpoch {
		return nil, &wire.Error{Code: wire.BadParameter, Detail: "last_epoch was never given"}
	}
	token, refusal := s.verify(hello.Token, v.addr)
	if refusal != nil {
		return nil, refusal
	}
	token.address = who.address
	*who = token
	if s.stopping() {
		return nil, &wire.Error{Code: wire.ServiceFault, Detail: "the server is stopping"}
	}
	charged := s.quota.party(token.App, token.User, v.addr)
	defer func() {
		if refusal != nil {
			charged.release()
		}
	}()
	if refusal := charged.login(); refusal != nil {
		return nil, refusal
	}
	var elsewhere *nodes.Answer // who has the place at another node
	if hello.Role == wire.Role_ROLE_LISTEN {
		elsewhere = s.cluster.incumbent(s.ctx, place{token.App, token.User})
	}
	kicks, refusal := mayReplace(elsewhere, hello)
	if refusal != nil {
		return nil, refusal
	}
	// Who has a later moment has logged in after this session took its place:
	// commands it sends then cannot reach an older one (docs/protocol.md §6).
	s.entering.Lock()
	defer s.entering.Unlock()
	s.moments++
	sess := s.newSession(v, token, hello, charged, elsewhere.GetUser().GetEpoch())
	sess.kicks = kicks
	sess.ctx, sess.stop = context.WithCancel(s.ctx)
	sess.link = link.New(v.conn, link.Config{
		Handle: sess.handle, JSON: v.json, Heartbeat: s.cfg.Heartbeat,
		Room: sess, QueueFrames: queueFrames,
	})
	defer func() {
		if refusal != nil {
			sess.stop()
			sess.link.Drop()
		}
	}()
	// Queued before anybody can find the session, so that it comes first.
	if err := sess.link.SendAlone(s.welcome(sess)); err != nil {
		s.log.Error("welcome not sent", "err", err)
		return nil, &wire.Error{Code: wire.Internal}
	}
	if refusal := s.enter(sess); refusal != nil {
		return nil, refusal
	}
	sess.distrust() // the token may have been revoked since it was looked at
	return sess, nil
}

// mayReplace says whether a login may take the place of a session at another node, as
// directory.take does for one at this, and what the new one inherits.
func mayReplace(older *nodes.Answer, hello *wire.Hello) (kicks bucket, refusal *wire.Error) {
	u := older.GetUser()
	if u == nil || bytes.Equal(u.Instance, hello.Instance) {
		return kicks, nil
	}
	if hello.LastEpoch > 0 && u.Epoch > hello.LastEpoch {
		return kicks, &wire.Error{Code: wire.Kicked}
	}
	now := time.Now()
	kicks = bucket{spent: kicksAtOnce - min(max(older.Kicks, 0), kicksAtOnce), at: now}
	if !kicks.take(now, kicksAtOnce, kicksPerSecond) {
		return kicks, &wire.Error{Code: wire.OverLimit, Detail: "two clients of this user kick each other"}
	}
	return kicks, nil
}

// newSession makes a session whose epoch is above the one that is known of another node.
func (s *Server) newSession(v visit, token claims, hello *wire.Hello, charged party, elsewhere uint64) *session {
	sess := &session{
		srv: s, app: token.App, user: token.User, role: hello.Role,
		instance: string(hello.Instance), last: hello.LastEpoch, json: v.json, entered: make(chan struct{}),
		party: charged,
		peer:  &wire.Peer{User: token.User, Instance: hello.Instance},
		id:    s.moments, since: time.Now(), address: token.address,
	}
	sess.claims.Store(&token)
	sess.pending.wait, sess.pending.expired = s.cfg.CommandWait, sess.commandExpired
	sess.expiry = time.AfterFunc(time.Duration(1<<63-1), sess.watchToken)
	last := hello.LastEpoch
	if older := s.dir.get(sess.app, sess.user); older != nil {
		sess.epoch = s.dir.clock.next(last, elsewhere, older.epoch)
	} else {
		sess.epoch = s.dir.clock.next(last, elsewhere)
	}
	sess.watcher.init(sess)
	return sess
}

func (s *Server) welcome(sess *session) *wire.Frame {
	cfg := &s.cfg
	return &wire.Frame{Body: &wire.Frame_Welcome{Welcome: &wire.Welcome{
		User: sess.user, App: sess.app, Epoch: sess.epoch,
		HeartbeatMs:    uint32(cfg.Heartbeat.Milliseconds()),
		TokenExpiresMs: sess.token().Expires.UnixMilli(),
		LaneBase:       cfg.PublicURL,
		Moment:         &wire.Moment{Server: s.id, Count: s.moments},
		Limits: &wire.Limits{
			CommandBytes: wire.CommandBytes, ReplyBytes: wire.ReplyBytes, BufferBytes: wire.BufferBytes,
			FileBytes: s.maxFileBytes(sess.app), InlineBytes: wire.InlineBytes,
			MetaBytes: wire.MetaBytes, HeaderBytes: wire.HeaderBytes,
			ResumeWindowMs: cfg.ResumeWindow.Milliseconds(), OfferWaitMs: cfg.OfferWait.Milliseconds(),
			CommandWaitMs: cfg.CommandWait.Milliseconds(),
		},
	}}}
}

// enter makes a session live: in the server's list and, if it listens, in its
// user's place, from where it kicks an older one. The new one is live whatever
// the older one's connection does (case 35).
func (s *Server) enter(sess *session) *wire.Error {
	defer close(sess.entered)
	if refusal := s.remember(sess); refusal != nil {
		sess.expiry.Stop()
		return refusal
	}
	sess.state.Store(sessionLive)
	if sess.role == wire.Role_ROLE_LISTEN {
		older, how := s.dir.take(sess)
		if how != taken {
			sess.expiry.Stop()
			sess.state.Store(sessionGone)
			s.forget(sess)
			if how == fighting {
				return &wire.Error{Code: wire.OverLimit, Detail: "two clients of this user kick each other"}
			}
			return &wire.Error{Code: wire.Kicked}
		}
		before := presenceOf(sess.user, nil)
		if older != nil {
			before = presenceOf(sess.user, older)
			if sess.last > 0 && sess.last < older.epoch {
				older.giveWay(sess.instance)
			} else {
				older.kick("")
			}
		}
		if now := presenceOf(sess.user, sess); now.Status != before.Status || now.DoNotDisturb != before.DoNotDisturb {
			s.presence.changed(sess.app, sess.user)
		}
		s.cluster.here(place{sess.app, sess.user})
		sess.tellCluster()
	}
	s.audit.login(sess)
	s.transfers.sessionUp(sess)
	sess.watchToken()
	return nil
}
