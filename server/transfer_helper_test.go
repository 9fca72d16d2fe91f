package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/dian-im/dian/internal/wire"
)

const testWait = 10 * time.Second

// relayTest is a server on loopback with an app "demo".
type relayTest struct {
	t    testing.TB
	srv  *Server
	http *httptest.Server
	now  atomic.Pointer[Server] // srv, for requests

	change func(*Config) // of every life; may be nil

	wrap func(http.ResponseWriter, *http.Request) http.ResponseWriter // a middleware; may be nil
}

func (rt *relayTest) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if rt.wrap != nil {
		w = rt.wrap(w, r)
	}
	rt.now.Load().ServeHTTP(w, r)
}

func newRelayTest(t testing.TB, tls bool, change func(*Config)) *relayTest {
	return newRelayTestHTTP(t, tls, false, change)
}

func newRelayTestHTTP(t testing.TB, tls, http2 bool, change func(*Config)) *relayTest {
	rt := &relayTest{t: t, change: change}
	rt.begin()
	rt.http = httptest.NewUnstartedServer(rt)
	if tls {
		rt.http.EnableHTTP2 = http2
		rt.http.StartTLS()
	} else {
		rt.http.Start()
	}
	t.Cleanup(rt.stop)
	return rt
}

func (rt *relayTest) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = rt.srv.Shutdown(ctx)
	rt.http.CloseClientConnections()
	rt.http.Close()
}

// restart replaces the server by one that knows nothing, at the same URL.
func (rt *relayTest) restart() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	old := rt.srv
	_ = old.Shutdown(ctx)
	rt.begin()
}

// begin starts a server.
func (rt *relayTest) begin() {
	cfg := DevConfig()
	cfg.Apps = append(cfg.Apps, App{ID: "other", Keys: []Key{devKey()}})
	cfg.ShutdownGrace = time.Millisecond
	if rt.change != nil {
		rt.change(&cfg)
	}
	srv, err := New(cfg)
	if err != nil {
		rt.t.Fatal(err)
	}
	rt.srv = srv
	rt.now.Store(srv)
}

func tokenOf(t testing.TB, app, user string) string {
	token, err := Mint(devKey(), app, user, time.Hour, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// request makes a request of user with the headers given as pairs.
func (rt *relayTest) request(method, path, user string, body io.Reader, headers ...string) *http.Request {
	rt.t.Helper()
	url := path
	if strings.HasPrefix(path, "/") {
		url = rt.http.URL + path
	}
	r, err := http.NewRequest(method, url, body)
	if err != nil {
		rt.t.Fatal(err)
	}
	if user != "" {
		r.Header.Set("Authorization", "Bearer "+tokenOf(rt.t, "demo", user))
	}
	if method != "GET" && method != "PUT" {
		r.Header.Set("Tus-Resumable", "1.0.0")
	}
	if method == "PATCH" {
		r.Header.Set("Content-Type", tusContentType)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	return r
}

// answer is a response with its body read.
type answer struct {
	status int
	header http.Header
	body   string
	err    error
}

func (rt *relayTest) do(r *http.Request) answer {
	res, err := rt.http.Client().Do(r)
	if err != nil {
		return answer{err: err}
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, res.Header, string(body), err}
}

func (rt *relayTest) want(a answer, status int) answer {
	rt.t.Helper()
	if a.err != nil || a.status != status {
		rt.t.Fatalf("answer = %d %q (%v), want %d", a.status, a.body, a.err, status)
	}
	return a
}

// create makes a transfer by tus and returns its path.
func (rt *relayTest) create(user, target string, size int, metadata string) string {
	rt.t.Helper()
	a := rt.want(rt.do(rt.request("POST", "/v1/users/"+target+"/transfers", user, nil,
		"Upload-Length", strconv.Itoa(size), "Upload-Metadata", metadata)), 201)
	return a.header.Get("Location")
}

func (rt *relayTest) patch(path, user string, p int, body []byte) answer {
	return rt.do(rt.request("PATCH", path, user, bytes.NewReader(body), "Upload-Offset", strconv.Itoa(p)))
}

func (rt *relayTest) head(path, user string) answer {
	return rt.do(rt.request("HEAD", path, user, nil))
}

// rawClient is a session that sends and gets frames as they are.
type rawClient struct {
	t      testing.TB
	rt     *relayTest
	conn   *websocket.Conn
	frames chan *wire.Frame
	mu     sync.Mutex // one writer

	welcome *wire.Welcome
	refused wire.Code
}

func (rt *relayTest) login(app, user string, role wire.Role, instance string) *rawClient {
	rt.t.Helper()
	c := rt.hello(tokenOf(rt.t, app, user), role, instance)
	if c.welcome == nil {
		rt.t.Fatalf("login of %s: no Welcome", user)
	}
	return c
}

// hello tries to log in with a token; welcome is nil if it was refused, and refused
// says why.
func (rt *relayTest) hello(token string, role wire.Role, instance string) *rawClient {
	rt.t.Helper()
	dialer := websocket.Dialer{Subprotocols: []string{wire.JSONSubprotocol}}
	if tr, ok := rt.http.Client().Transport.(*http.Transport); ok {
		dialer.TLSClientConfig = tr.TLSClientConfig.Clone()
		if dialer.TLSClientConfig != nil {
			dialer.TLSClientConfig.NextProtos = nil
		}
	}
	conn, _, err := dialer.Dial("ws"+strings.TrimPrefix(rt.http.URL, "http")+"/v1/session", nil)
	if err != nil {
		rt.t.Fatal(err)
	}
	c := &rawClient{t: rt.t, rt: rt, conn: conn, frames: make(chan *wire.Frame, 4096)}
	c.send(&wire.Frame{Body: &wire.Frame_Hello{Hello: &wire.Hello{
		Token: token, Client: "test", Role: role, Instance: []byte(instance),
	}}})
	go func() {
		defer close(c.frames)
		for {
			_, msg, err := conn.ReadMessage()
			if err != nil {
				return
			}
			f, err := wire.DecodeJSON(msg)
			if err != nil {
				return
			}
			if f.GetPing() != nil {
				c.send(&wire.Frame{Body: &wire.Frame_Pong{Pong: &wire.Pong{}}})
				continue
			}
			c.frames <- f
		}
	}()
	rt.t.Cleanup(func() { conn.Close() })
	f := c.next(func(f *wire.Frame) bool { return f.GetWelcome() != nil || f.GetLineOff() != nil })
	c.welcome, c.refused = f.GetWelcome(), wire.Code(f.GetLineOff().GetCode())
	return c
}

func (c *rawClient) send(f *wire.Frame) {
	msg, err := wire.EncodeJSON(f)
	if err != nil {
		c.t.Error(err)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.conn.WriteMessage(websocket.TextMessage, msg)
}

// next returns the next frame that fits, passing over others.
func (c *rawClient) next(fits func(*wire.Frame) bool) *wire.Frame {
	c.t.Helper()
	f, err := c.tryNext(testWait, fits)
	if err != nil {
		c.t.Fatal(err)
	}
	return f
}

func (c *rawClient) tryNext(wait time.Duration, fits func(*wire.Frame) bool) (*wire.Frame, error) {
	timeout := time.After(wait)
	for {
		select {
		case f, ok := <-c.frames:
			if !ok {
				return nil, errors.New("session ended")
			}
			if fits(f) {
				return f, nil
			}
		case <-timeout:
			return nil, errors.New("no such frame came")
		}
	}
}

func (c *rawClient) verdict() *wire.Verdict {
	c.t.Helper()
	return c.next(func(f *wire.Frame) bool { return f.GetVerdict() != nil }).GetVerdict()
}

func (c *rawClient) accepted() *wire.Accepted {
	c.t.Helper()
	return c.next(func(f *wire.Frame) bool { return f.GetAccepted() != nil }).GetAccepted()
}

func (c *rawClient) offer(o *wire.Offer) { c.send(&wire.Frame{Body: &wire.Frame_Offer{Offer: o}}) }

func (c *rawClient) finish(id string) {
	c.send(&wire.Frame{Body: &wire.Frame_Finish{Finish: &wire.Finish{Transfer: id}}})
}

const (
	placeA = "instance-A-01234"
	placeB = "instance-B-01234"
)

// A diskReceiver is a small honest receiver: it keeps parts, opens lanes, confirms,
// judges. It is what docs/protocol.md §7.3 says, in memory.
type diskReceiver struct {
	*rawClient
	user string

	token    string // "": one of its own each time
	mu       sync.Mutex
	parts    map[string]*receivedPart // by transfer
	cuts     []int                    // a lane breaks after so many bytes, once each
	refuse   uint32
	hold     bool // offers are not answered
	silent   bool // no verdicts
	noLanes  bool
	bounded  int64
	lanes    sync.WaitGroup
	verdicts int
	commands int // that came; they are not acked
}

type receivedPart struct {
	offer    *wire.Offer
	data     []byte
	sync     int64
	finished *wire.Finish
	done     bool
	canceled bool
	running  bool
	again    bool // another lane was asked for while one was about to end
	acked    bool
	ticket   string
}

func (rt *relayTest) receiver(user, instance string) *diskReceiver {
	rt.t.Helper()
	d := &diskReceiver{user: user, parts: map[string]*receivedPart{}}
	d.attach(rt, instance)
	return d
}

// attach logs the receiver in (again).
func (d *diskReceiver) attach(rt *relayTest, instance string) {
	var c *rawClient
	if d.token == "" {
		c = rt.login("demo", d.user, wire.Role_ROLE_LISTEN, instance)
	} else {
		c = rt.hello(d.token, wire.Role_ROLE_LISTEN, instance)
	}
	d.mu.Lock() // lanes of the session before may still run
	d.rawClient = c
	d.mu.Unlock()
	d.lanes.Go(func() {
		for f := range c.frames {
			d.handle(f)
		}
	})
}

func (d *diskReceiver) handle(f *wire.Frame) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch b := f.Body.(type) {
	case *wire.Frame_Command:
		d.commands++
	case *wire.Frame_Offer:
		o := b.Offer
		p := d.parts[o.Transfer]
		if p == nil {
			p = &receivedPart{}
			d.parts[o.Transfer] = p
		}
		p.offer, p.ticket = o, o.Ticket
		switch {
		case d.hold:
		case d.refuse != 0:
			d.send(&wire.Frame{Body: &wire.Frame_Answer{Answer: &wire.Answer{
				Transfer: o.Transfer, Decision: wire.Decision_DECISION_REFUSE, Code: d.refuse, Detail: "no"}}})
		case p.done:
			d.send(&wire.Frame{Body: &wire.Frame_Answer{Answer: &wire.Answer{
				Transfer: o.Transfer, Decision: wire.Decision_DECISION_HAVE, Receipt: wire.Receipt_RECEIPT_STORED}}})
		case p.canceled:
			d.send(&wire.Frame{Body: &wire.Frame_Answer{Answer: &wire.Answer{
				Transfer: o.Transfer, Decision: wire.Decision_DECISION_REFUSE, Code: 1105}}})
		case o.Inlined:
			p.data, p.finished = o.Inline, &wire.Finish{Digest: o.Digest}
			d.judge(o.Transfer, p)
		default:
			d.accept(p)
		}
	case *wire.Frame_Finish:
		if p := d.parts[b.Finish.Transfer]; p != nil {
			p.finished = b.Finish
			d.judge(b.Finish.Transfer, p)
		}
	case *wire.Frame_Sync:
		if p := d.parts[b.Sync.Transfer]; p != nil {
			p.sync = b.Sync.Offset
			d.confirm(b.Sync.Transfer, p)
		}
	case *wire.Frame_VerdictAck:
		if p := d.parts[b.VerdictAck.Transfer]; p != nil {
			p.acked = true
		}
	case *wire.Frame_Cancel:
		p := d.parts[b.Cancel.Transfer]
		if p != nil && p.done {
			d.judge(b.Cancel.Transfer, p)
			return
		}
		if p != nil {
			p.canceled = true
		}
		d.send(&wire.Frame{Body: &wire.Frame_Verdict{Verdict: &wire.Verdict{Transfer: b.Cancel.Transfer, Code: 1105}}})
	case *wire.Frame_Query:
		s := &wire.Standing{Transfer: b.Query.Transfer, State: wire.TransferState_TRANSFER_STATE_UNKNOWN}
		if p := d.parts[b.Query.Transfer]; p != nil {
			p.ticket = b.Query.Ticket
			s.State, s.Offset, s.Size = wire.TransferState_TRANSFER_STATE_PARTIAL, int64(len(p.data)), p.offer.Size
			switch {
			case p.done:
				s.State, s.Receipt = wire.TransferState_TRANSFER_STATE_HAVE, wire.Receipt_RECEIPT_STORED
			case p.canceled:
				s.State = wire.TransferState_TRANSFER_STATE_CANCELLED
			}
			defer d.lane(p)
		}
		d.send(&wire.Frame{Body: &wire.Frame_Standing{Standing: s}})
	}
}

func (d *diskReceiver) accept(p *receivedPart) {
	d.send(&wire.Frame{Body: &wire.Frame_Answer{Answer: &wire.Answer{
		Transfer: p.offer.Transfer, Decision: wire.Decision_DECISION_ACCEPT, Offset: int64(len(p.data)),
		Receipt: wire.Receipt_RECEIPT_STORED}}})
	d.lane(p)
	d.judge(p.offer.Transfer, p)
}

func (d *diskReceiver) confirm(id string, p *receivedPart) {
	if p.sync > 0 && int64(len(p.data)) >= p.sync {
		p.sync = 0
		d.send(&wire.Frame{Body: &wire.Frame_Received{Received: &wire.Received{Transfer: id, Offset: int64(len(p.data))}}})
	}
}

func (d *diskReceiver) judge(id string, p *receivedPart) {
	if p.finished == nil || int64(len(p.data)) != p.offer.Size || p.canceled || d.silent {
		return
	}
	v := &wire.Verdict{Transfer: id, Receipt: wire.Receipt_RECEIPT_STORED, LengthOnly: p.finished.Digest == nil}
	if g := p.finished.Digest; g != nil {
		if sum := sha256.Sum256(p.data); !bytes.Equal(sum[:], g.Value) {
			v.Code, v.Receipt = 1110, 0
		}
	}
	p.done = v.Code == 0
	d.verdicts++
	d.send(&wire.Frame{Body: &wire.Frame_Verdict{Verdict: v}})
}

// lane keeps a down-lane open until the content is whole.
func (d *diskReceiver) lane(p *receivedPart) {
	if p.running {
		p.again = true
	}
	if d.noLanes || p.running || p.done || p.canceled || int64(len(p.data)) >= p.offer.Size {
		return
	}
	p.running = true
	d.lanes.Go(func() {
		for {
			more := d.fetch(p)
			d.mu.Lock()
			if !more && !p.again {
				p.running = false
				d.mu.Unlock()
				return
			}
			p.again = false
			d.mu.Unlock()
		}
	})
}

// fetch runs one down-lane and reports whether another one is needed.
func (d *diskReceiver) fetch(p *receivedPart) bool {
	d.mu.Lock()
	rt := d.rt
	r := rt.request("GET", p.offer.Url, "", nil, "Authorization", "Ticket "+p.ticket)
	spec := fmt.Sprintf("bytes=%d-", len(p.data))
	if d.bounded > 0 {
		spec += strconv.FormatInt(int64(len(p.data))+d.bounded-1, 10)
	}
	r.Header.Set("Range", spec)
	d.mu.Unlock()
	res, err := rt.http.Client().Do(r)
	if err != nil {
		return false
	}
	defer res.Body.Close()
	if res.StatusCode == 503 {
		return true
	}
	if res.StatusCode != 206 {
		return false
	}
	buf := make([]byte, 64<<10)
	for got := 0; ; {
		d.mu.Lock()
		room := len(buf)
		if len(d.cuts) > 0 {
			room = min(room, d.cuts[0]-got)
		}
		d.mu.Unlock()
		n, err := 0, error(nil)
		if room > 0 {
			n, err = res.Body.Read(buf[:room])
		}
		got += n
		d.mu.Lock()
		p.data = append(p.data, buf[:n]...)
		d.confirm(p.offer.Transfer, p)
		d.judge(p.offer.Transfer, p)
		more := int64(len(p.data)) < p.offer.Size && !p.canceled
		if len(d.cuts) > 0 && got >= d.cuts[0] {
			d.cuts = d.cuts[1:]
			d.mu.Unlock()
			return more
		}
		d.mu.Unlock()
		if err != nil {
			return more
		}
	}
}

func (d *diskReceiver) part(path string) *receivedPart {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.parts[strings.TrimPrefix(path, lanePathPrefix)]
}

// received is how many bytes of content are there.
func (d *diskReceiver) received(path string) int {
	p := d.part(path)
	d.mu.Lock()
	defer d.mu.Unlock()
	if p == nil {
		return 0
	}
	return len(p.data)
}

func (d *diskReceiver) content(path string) []byte {
	p := d.part(path)
	d.mu.Lock()
	defer d.mu.Unlock()
	if p == nil {
		return nil
	}
	return append([]byte{}, p.data...)
}

// pattern makes n bytes in which every place looks different.
func testContent(n int) []byte {
	b := make([]byte, n)
	x := uint32(2463534242)
	for i := range b {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		b[i] = byte(x)
	}
	return b
}
