package dian

import (
	"context"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
	"google.golang.org/protobuf/proto"

	"github.com/dian-im/dian/internal/link"
	"github.com/dian-im/dian/internal/memnet"
	"github.com/dian-im/dian/internal/wire"
)

// A script is a server in memory whose sessions the test plays itself: what a
// real server does only now and then, it does when told to.
type script struct {
	t        *testing.T
	l        *memnet.Listener
	srv      *http.Server
	sessions chan *scripted
	running  sync.WaitGroup

	mu     sync.Mutex // guards what follows
	answer func(*wire.Hello) *wire.Frame
	full   bool // refuses upgrades
	epoch  uint64
}

// A scripted is the server's end of one session.
type scripted struct {
	t      *testing.T
	hello  *wire.Hello
	l      *link.Link
	frames chan *wire.Frame
}

// newScript serves until end. It must be made inside the test's bubble.
func newScript(t *testing.T) *script {
	s := &script{t: t, l: memnet.Listen(), sessions: make(chan *scripted, 100)}
	s.srv = &http.Server{Handler: s}
	s.running.Go(func() { s.srv.Serve(s.l) })
	return s
}

func (s *script) end() {
	s.srv.Close()
	s.l.CutAll()
	s.running.Wait()
}

// reply makes s answer each Hello with what f returns; nil restores Welcome.
func (s *script) reply(f func(*wire.Hello) *wire.Frame) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = f
}

// refuse makes s refuse upgrades with 1111, or not any more.
func (s *script) refuse(full bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.full = full
}

func (s *script) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	full := s.full
	s.mu.Unlock()
	if full {
		w.Header().Set("Content-Type", "application/problem+json")
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusServiceUnavailable)
		w.Write([]byte(`{"type":"about:blank","title":"over a limit","status":503,"code":1111}`))
		return
	}
	upgrader := websocket.Upgrader{Subprotocols: []string{wire.ProtoSubprotocol}}
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	f, err := link.ReadFirst(conn, false, wire.LoginBytes, 10*time.Second)
	if err != nil {
		conn.Close()
		return
	}
	s.mu.Lock()
	s.epoch++
	answer := welcomeFrame(s.epoch)
	if s.answer != nil {
		answer = s.answer(f.GetHello())
	}
	s.mu.Unlock()
	if answer == nil { // never
		s.running.Go(func() {
			conn.NextReader()
			conn.Close()
		})
		return
	}
	if answer.GetWelcome() == nil {
		link.Refuse(conn, false, answer, websocket.CloseNormalClosure)
		return
	}
	if err := link.WriteFirst(conn, false, answer, time.Second); err != nil {
		conn.Close()
		return
	}
	p := &scripted{t: s.t, hello: f.GetHello(), frames: make(chan *wire.Frame, 10000)}
	p.l = link.New(conn, link.Config{Handle: func(f *wire.Frame) error { p.frames <- proto.CloneOf(f); return nil }})
	s.running.Go(func() { p.l.Run(context.Background()) })
	s.sessions <- p
}

func welcomeFrame(epoch uint64) *wire.Frame {
	return &wire.Frame{Body: &wire.Frame_Welcome{Welcome: &wire.Welcome{
		User: "alice", App: "demo", Epoch: epoch, HeartbeatMs: 25000,
	}}}
}

func lineOffFrame(code Code) *wire.Frame {
	return &wire.Frame{Body: &wire.Frame_LineOff{LineOff: &wire.LineOff{Code: uint32(code)}}}
}

// session returns the next session that has logged in.
func (s *script) session() *scripted {
	s.t.Helper()
	select {
	case p := <-s.sessions:
		return p
	case <-time.After(time.Hour):
		s.t.Fatal("no session")
		return nil
	}
}

// connect is Connect to s for a client that only sends, unless options say more.
func (s *script) connect(opts ...Option) (*Client, error) {
	all := append([]Option{WithToken("t"), WithSendOnly(), WithHTTPClient(&http.Client{
		Transport: &http.Transport{DialContext: s.l.DialContext},
	})}, opts...)
	return Connect(s.t.Context(), "http://relay.mem", all...)
}

// pair returns a client and the server's end of its session.
func (s *script) pair(opts ...Option) (*Client, *scripted) {
	s.t.Helper()
	c, err := s.connect(opts...)
	if err != nil {
		s.t.Fatal(err)
	}
	return c, s.session()
}

func (p *scripted) send(f *wire.Frame) {
	p.t.Helper()
	if err := p.l.Send(f); err != nil {
		p.t.Error(err)
	}
}

// next returns the next frame from the client.
func (p *scripted) next() *wire.Frame {
	p.t.Helper()
	select {
	case f := <-p.frames:
		return f
	case <-time.After(time.Hour):
		p.t.Fatal("no frame")
		return nil
	}
}

func (p *scripted) command() *wire.Command {
	p.t.Helper()
	f := p.next()
	if f.GetCommand() == nil {
		p.t.Fatalf("frame %v, want a command", f)
	}
	return f.GetCommand()
}

func (p *scripted) result(c *wire.Command, outcome wire.CommandOutcome, code Code, origin wire.Origin) {
	p.t.Helper()
	p.send(&wire.Frame{Body: &wire.Frame_CommandResult{CommandResult: &wire.CommandResult{
		Id: c.Id, Outcome: outcome, Code: uint32(code), Origin: origin}}})
}

func (p *scripted) ok(c *wire.Command) {
	p.t.Helper()
	p.result(c, wire.CommandOutcome_COMMAND_OUTCOME_FINAL, OK, wire.Origin_ORIGIN_PEER)
}

// scripts runs f in a bubble with a script.
func scripts(t *testing.T, f func(t *testing.T, s *script)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t)
		defer s.end()
		f(t, s)
	})
}

// refusing is an address where nobody listens.
func refusing(context.Context, string, string) (net.Conn, error) {
	return nil, &net.OpError{Op: "dial", Err: net.ErrClosed}
}
