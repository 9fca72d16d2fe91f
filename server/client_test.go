package server

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/dian-im/dian/internal/memnet"
	"github.com/dian-im/dian/internal/wire"
)

// relayKey signs the tokens of the apps "app" and "other".
var relayKey = Key{Algorithm: HS256, Secret: NewSecret([]byte("0123456789abcdef0123456789abcdef"))}

func relayConfig() Config {
	return Config{Apps: []App{{ID: "app", Keys: []Key{relayKey}}, {ID: "other", Keys: []Key{relayKey}}}}
}

// dialListener is a listener that tests can dial.
type dialListener interface {
	net.Listener
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// loopback is a TCP listener on 127.0.0.1.
type loopback struct{ net.Listener }

func (l loopback) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
}

// A testRelay is a real server behind a real listener.
type testRelay struct {
	t    testing.TB
	srv  *Server
	ln   dialListener
	web  *http.Client
	stop func() // ends it and waits; may be called twice
}

// memRelay starts a relay on memnet, for tests in a bubble.
func memRelay(t testing.TB, change ...func(*Config)) *testRelay {
	return startRelay(t, memnet.Listen(), change...)
}

// tcpRelay starts a relay on loopback.
func tcpRelay(t testing.TB, change ...func(*Config)) *testRelay {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return startRelay(t, loopback{ln}, change...)
}

func startRelay(t testing.TB, ln dialListener, change ...func(*Config)) *testRelay {
	t.Helper()
	cfg := relayConfig()
	cfg.ShutdownGrace = time.Second
	for _, f := range change {
		f(&cfg)
	}
	srv, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ctx, ln) }()
	transport := &http.Transport{DialContext: ln.DialContext}
	r := &testRelay{t: t, srv: srv, ln: ln, web: &http.Client{Transport: transport}}
	ended := false
	r.stop = func() {
		if ended {
			return
		}
		ended = true
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve = %v", err)
		}
		transport.CloseIdleConnections()
	}
	t.Cleanup(r.stop)
	return r
}

func relayToken(t testing.TB, app, user string, ttl time.Duration, send, see []string) string {
	t.Helper()
	token, err := Mint(relayKey, app, user, ttl, send, see)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// token may send to and see everybody.
func (r *testRelay) token(user string) string {
	return relayToken(r.t, "app", user, 24*time.Hour, nil, []string{"*"})
}

// A testPeer is a raw WebSocket client.
type testPeer struct {
	t       testing.TB
	conn    *websocket.Conn
	json    bool
	waiting []*wire.Frame
	welcome *wire.Welcome

	writing sync.Mutex // read answers pings
	said    time.Time
}

// dial connects without a login.
func (r *testRelay) dial(protocol string) *testPeer {
	r.t.Helper()
	d := websocket.Dialer{NetDialContext: r.ln.DialContext, Subprotocols: []string{protocol}}
	conn, _, err := d.Dial("ws://relay.example/v1/session", nil)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	return &testPeer{t: r.t, conn: conn, json: protocol == wire.JSONSubprotocol}
}

func instanceOf(n byte) []byte { return bytes.Repeat([]byte{n}, wire.InstanceBytes) }

func listenHello(token string, instance byte) *wire.Hello {
	return &wire.Hello{Token: token, Role: wire.Role_ROLE_LISTEN, Instance: instanceOf(instance)}
}

func sendHello(token string) *wire.Hello {
	return &wire.Hello{Token: token, Role: wire.Role_ROLE_SEND}
}

// hello logs in and wants a Welcome.
func (r *testRelay) hello(h *wire.Hello) *testPeer {
	r.t.Helper()
	p := r.dial(wire.ProtoSubprotocol)
	p.send(helloFrame(h))
	p.welcome = p.next().GetWelcome()
	if p.welcome == nil {
		r.t.Fatal("no Welcome")
	}
	return p
}

func (r *testRelay) listen(user string) *testPeer {
	r.t.Helper()
	return r.hello(listenHello(r.token(user), 1))
}

func (r *testRelay) sender(user string) *testPeer {
	r.t.Helper()
	return r.hello(sendHello(r.token(user)))
}

func helloFrame(h *wire.Hello) *wire.Frame { return &wire.Frame{Body: &wire.Frame_Hello{Hello: h}} }

func commandFrame(c *wire.Command) *wire.Frame {
	return &wire.Frame{Body: &wire.Frame_Command{Command: c}}
}

func ackFrame(a *wire.CommandAck) *wire.Frame {
	return &wire.Frame{Body: &wire.Frame_CommandAck{CommandAck: a}}
}

// send writes frames as one message, or as one each in JSON.
func (p *testPeer) send(frames ...*wire.Frame) {
	p.t.Helper()
	if err := p.write(frames...); err != nil {
		p.t.Fatal(err)
	}
}

func (p *testPeer) write(frames ...*wire.Frame) error {
	p.writing.Lock()
	defer p.writing.Unlock()
	p.said = time.Now()
	var msg []byte
	var err error
	for _, f := range frames {
		if p.json {
			if msg, err = wire.EncodeJSON(f); err == nil {
				err = p.conn.WriteMessage(websocket.TextMessage, msg)
			}
		} else {
			msg, err = wire.AppendBinary(msg, f)
		}
		if err != nil {
			return err
		}
	}
	if !p.json {
		if err := p.conn.WriteMessage(websocket.BinaryMessage, msg); err != nil {
			return err
		}
	}
	return nil
}

// read returns the next frame that is no Ping or Pong.
func (p *testPeer) read() (*wire.Frame, error) {
	for {
		for len(p.waiting) > 0 {
			f := p.waiting[0]
			p.waiting = p.waiting[1:]
			switch {
			case f.GetPing() != nil: // silence would end the session
				if err := p.write(&wire.Frame{Body: &wire.Frame_Pong{Pong: &wire.Pong{}}}); err != nil {
					return nil, err
				}
			case f.GetPong() == nil:
				// The relay does not ask while it has something to say itself.
				p.beat()
				return f, nil
			}
		}
		_, msg, err := p.conn.ReadMessage()
		if err != nil {
			return nil, err
		}
		if p.json {
			f, err := wire.DecodeJSON(msg)
			if err != nil {
				return nil, err
			}
			p.waiting = append(p.waiting, f)
			continue
		}
		for f, err := range wire.Frames(msg) {
			if err != nil {
				return nil, err
			}
			p.waiting = append(p.waiting, f)
		}
	}
}

// beat sends a Ping if p has said nothing for a second. What follows tells whether the
// relay has gone.
func (p *testPeer) beat() {
	p.writing.Lock()
	late := time.Since(p.said) > time.Second
	p.writing.Unlock()
	if late {
		_ = p.write(&wire.Frame{Body: &wire.Frame_Ping{Ping: &wire.Ping{}}})
	}
}

// next is read with a bound, and a frame has to come.
func (p *testPeer) next() *wire.Frame {
	p.t.Helper()
	p.conn.SetReadDeadline(time.Now().Add(2 * time.Minute))
	f, err := p.read()
	if err != nil {
		p.t.Fatalf("no frame: %v", err)
	}
	p.conn.SetReadDeadline(time.Time{})
	return f
}

// ended wants the connection to be closed with status and no further frame.
func (p *testPeer) ended(status int) {
	p.t.Helper()
	p.conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	f, err := p.read()
	if err == nil {
		p.t.Fatalf("got %v, want the end", f)
	}
	if c, ok := errors.AsType[*websocket.CloseError](err); !ok || c.Code != status {
		p.t.Fatalf("ended with %v, want close %d", err, status)
	}
}

// lineOff wants a LineOff with code, and the end.
func (p *testPeer) lineOff(code wire.Code) {
	p.t.Helper()
	f := p.next()
	if f.GetLineOff() == nil || wire.Code(f.GetLineOff().Code) != code {
		p.t.Fatalf("got %v, want LineOff(%d)", f, code)
	}
	p.ended(websocket.ClosePolicyViolation)
}

// result wants a CommandResult.
func (p *testPeer) result() *wire.CommandResult {
	p.t.Helper()
	f := p.next()
	if f.GetCommandResult() == nil {
		p.t.Fatalf("got %v, want a CommandResult", f)
	}
	return f.GetCommandResult()
}

// finalCode wants a final CommandResult of the server with code.
func (p *testPeer) finalCode(id string, code wire.Code) {
	p.t.Helper()
	r := p.result()
	if r.Id != id || r.Outcome != wire.CommandOutcome_COMMAND_OUTCOME_FINAL || wire.Code(r.Code) != code ||
		r.Origin != wire.Origin_ORIGIN_SERVER {
		p.t.Fatalf("got %v, want final %d for %s of the server", r, code, id)
	}
}

// command wants a Command.
func (p *testPeer) command() *wire.Command {
	p.t.Helper()
	f := p.next()
	if f.GetCommand() == nil {
		p.t.Fatalf("got %v, want a Command", f)
	}
	return f.GetCommand()
}

// do sends an HTTP request with a user's token, which may be empty.
func (r *testRelay) do(method, path, token string, body io.Reader, headers ...string) (*http.Response, string) {
	r.t.Helper()
	req, err := http.NewRequest(method, "http://relay.example"+path, body)
	if err != nil {
		r.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := r.web.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp, string(data)
}

// wantProblem wants a problem document with status and code.
func wantProblem(t *testing.T, resp *http.Response, body string, status int, code wire.Code) {
	t.Helper()
	if resp.StatusCode != status || !strings.Contains(body, `"code":`+codeLabel(code)+`,`) &&
		!strings.Contains(body, `"code":`+codeLabel(code)+`}`) ||
		resp.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("got %d %s %q, want a problem %d with code %d", resp.StatusCode, resp.Header.Get("Content-Type"), body, status, code)
	}
}

// counter reads one metric; labels as they are printed, such as {result="0"}.
func (r *testRelay) counter(name string) string {
	r.t.Helper()
	_, text := r.do("GET", "/metrics", "", nil)
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
