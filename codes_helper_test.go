package dian_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dian-im/dian"
	"github.com/dian-im/dian/diantest"
	"github.com/dian-im/dian/internal/memnet"
	"github.com/dian-im/dian/server"
)

// nothingKept wants neither a file nor a part of one in a receive folder.
func nothingKept(t *testing.T, dir string) {
	t.Helper()
	for _, ending := range []string{"*.file", "*.part"} {
		if left, _ := filepath.Glob(filepath.Join(dir, ending)); len(left) > 0 {
			t.Errorf("left in the receive folder: %v", left)
		}
	}
}

func mustEndOneOf(t *testing.T, task *dian.Task, want ...dian.Code) dian.Result {
	t.Helper()
	wait(t, task.Done())
	r := task.Result()
	for _, code := range want {
		if dian.CodeOf(r.Err) == code {
			return r
		}
	}
	t.Errorf("result is %v, want one of %v", r.Err, want)
	return r
}

// What the cases are made of.

// takesAll accepts everything and looks at nothing.
var takesAll = dian.Handler{
	NotifyCmdData:    func(dian.CmdData) {},
	NotifyBufferData: func(dian.BufferData) {},
	NotifyFileData:   func(dian.FileData) {},
}

// couple is a relay with bob, who has h, and alice, who is returned.
func couple(t *testing.T, h dian.Handler, alice ...dian.Option) *dian.Client {
	t.Helper()
	relay := diantest.New(t, hasty)
	relay.Client("bob", dian.WithHandler(h))
	return relay.Client("alice", alice...)
}

// connected logs in at any URL. end closes the client.
func connected(t *testing.T, at string, opts ...dian.Option) (c *dian.Client, end func()) {
	t.Helper()
	c, err := dian.Connect(t.Context(), at, append([]dian.Option{dian.WithReceiveDir(t.TempDir())}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	return c, func() { c.Close() }
}

// login logs in and out and returns why that failed.
func login(t *testing.T, at string, opts ...dian.Option) error {
	t.Helper()
	c, err := dian.Connect(t.Context(), at, append([]dian.Option{dian.WithReceiveDir(t.TempDir())}, opts...)...)
	if err == nil {
		c.Close()
	}
	return err
}

// loginBeyondUpgrade logs in on a connection that has a fault from the end of the
// WebSocket upgrade on, with a context that ends after d.
func loginBeyondUpgrade(t *testing.T, d time.Duration, fault func(*memnet.Conn)) (err error) {
	t.Helper()
	relays(t, func(t *testing.T, r *relay) {
		dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
			c, err := r.l.Dial(ctx)
			if err != nil {
				return nil, err
			}
			return &upgraded{Conn: c.(*memnet.Conn), fault: fault}, nil
		}
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		_, err = dian.Connect(ctx, "http://127.0.0.1:7700", dian.WithToken(devToken(t, "alice")), dian.WithSendOnly(),
			dian.WithHTTPClient(&http.Client{Transport: &http.Transport{DialContext: dial}}))
		r.l.CutAll()
	})
	return err
}

// upgraded is a connection that breaks when it has become a WebSocket.
type upgraded struct {
	*memnet.Conn
	fault func(*memnet.Conn)
}

func (u *upgraded) Read(p []byte) (int, error) {
	n, err := u.Conn.Read(p)
	if bytes.Contains(p[:n], []byte("101 Switching Protocols")) {
		u.fault(u.Conn)
	}
	return n, err
}

// bareRelay is a server that the test may shut down.
func bareRelay(t *testing.T) (*server.Server, *httptest.Server) {
	t.Helper()
	cfg := server.DevConfig()
	hasty(&cfg)
	relay, err := server.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(relay)
	t.Cleanup(func() {
		relay.Shutdown(context.Background())
		web.CloseClientConnections()
		web.Close()
	})
	return relay, web
}

func devToken(t *testing.T, user string) string {
	t.Helper()
	token, err := server.DevToken(user)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

const ownSecret = "a secret of the test's own, of 32 bytes and more"

func ownKey() server.Key {
	return server.Key{Algorithm: server.HS256, Secret: server.NewSecret([]byte(ownSecret))}
}

// ownRelay has, besides the app of diantest, the app "own", whose key the test knows.
func ownRelay(t *testing.T) *diantest.Server {
	t.Helper()
	return diantest.New(t, func(cfg *server.Config) {
		cfg.Apps = append(cfg.Apps, server.App{ID: "own", Keys: []server.Key{ownKey()}})
	})
}

func ownToken(t *testing.T, user string, send []string) string {
	t.Helper()
	token, err := server.Mint(ownKey(), "own", user, time.Hour, send, nil)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// sign makes an HS256 token of any claims.
func sign(t *testing.T, secret string, claims map[string]any) string {
	t.Helper()
	body, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	text := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + base64.RawURLEncoding.EncodeToString(body)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(text))
	return text + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// call does an HTTP request as alice and makes an error of a problem document.
func call(t *testing.T, relay *diantest.Server, method, path, body string, header ...string) error {
	t.Helper()
	return tus(t, relay, method, path, body, nil, header...)
}

// tus is call for an upload; place gets the Location of a new one.
func tus(t *testing.T, relay *diantest.Server, method, path, body string, place *string, header ...string) error {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, relay.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+relay.Token("alice"))
	request.Header.Set("Tus-Resumable", "1.0.0")
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode < 300 {
		if place != nil {
			*place = response.Header.Get("Location")
		}
		return nil
	}
	var problem struct {
		Code   dian.Code
		Detail string
	}
	if err := json.Unmarshal(text, &problem); err != nil {
		t.Fatalf("HTTP %d: %q is no problem document: %v", response.StatusCode, text, err)
	}
	return &dian.Error{Op: method, Origin: dian.Server, Code: problem.Code, Detail: problem.Detail}
}

// dialing wraps every connection of a client.
func dialing(wrap func(net.Conn) net.Conn) dian.Option {
	return dian.WithHTTPClient(&http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return wrap(c), nil
		},
	}})
}

// unsent gives a client a task and sees that no byte leaves it and no question
// reaches the server.
func unsent(t *testing.T, send func(alice *dian.Client) *dian.Task) error {
	t.Helper()
	var asked, wrote atomic.Int64
	relay := diantest.New(t, func(cfg *server.Config) {
		cfg.Authorize = func(context.Context, server.Action) error { asked.Add(1); return nil }
	})
	relay.Client("bob", dian.WithHandler(takesAll))
	alice := relay.Client("alice", dialing(func(c net.Conn) net.Conn { return &counting{c, &wrote} }))
	mustEnd(t, alice.SendCmd("bob", nil), dian.OK)
	asks, bytes := asked.Load(), wrote.Load()
	if asks != 1 || bytes == 0 {
		t.Errorf("a command took %d questions and %d bytes", asks, bytes)
	}
	err := send(alice).Wait(t.Context())
	if asked.Load() != asks || wrote.Load() != bytes {
		t.Errorf("%d questions and %d bytes left the client", asked.Load()-asks, wrote.Load()-bytes)
	}
	mustEnd(t, alice.SendCmd("bob", nil), dian.OK) // it was not in the way of the next one
	return err
}

// counting counts what is written.
type counting struct {
	net.Conn
	n *atomic.Int64
}

func (c *counting) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p))) // before: its answer may be here when Write returns
	return c.Conn.Write(p)
}

// malformed gives send every user id that is none (case 20), and returns the last error.
func malformed(t *testing.T, send func(alice *dian.Client, user string) error) (last error) {
	t.Helper()
	alice := couple(t, takesAll)
	for _, user := range []string{
		"", "bob\r\nX: y", "bob\n", "\rbob", "bob\x00", "\x00", "\u202Ebob", "b\u200Bob", "bob\u2028", "\uFEFFbob",
		" bob", "bob ", "\u00A0bob", ".", "..", "bob\xff", "bo\u0308b", "e\u0301", "\x1b[31mbob", "bob\u0085", "\uFFFF",
		strings.Repeat("x", 129), strings.Repeat("ä", 129), strings.Repeat("x", 1024), strings.Repeat("x", 1<<20),
	} {
		err := send(alice, user)
		if dian.CodeOf(err) != dian.ErrBadTarget {
			t.Errorf("%.40q: %v, want %v", user, err, dian.ErrBadTarget)
			continue
		}
		if text := err.Error(); strings.ContainsAny(text, "\r\n\x00\x1b") || strings.Contains(text, "\u202E") || strings.Contains(text, "\u200B") {
			t.Errorf("%.40q: the error's text is not fit for a terminal: %q", user, text)
		}
		last = err
	}
	for _, user := range []string{strings.Repeat("ä", 128), "a.b*c>d/e@f", "..."} { // good ones
		if err := send(alice, user); dian.CodeOf(err) == dian.ErrBadTarget {
			t.Errorf("%.40q: %v", user, err)
		}
	}
	return last
}

func sendEverything(alice *dian.Client, user string) error {
	file := alice.SendReader(user, strings.NewReader("x"), 1)
	buffer := alice.SendBuffer(user, []byte("x"))
	command := alice.SendCmd(user, []byte("x"))
	<-file.Done()
	<-buffer.Done()
	<-command.Done()
	a, b, c := file.Result().Err, buffer.Result().Err, command.Result().Err
	if dian.CodeOf(a) != dian.CodeOf(c) || dian.CodeOf(b) != dian.CodeOf(c) {
		return fmt.Errorf("file %v, buffer %v, command %v", a, b, c)
	}
	return c
}

// tooLarge is a proxy that refuses uploads without a word of ours.
type tooLarge struct{}

func (tooLarge) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method != http.MethodPatch {
		return http.DefaultTransport.RoundTrip(r)
	}
	r.Body.Close()
	return &http.Response{StatusCode: http.StatusRequestEntityTooLarge, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{}, Body: io.NopCloser(strings.NewReader("<html>413</html>")), Request: r}, nil
}

// flipping flips one bit in the content of an upload.
type flipping struct {
	net.Conn
	flips *atomic.Int64
	lane  bool
}

func (f *flipping) Write(p []byte) (int, error) {
	if bytes.HasPrefix(p, []byte("PATCH ")) {
		f.lane = true
	} else if f.lane && len(p) > 0 && f.flips.CompareAndSwap(0, 1) {
		p = bytes.Clone(p)
		p[len(p)/2] ^= 1
	}
	return f.Conn.Write(p)
}

var errBroken = errors.New("broken")

// failing is a pattern that cannot be read behind an offset.
type failing struct {
	pattern
	at int64
}

func (f failing) ReadAt(b []byte, off int64) (int, error) {
	if off+int64(len(b)) > f.at {
		return 0, errBroken
	}
	return f.pattern.ReadAt(b, off)
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errBroken }

// gatedWrites lets a client write so many bytes, and then nothing until it is opened.
type gatedWrites struct {
	mu      sync.Mutex // guards left
	left    int
	once    sync.Once
	done    sync.Once
	reached chan struct{}
	open    chan struct{}
}

func (g *gatedWrites) wrap(c net.Conn) net.Conn { return &gatedConn{c, g} }

func (g *gatedWrites) release() { g.done.Do(func() { close(g.open) }) }

type gatedConn struct {
	net.Conn
	g *gatedWrites
}

func (c *gatedConn) Write(p []byte) (int, error) {
	c.g.mu.Lock()
	c.g.left -= len(p)
	shut := c.g.left < 0
	c.g.mu.Unlock()
	if shut {
		c.g.once.Do(func() { close(c.g.reached) })
		<-c.g.open
	}
	return c.Conn.Write(p)
}
