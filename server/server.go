package server

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

// A Server is the relay. It is an http.Handler that any program can mount; Serve
// adds a listener that is tuned for it. All methods may be called at any time.
type Server struct {
	// Set by New, then only read.
	cfg       Config
	log       *slog.Logger
	keys      *keyring
	dir       *directory
	presence  *presence
	transfers *transfers
	metrics   *metrics
	audit     *auditor // nil without Config.Audit
	revoked   *revocations
	cluster   *cluster // nil without Config.Cluster
	mux       *http.ServeMux
	ctx       context.Context // ends when Shutdown gives up waiting
	kill      context.CancelFunc

	id uint64 // random: whose moments are counted

	entering sync.Mutex // one login at a time takes its moment and its place
	moments  uint64     // guarded by entering

	quota       quota
	commands    commands
	logins      logins
	lines       *lines      // nil unless in dev mode
	certificate certificate // of Serve's listener
	adminToken  atomic.Pointer[Secret]

	mu       sync.Mutex
	ending   bool                  // guarded by mu: no more sessions
	closed   bool                  // guarded by mu: no more goroutines
	sessions map[*session]struct{} // guarded by mu
	running  sync.WaitGroup        // the goroutines of start

	crashOnce sync.Once
	crashed   chan struct{} // closed by crash

	shutdown sync.Once
	ended    chan struct{} // closed when Shutdown is through
}

// New makes a server of cfg, which it checks first. Whoever called New calls
// Shutdown in the end.
func New(cfg Config) (*Server, error) {
	if err := cfg.Check(); err != nil {
		return nil, fmt.Errorf("server: %w", err)
	}
	cfg = cfg.withDefaults()
	keys, err := newKeyring(cfg)
	if err != nil {
		return nil, fmt.Errorf("server: %w", err)
	}
	s := &Server{
		cfg: cfg, log: cfg.Logger, keys: keys, id: rand.Uint64(),
		dir: newDirectory(), presence: newPresence(),
		sessions: map[*session]struct{}{},
		crashed:  make(chan struct{}),
		ended:    make(chan struct{}),
	}
	if cfg.Dev {
		s.lines = newLines()
	}
	s.logins.init()
	s.quota.init(&cfg)
	if err := s.certificate.load(cfg); err != nil {
		return nil, fmt.Errorf("server: %w", err)
	}
	if err := s.openRecords(); err != nil {
		return nil, fmt.Errorf("server: %w", err)
	}
	s.ctx, s.kill = context.WithCancel(context.Background())
	s.metrics = newMetrics(s)
	s.transfers = newTransfers(s)
	s.mux = s.routes()
	if s.cluster, err = newCluster(s); err != nil {
		s.kill()
		s.transfers.close()
		return nil, fmt.Errorf("server: %w", err)
	}
	s.start("shed", s.shedLoop)
	s.audit.start(s.metrics)
	s.cluster.start()
	return s, nil
}

// Reload takes the apps' keys, issuers and MaxFileBytes, the certificate, the Limits
// and TrustedProxies and the admin token, if cfg has one, from cfg and reads the
// revocations again; everything else stays as it is until a restart. Sessions and
// lanes whose token's key is not there any more, or whose token is revoked, are ended
// with code 21; the others go on, and so does what a new limit would refuse. After an
// error nothing has changed.
func (s *Server) Reload(cfg Config) error {
	if err := cfg.Check(); err != nil {
		return fmt.Errorf("reload: %w", err)
	}
	apps, err := cfg.loadKeys()
	if err != nil {
		return fmt.Errorf("reload: %w", err)
	}
	token, err := cfg.Admin.token()
	if err != nil {
		return fmt.Errorf("reload: %w", err)
	}
	if err := s.revoked.reread(func() error { return s.certificate.load(cfg) }); err != nil {
		return fmt.Errorf("reload: %w", err)
	}
	if !token.IsZero() { // the admin listener is still there when its settings are not
		s.adminToken.Store(&token)
	}
	s.keys.apps.Store(&apps)
	s.quota.reload(&cfg)
	s.distrust()
	return nil
}

// distrust ends all sessions, lanes and waiting requests whose token does not count
// any more, and returns how many sessions that were. It does not wait for clients.
// Whoever comes in after verify had let it pass asks again when it is on the lists
// that are looked through here.
func (s *Server) distrust() (sessions int) {
	for _, sess := range s.all() {
		if sess.distrust() {
			sessions++
		}
	}
	s.transfers.distrust()
	s.keys.tell()
	return sessions
}

// maxFileBytes returns the limit for one file of an app, 0 for none.
func (s *Server) maxFileBytes(app string) int64 {
	if own := s.keys.maxFileBytes(app); own > 0 {
		return own
	}
	return s.cfg.MaxFileBytes
}

// MetricsHandler answers with the metrics in Prometheus' text format.
func (s *Server) MetricsHandler() http.Handler { return s.metrics.handler() }

// listener returns the user's listening session, or nil.
func (s *Server) listener(app, user string) *session {
	sess := s.dir.get(app, user)
	if sess == nil || !sess.live() {
		return nil
	}
	return sess
}

// allow decides whether the holder of c may do something to a target; see authorize.
func (s *Server) allow(ctx context.Context, c claims, verb Verb, target, kind string) *wire.Error {
	if c.elsewhere {
		return nil // its own node has asked
	}
	return authorize(ctx, c, s.cfg.Authorize, Action{Verb: verb, Target: target, Kind: kind})
}

// visible returns the users of an app who are online and whom the token shows.
func (s *Server) visible(ctx context.Context, c claims) []string {
	here := s.dir.users(c.App, func(user string) bool {
		return s.listener(c.App, user) != nil && s.allow(ctx, c, VerbSee, user, "") == nil
	})
	return s.cluster.names(c.App, here, func(user string) bool { return s.allow(ctx, c, VerbSee, user, "") == nil })
}

// remember puts a session on the list of those that Shutdown ends.
func (s *Server) remember(sess *session) *wire.Error {
	instead := sess.role == wire.Role_ROLE_LISTEN && s.dir.get(sess.app, sess.user) != nil
	if refusal := sess.party.session(instead); refusal != nil {
		return refusal
	}
	s.mu.Lock()
	ending := s.ending
	if !ending {
		s.sessions[sess] = struct{}{}
	}
	s.mu.Unlock()
	if ending {
		sess.party.sessionOver()
		return &wire.Error{Code: wire.ServiceFault, Detail: "the server is stopping"}
	}
	s.metrics.sessions.WithLabelValues(sess.labels()...).Inc()
	return nil
}

// forget takes it off again.
func (s *Server) forget(sess *session) {
	s.mu.Lock()
	delete(s.sessions, sess)
	s.mu.Unlock()
	sess.party.sessionOver()
	s.metrics.sessions.WithLabelValues(sess.labels()...).Dec()
}

// labels are the session's role and protocol, for the metrics.
func (s *session) labels() []string {
	labels := []string{"send", "proto"}
	if s.role == wire.Role_ROLE_LISTEN {
		labels[0] = "listen"
	}
	if s.json {
		labels[1] = "json"
	}
	return labels
}

// all returns the sessions of now.
func (s *Server) all() []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*session, 0, len(s.sessions))
	for sess := range s.sessions {
		list = append(list, sess)
	}
	return list
}

// start runs fn on a goroutine that Shutdown waits for, and catches its bugs. It
// reports false if the server has ended.
func (s *Server) start(where string, fn func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.running.Go(func() {
		defer func() {
			if bug := recover(); bug != nil {
				s.caught(where, bug)
			}
		}()
		fn()
	})
	return true
}

// stopping reports whether Shutdown has begun: no new logins, no new offers.
func (s *Server) stopping() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ending
}

// over reports whether everything has ended, and nothing can be written down any more.
func (s *Server) over() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// goAwayDelay is the time over which the clients of a stopping server come back.
const goAwayDelay = 10 * time.Second

// Shutdown ends the server: it announces the end to all sessions, refuses logins
// and offers, lets running transfers go on for Config.ShutdownGrace at most, and
// closes everything. When ctx ends it waits no longer, cuts all connections off
// and returns the cause. It returns nil when everything has ended in order; all
// goroutines of the server have ended in either case. A second call waits for
// the first.
func (s *Server) Shutdown(ctx context.Context) error {
	var err error
	s.shutdown.Do(func() {
		defer close(s.ended)
		err = s.stop(ctx)
	})
	<-s.ended
	return err
}

// idlePause is how often a stopping server looks whether transfers still run.
const idlePause = 50 * time.Millisecond

// awaitIdle waits until no transfer is under way.
func (s *Server) awaitIdle(ctx context.Context) {
	look := time.NewTicker(idlePause)
	defer look.Stop()
	for !s.transfers.idle() {
		select {
		case <-look.C:
		case <-ctx.Done():
			return
		}
	}
}

func (s *Server) stop(ctx context.Context) error {
	s.mu.Lock()
	s.ending = true
	s.mu.Unlock()
	s.log.Info("stopping", "sessions", len(s.all()), "grace", s.cfg.ShutdownGrace)
	if s.hasCrashed() {
		return s.close(ctx, 0)
	}
	goAway := &wire.Frame{Body: &wire.Frame_GoAway{GoAway: &wire.GoAway{DelayMs: uint32(goAwayDelay.Milliseconds())}}}
	for _, sess := range s.all() {
		_ = sess.send(goAway)
	}
	return s.close(ctx, s.cfg.ShutdownGrace)
}

// close ends everything, after at most so long for what runs.
func (s *Server) close(ctx context.Context, wait time.Duration) error {
	s.logins.close()

	grace, cancel := context.WithTimeout(ctx, wait)
	s.awaitIdle(grace)
	cancel()

	for _, sess := range s.all() {
		sess.close(closeRestart)
	}
	s.transfers.close()
	s.cluster.leave()
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	close(s.quota.done)
	// A link's orderly end takes 5 s at most, whatever its client does.
	stopKilling := context.AfterFunc(ctx, s.kill)
	defer stopKilling()
	s.running.Wait()
	s.cluster.close(ctx)
	s.audit.close(ctx)
	s.kill()
	return context.Cause(ctx)
}
