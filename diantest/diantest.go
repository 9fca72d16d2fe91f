// Package diantest gives your own tests a Dian relay with faults on demand.
//
//	func TestMyApp(t *testing.T) {
//		relay := diantest.New(t)
//		bob := relay.Client("bob", dian.WithHandler(dian.Handler{…}))
//		alice := relay.Client("alice")
//		task := alice.SendFile("bob", "photo.jpg")
//		relay.Cut() // every connection breaks; the transfer goes on by itself
//		if err := task.Wait(t.Context()); err != nil { … }
//	}
//
// The relay is the real one, on a loopback address of this process. Nothing
// outlives the test: clients are closed and the relay stopped in its cleanup. It
// uses real connections, so it does not belong inside a synctest bubble.
package diantest

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/dian-im/dian"
	"github.com/dian-im/dian/server"
)

// A Server is a relay in the test's own process. Its methods may be called by
// any goroutine; those that can fail end the test, so call them from the test's own.
type Server struct {
	// URL is the relay's address for dian.Connect and for HTTP. It stays the
	// same over Restart.
	URL string

	t   testing.TB
	cfg server.Config

	mu  sync.Mutex // guards run, over stop and start
	run *run

	failing sync.Mutex  // guards fails; not mu, which a stop holds while sends still ask
	fails   []dian.Code // what the next sends are refused with
}

// run is one life of the relay, from a start to a stop.
type run struct {
	server *server.Server
	ln     *listener
	stop   context.CancelFunc
	served chan error
}

// New starts a relay that ends with the test. Each change may alter its
// configuration, which is server.DevConfig at first; the ShutdownGrace is next to
// nothing unless a change sets it.
func New(t testing.TB, changes ...func(*server.Config)) *Server {
	t.Helper()
	s := &Server{t: t, cfg: server.DevConfig()}
	for _, change := range changes {
		change(&s.cfg)
	}
	if s.cfg.ShutdownGrace == 0 { // what still runs at a Restart or the test's end is cut off
		s.cfg.ShutdownGrace = time.Millisecond
	}
	own := s.cfg.Authorize
	s.cfg.Authorize = func(ctx context.Context, a server.Action) error {
		if code := s.failure(a); code != 0 {
			return &server.Refusal{Code: uint32(code), Detail: "diantest.FailNext"}
		}
		if own != nil {
			return own(ctx, a)
		}
		return nil
	}
	s.mu.Lock()
	s.startLocked("127.0.0.1:0")
	s.URL = "http://" + s.run.ln.Addr().String()
	s.mu.Unlock()
	t.Cleanup(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.stopLocked()
	})
	return s
}

// Client logs user in and closes the client with the test. Its receive folder
// is a new one of the test's, unless an option names another.
func (s *Server) Client(user string, opts ...dian.Option) *dian.Client {
	s.t.Helper()
	client, err := dian.Connect(s.t.Context(), s.URL, append([]dian.Option{
		dian.WithToken(s.Token(user)), dian.WithReceiveDir(s.t.TempDir()),
	}, opts...)...)
	if err != nil {
		s.t.Fatalf("diantest: log %s in: %v", user, err)
	}
	s.t.Cleanup(func() { client.Close() })
	return client
}

// Token returns a token for user, valid for a day. It may send to and see everybody.
func (s *Server) Token(user string) string {
	s.t.Helper()
	token, err := server.DevToken(user)
	if err != nil {
		s.t.Fatalf("diantest: token for %s: %v", user, err)
	}
	return token
}

// Cut breaks every connection with the relay at once, sessions and lanes, as a
// network that fails does. Clients reconnect by themselves.
func (s *Server) Cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.run.ln.cut()
}

// Restart ends the relay without a word and starts a new one at the same
// address, which knows nothing of the one before.
func (s *Server) Restart() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	addr := s.run.ln.Addr().String()
	s.stopLocked()
	s.startLocked(addr)
}

// FailNext lets the relay refuse the next command, buffer or file that anybody
// sends with code. Called several times, it refuses as many in that order.
func (s *Server) FailNext(code dian.Code) {
	s.failing.Lock()
	defer s.failing.Unlock()
	s.fails = append(s.fails, code)
}

// failure takes the code that this action is to be refused with, or 0.
func (s *Server) failure(a server.Action) dian.Code {
	if a.Verb != server.VerbSend {
		return 0
	}
	s.failing.Lock()
	defer s.failing.Unlock()
	if len(s.fails) == 0 {
		return 0
	}
	code := s.fails[0]
	s.fails = s.fails[1:]
	return code
}

func (s *Server) startLocked(addr string) {
	s.t.Helper()
	relay, err := server.New(s.cfg)
	if err != nil {
		s.t.Fatalf("diantest: %v", err)
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		s.t.Fatalf("diantest: %v", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	r := &run{server: relay, ln: &listener{Listener: ln, conns: make(map[*conn]bool)}, stop: stop, served: make(chan error, 1)}
	go func() { r.served <- relay.Serve(ctx, r.ln) }()
	s.run = r
}

// stopLocked cuts everything and waits until the relay has ended. What is open is
// cut first: closing the listener ends the relay, which would announce its end.
func (s *Server) stopLocked() {
	s.run.ln.cut()
	s.run.ln.Close()
	s.run.ln.cut()
	s.run.stop()
	<-s.run.served
}

// listener knows its connections, so that they can be cut.
type listener struct {
	net.Listener

	mu    sync.Mutex // guards conns
	conns map[*conn]bool
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	known := &conn{TCPConn: c.(*net.TCPConn), ln: l}
	l.conns[known] = true
	return known, nil
}

// cut resets all connections.
func (l *listener) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		c.SetLinger(0)
		c.TCPConn.Close()
	}
	clear(l.conns)
}

// conn leaves its listener's list when it is closed.
type conn struct {
	*net.TCPConn
	ln *listener
}

func (c *conn) Close() error {
	c.ln.mu.Lock()
	delete(c.ln.conns, c)
	c.ln.mu.Unlock()
	return c.TCPConn.Close()
}
