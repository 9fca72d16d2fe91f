package server

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/dian-im/dian/internal/memnet"
	"github.com/dian-im/dian/internal/wire"
)

// A gatherer reads what comes to a peer, for tests in a bubble: once everybody
// waits, what was sent has arrived.
type gatherer struct {
	mu     sync.Mutex
	frames []*wire.Frame
	err    error
}

// gather reads for a peer from now on; nobody else may.
func (p *testPeer) gather() *gatherer {
	g := &gatherer{}
	p.conn.SetReadDeadline(time.Time{})
	go func() {
		for {
			f, err := p.read()
			g.mu.Lock()
			if g.err = err; err == nil {
				g.frames = append(g.frames, f)
			}
			g.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return g
}

// take returns what has come since the last time.
func (g *gatherer) take() []*wire.Frame {
	synctest.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	frames := g.frames
	g.frames = nil
	return frames
}

// over returns why the connection has ended, or nil.
func (g *gatherer) over() error {
	synctest.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

// codes returns the codes of the results, verdicts and lists among what has come.
func (g *gatherer) codes() (codes []wire.Code) {
	for _, f := range g.take() {
		switch b := f.Body.(type) {
		case *wire.Frame_CommandResult:
			codes = append(codes, wire.Code(b.CommandResult.Code))
		case *wire.Frame_Verdict:
			codes = append(codes, wire.Code(b.Verdict.Code))
		case *wire.Frame_PresenceList:
			codes = append(codes, wire.Code(b.PresenceList.Code))
		}
	}
	return codes
}

// occurs returns how many of codes are code.
func occurs(codes []wire.Code, code wire.Code) (n int) {
	for _, c := range codes {
		if c == code {
			n++
		}
	}
	return n
}

// An addressed is a listener in memory whose connections come from where a test
// says.
type addressed struct {
	*memnet.Listener

	mu   sync.Mutex
	from netip.Addr            // of the next ones
	of   map[string]netip.Addr // by memnet's own address
}

func newAddressed() *addressed {
	l := &addressed{Listener: memnet.Listen(), from: netip.MustParseAddr("192.0.2.1"), of: map[string]netip.Addr{}}
	l.OnDial = func(_, server *memnet.Conn) error {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.of[server.RemoteAddr().String()] = l.from
		return nil
	}
	return l
}

func (l *addressed) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	remote := conn.RemoteAddr().String()
	port := netip.MustParseAddrPort(remote).Port()
	return &addressedConn{conn, netip.AddrPortFrom(l.of[remote], port)}, nil
}

type addressedConn struct {
	net.Conn
	remote netip.AddrPort
}

func (c *addressedConn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }

// A crowd is many clients of one relay in a bubble.
type crowd struct {
	*testRelay
	ln *addressed

	// Of those who come next.
	life  time.Duration // of their tokens
	place byte          // where they listen
}

func newCrowd(t testing.TB, change ...func(*Config)) *crowd {
	ln := newAddressed()
	c := &crowd{testRelay: startRelay(t, ln, change...), ln: ln, life: 24 * time.Hour, place: 1}
	c.web.Transport.(*http.Transport).DisableKeepAlives = true // each request from its own address
	return c
}

// from says where the next connections come from.
func (c *crowd) from(address string) *crowd {
	c.ln.mu.Lock()
	defer c.ln.mu.Unlock()
	c.ln.from = netip.MustParseAddr(address)
	return c
}

// A guest is one client of a crowd.
type guest struct {
	*testPeer
	*gatherer
	app, user string
}

// enter logs in and returns the code of the refusal, if it is one. A frame or
// problem document has to say it.
func (c *crowd) enter(app, user string, role wire.Role) (*guest, wire.Code) {
	c.t.Helper()
	d := websocket.Dialer{NetDialContext: c.ln.DialContext, Subprotocols: []string{wire.ProtoSubprotocol}}
	conn, resp, err := d.Dial("ws://relay.example/v1/session", nil)
	if err != nil {
		if resp == nil || resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
			c.t.Fatalf("the upgrade fails with %v, %v, want 503 and Retry-After", err, resp)
		}
		body, _ := io.ReadAll(resp.Body)
		var p problem
		if json.Unmarshal(body, &p) != nil {
			c.t.Fatalf("the upgrade is refused with %s", body)
		}
		return nil, p.Code
	}
	c.t.Cleanup(func() { conn.Close() })
	p := &testPeer{t: c.t, conn: conn}
	hello := sendHello(relayToken(c.t, app, user, c.life, nil, []string{"*"}))
	if hello.Role = role; role == wire.Role_ROLE_LISTEN {
		hello.Instance = instanceOf(c.place)
	}
	p.send(helloFrame(hello))
	f := p.next()
	if off := f.GetLineOff(); off != nil {
		p.ended(websocket.ClosePolicyViolation)
		return nil, wire.Code(off.Code)
	}
	if p.welcome = f.GetWelcome(); p.welcome == nil {
		c.t.Fatalf("%v for a Hello", f)
	}
	return &guest{p, p.gather(), app, user}, wire.OK
}

func (c *crowd) sends(user string) *guest   { return c.comes("app", user, wire.Role_ROLE_SEND) }
func (c *crowd) listens(user string) *guest { return c.comes("app", user, wire.Role_ROLE_LISTEN) }

// comes is enter for those who are let in.
func (c *crowd) comes(app, user string, role wire.Role) *guest {
	c.t.Helper()
	g, code := c.enter(app, user, role)
	if code != wire.OK {
		c.t.Fatalf("login of %s: %d", user, code)
	}
	return g
}

// leaves ends the guest's connection.
func (g *guest) leaves() {
	g.conn.Close()
	synctest.Wait()
}

// says sends frames and returns the codes that come back at once.
func (g *guest) says(frames ...*wire.Frame) []wire.Code {
	g.t.Helper()
	g.send(frames...)
	return g.codes()
}

// acksAll answers all commands that came to the guest.
func (g *guest) acksAll() (n int) {
	for _, f := range g.take() {
		if c := f.GetCommand(); c != nil {
			g.send(ackFrame(&wire.CommandAck{Ref: c.Ref, Id: c.Id, Outcome: final}))
			n++
		}
	}
	synctest.Wait()
	return n
}

// used returns what all use of something.
func (c *crowd) used(n count) int64 {
	synctest.Wait()
	return c.srv.quota.all.used[n].Load()
}

// refusals returns how often a limit was reached.
func (c *crowd) refusals(limit string, s scope) int {
	c.t.Helper()
	n, err := strconv.Atoi(c.counter(`dian_limit_refusals_total{limit="` + limit + `",scope="` + scopeNames[s] + `"}`))
	if err != nil {
		c.t.Fatalf("%s of %s is not counted", limit, scopeNames[s])
	}
	return n
}

func commandTo(user string, bytes int) *wire.Frame {
	return commandFrame(&wire.Command{Id: wire.NewSendID(), Target: user, Data: make([]byte, bytes)})
}

func offerTo(user string) *wire.Offer {
	return &wire.Offer{SendId: wire.NewSendID(), Target: user, Kind: wire.Kind_KIND_FILE, Size: 10, Name: "x"}
}

func offerFrame(o *wire.Offer) *wire.Frame { return &wire.Frame{Body: &wire.Frame_Offer{Offer: o}} }
