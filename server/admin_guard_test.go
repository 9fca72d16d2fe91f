package server

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

// TestAdminWantsItsToken: each route, with each thing that is not the token (case 33).
func TestAdminWantsItsToken(t *testing.T) {
	sink := &testSink{}
	rt := newRelayTest(t, false, func(c *Config) {
		c.Admin.Token, c.Admin.Pprof = NewSecret([]byte(testAdminToken)), true
		c.Audit.Writer = sink
	})
	h := rt.srv.AdminHandler()
	routes := []string{
		"GET /admin/v1/sessions", "GET /admin/v1/transfers", "POST /admin/v1/kick", "POST /admin/v1/cancel", "POST /admin/v1/revocations",
		"GET /admin/v1/revocations", "DELETE /admin/v1/revocations/0123456789abcdef", "GET /debug/pprof/heap", "GET /nothing", "GET /",
	}
	user := tokenOf(t, "demo", "alice")
	tried := 0
	for _, route := range routes {
		method, path, _ := strings.Cut(route, " ")
		for _, authorization := range []string{
			"", "Bearer", "Bearer ", "Bearer x", "Bearer " + testAdminToken + "x", "Bearer " + testAdminToken[1:], "Basic " + testAdminToken,
			testAdminToken, "Bearer " + user, "Ticket " + testAdminToken,
		} {
			r := adminRequest(method, path, "", "{}")
			if authorization != "" {
				r.Header.Set("Authorization", authorization)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			wantProblem(t, w.Result(), w.Body.String(), http.StatusUnauthorized, wire.WrongCredentials)
			tried++
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, adminRequest(method, path, testAdminToken, "{}"))
		if w.Code == http.StatusUnauthorized {
			t.Errorf("%s with the token: %d", route, w.Code)
		}
	}
	next := DevConfig() // the token is changed while it runs
	next.Admin.Token = NewSecret([]byte("another-admin-token-of-at-least-32-characters"))
	if err := rt.srv.Reload(next); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, adminRequest("GET", "/admin/v1/sessions", testAdminToken, ""))
	if w.Code != http.StatusUnauthorized {
		t.Errorf("the old token after Reload: %d", w.Code)
	}
	if err := rt.srv.Reload(DevConfig()); err != nil { // the setting is taken away, and the listener is still there
		t.Fatal(err)
	}
	w = httptest.NewRecorder()
	h.ServeHTTP(w, adminRequest("GET", "/admin/v1/sessions", "", ""))
	if w.Code != http.StatusUnauthorized {
		t.Errorf("no token after a Reload without one: %d", w.Code)
	}
	rt.stop()
	refused := 0
	for _, l := range sink.events(t, auditAdmin) {
		if l.Action == "login" && l.Code == int64(wire.WrongCredentials) {
			refused++
		}
	}
	counted := 0 // beyond what has lines
	for _, l := range sink.events(t, auditLost) {
		counted += int(l.RefusedLogins)
	}
	if refused < auditRefusalsAtOnce || refused+counted != tried+2 {
		t.Errorf("%d refusals in the audit and %d counted, of %d", refused, counted, tried+2)
	}
}

func TestAdminRefusesBrowsers(t *testing.T) { // case 114
	rt := newRelayTest(t, false, nil)
	h := rt.srv.AdminHandler()
	for _, header := range []string{"Origin", "Sec-Fetch-Mode"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, adminRequest("GET", "/admin/v1/sessions", "", "", header, "null"))
		if w.Code != http.StatusForbidden {
			t.Errorf("%s: %d", header, w.Code)
		}
	}
	w := httptest.NewRecorder() // what a form can send without asking
	h.ServeHTTP(w, adminRequest("POST", "/admin/v1/kick", "", `{"app":"demo","user":"bob"}`, "Content-Type", "text/plain"))
	if w.Code != http.StatusBadRequest {
		t.Errorf("a form: %d", w.Code)
	}
}

// TestAdminIsNotOnThePublicListener (case 14).
func TestAdminIsNotOnThePublicListener(t *testing.T) {
	rt := newRelayTest(t, false, func(c *Config) { c.Admin.Pprof = true })
	for _, path := range []string{"/admin/v1/sessions", "/admin/v1/transfers", "/admin/v1/revocations", "/debug/pprof/heap", "/debug/pprof/"} {
		rt.want(rt.do(rt.request("GET", path, "alice", nil)), 404)
	}
	rt.want(rt.do(rt.request("POST", "/admin/v1/kick", "alice", strings.NewReader("{}"))), 404)
}

func TestAdminAnswersAreBounded(t *testing.T) {
	rt := newRelayTest(t, false, nil)
	h := rt.srv.AdminHandler().(*admin)
	for range maxAdminRequests {
		h.running <- struct{}{}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, adminRequest("GET", "/admin/v1/sessions", "", ""))
	wantProblem(t, w.Result(), w.Body.String(), http.StatusServiceUnavailable, wire.OverLimit)
	for range maxAdminRequests {
		<-h.running
	}
	w = httptest.NewRecorder()
	h.ServeHTTP(w, adminRequest("POST", "/admin/v1/kick", "", `{"app":"`+strings.Repeat("x", maxAdminBody)+`"}`))
	if w.Code != http.StatusBadRequest {
		t.Errorf("a large body: %d", w.Code)
	}
}

// What an operator does has to be in the audit: when that is closed, nothing is
// answered any more.
func TestAdminAnswersNothingAfterTheEnd(t *testing.T) {
	rt := newRelayTest(t, false, nil)
	list := func() *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		rt.srv.AdminHandler().ServeHTTP(w, adminRequest("GET", "/admin/v1/sessions", "", ""))
		return w
	}
	if w := list(); w.Code != http.StatusOK {
		t.Fatalf("before: %d %s", w.Code, w.Body)
	}
	if err := rt.srv.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	w := list()
	wantProblem(t, w.Result(), w.Body.String(), http.StatusServiceUnavailable, wire.ServiceFault)
}

func TestAdminProfilesAreAnOption(t *testing.T) {
	rt := newRelayTest(t, false, nil)
	w := httptest.NewRecorder()
	rt.srv.AdminHandler().ServeHTTP(w, adminRequest("GET", "/debug/pprof/heap", "", ""))
	if w.Code != http.StatusNotFound {
		t.Errorf("without the option: %d", w.Code)
	}
	rt = newRelayTest(t, false, func(c *Config) { c.Admin.Pprof = true })
	h := rt.srv.AdminHandler()
	for path, want := range map[string]int{
		"heap": 200, "goroutine?debug=1": 200, "profile?seconds=0": 200, "cmdline": 400, "x": 400, "heap?debug=9": 400, "profile?seconds=61": 400,
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, adminRequest("GET", "/debug/pprof/"+path, "", ""))
		if w.Code != want || want == 200 && path != "profile?seconds=0" && w.Body.Len() == 0 {
			t.Errorf("%s: %d with %d bytes, want %d", path, w.Code, w.Body.Len(), want)
		}
	}
	// net/http/pprof is not linked: it would be on everybody's DefaultServeMux.
	if _, pattern := http.DefaultServeMux.Handler(adminRequest("GET", "/debug/pprof/cmdline", "", "")); pattern != "" {
		t.Errorf("DefaultServeMux has %q", pattern)
	}
}

func TestAdminSettingsAreChecked(t *testing.T) {
	dir := t.TempDir()
	token := filepath.Join(dir, "token")
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("token", testAdminToken+"\n")
	socket := filepath.Join(dir, "admin.sock")
	ca := newTestCA(t)
	cert, key := ca.write(t, "relay.crt", ca.server.Certificate[0]), ca.writeKey(t, "relay.key", ca.server)
	withTLS := func(c *Config) { c.TLS = TLS{CertFile: cert, KeyFile: key} }
	for _, c := range []struct {
		name   string
		admin  Admin
		change func(*Config)
		want   string // part of the error, or "" for none
	}{
		{"nothing", Admin{}, nil, ""},
		{"a socket", Admin{Listen: socket}, nil, ""},
		{"a socket with a token", Admin{Listen: socket, TokenFile: token}, nil, ""},
		{"a socket with certificates", Admin{Listen: socket, ClientCAFile: cert}, withTLS, "a socket has no TLS"},
		{"loopback", Admin{Listen: "127.0.0.1:0", TokenFile: token}, nil, ""},
		{"loopback 6", Admin{Listen: "[::1]:0", TokenFile: token}, nil, ""},
		{"localhost", Admin{Listen: "localhost:0", TokenFile: token}, nil, ""},
		{"loopback for everybody", Admin{Listen: "127.0.0.1:0"}, nil, "set admin_token_file"},
		{"the network, in the clear", Admin{Listen: "0.0.0.0:0", TokenFile: token}, nil, "set tls.cert and tls.key"},
		{"all addresses", Admin{Listen: ":7702", TokenFile: token}, nil, "set tls.cert and tls.key"},
		{"a name", Admin{Listen: "relay.example.com:7702", TokenFile: token}, nil, "set tls.cert and tls.key"},
		{"the network for everybody", Admin{Listen: "0.0.0.0:0"}, withTLS, "set admin_token_file"},
		{"the network, token and TLS", Admin{Listen: "0.0.0.0:0", TokenFile: token}, withTLS, ""},
		{"the network, certificates", Admin{Listen: "0.0.0.0:0", ClientCAFile: cert}, withTLS, ""},
		{"certificates without TLS", Admin{Listen: "127.0.0.1:0", ClientCAFile: cert}, nil, "needs tls.cert"},
		{"the network in dev mode", Admin{Listen: "0.0.0.0:0", TokenFile: token}, func(c *Config) { withTLS(c); c.Dev = true }, "dev mode"},
		{"no port", Admin{Listen: "localhost", TokenFile: token}, nil, "neither host:port"},
		{"no token file", Admin{TokenFile: filepath.Join(dir, "nothing")}, nil, "admin_token_file: read"},
		{"an empty one", Admin{TokenFile: write("empty", "\n")}, nil, "empty"},
		{"a short one", Admin{TokenFile: write("short", "hunter2")}, nil, "has 7 characters; use 32 to 512"},
		{"a long one", Admin{TokenFile: write("long", strings.Repeat("x", 513))}, nil, "has 513 characters"},
		{"two lines", Admin{TokenFile: write("lines", testAdminToken+"\nx\n")}, nil, "not visible ASCII"},
		{"two tokens", Admin{TokenFile: token, Token: NewSecret([]byte(testAdminToken))}, nil, "give one"},
		{"no authority", Admin{ClientCAFile: token}, nil, "no certificate in the file"},
	} {
		cfg := relayConfig()
		if c.change != nil {
			c.change(&cfg)
		}
		cfg.Admin = c.admin
		err := cfg.Check()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: Check = %v, want %q", c.name, err, c.want)
		}
		if err != nil && (strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), testAdminToken) || strings.Contains(err.Error(), "\n")) {
			t.Errorf("%s: the error has a token, or two lines: %v", c.name, err)
		}
	}
}

// serveAdminTest serves a relay's admin listener and ends it with the test.
func serveAdminTest(t *testing.T, srv *Server) net.Listener {
	t.Helper()
	ln, err := srv.ListenAdmin()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := srv.ServeAdmin(ctx, ln); err != nil {
			t.Errorf("ServeAdmin = %v", err)
		}
	})
	t.Cleanup(func() { cancel(); serving.Wait() })
	return ln
}

func TestAdminSocketIsTheOperatorsAlone(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no modes")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "admin.sock")
	rt := newRelayTest(t, false, func(c *Config) { c.Admin.Listen = path })
	t.Run("serve", func(t *testing.T) {
		serveAdminTest(t, rt.srv)
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 || info.Mode()&os.ModeSocket == 0 {
			t.Fatalf("%v %v, want a socket of mode 0600", info, err)
		}
		if left, _ := os.ReadDir(dir); len(left) != 1 {
			t.Errorf("left in the folder: %v", left)
		}
		web := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}}}
		res, err := web.Get("http://admin/admin/v1/sessions")
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if res.StatusCode != 200 {
			t.Errorf("status %d", res.StatusCode)
		}
		if _, err := rt.srv.ListenAdmin(); err == nil || !strings.Contains(err.Error(), "is in use") {
			t.Errorf("a second one = %v", err)
		}
	})
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after the end: %v", err)
	}
	// One that a killed process left is replaced; what is no socket is not.
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	ln.Close()
	again, err := rt.srv.ListenAdmin()
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := rt.srv.ListenAdmin(); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("over a file = %v", err)
	}
}

// TestAdminOverTLS: an authority of its own, not that of users.
func TestAdminOverTLS(t *testing.T) {
	ca := newTestCA(t)
	sink := &testSink{}
	rt := newRelayTest(t, false, func(c *Config) {
		c.TLS = TLS{CertFile: ca.write(t, "server.crt", ca.server.Certificate[0]), KeyFile: ca.writeKey(t, "server.key", ca.server)}
		c.Admin = Admin{Listen: "127.0.0.1:0", ClientCAFile: ca.write(t, "ca.crt", ca.cert.Raw)}
		c.Audit.Writer = sink
	})
	ln := serveAdminTest(t, rt.srv)
	get := func(web *http.Client) (int, error) {
		res, err := web.Get("https://" + ln.Addr().String() + "/admin/v1/sessions")
		if err != nil {
			return 0, err
		}
		res.Body.Close()
		return res.StatusCode, nil
	}
	if status, err := get(ca.client(t, true)); err != nil || status != 200 {
		t.Errorf("with a certificate: %d %v", status, err)
	}
	if status, err := get(ca.client(t, false)); err == nil {
		t.Errorf("without one: %d", status)
	}
	if status, err := get(newTestCA(t).clientFor(t, ca)); err == nil {
		t.Errorf("with one of another authority: %d", status)
	}
	rt.stop()
	if lines := sink.events(t, auditAdmin); len(lines) != 1 || lines[0].By != "ops" || lines[0].Address != "127.0.0.1" {
		t.Errorf("the audit has %+v, want who it was", lines)
	}
}

// FuzzAdminRequest: no request makes the admin routes panic, or answer with anything
// but JSON.
func FuzzAdminRequest(f *testing.F) {
	f.Add("POST", "/admin/v1/revocations", `{"app":"demo","user":"alice","issuedBefore":"2026-10-01T12:00:00Z"}`)
	f.Add("POST", "/admin/v1/revocations", `{"token":"a.b.c"}`)
	f.Add("POST", "/admin/v1/kick", `{"app":"demo","user":"bob","session":18446744073709551615}`)
	f.Add("POST", "/admin/v1/cancel", `{"sendId":"x","from":"\u0000"}`)
	f.Add("DELETE", "/admin/v1/revocations/0123456789abcdef", "")
	f.Add("GET", "/admin/v1/sessions?app=%00&limit=7&after=99999999999999999999", "")
	f.Add("GET", "/admin/v1/transfers?after=%ff", "")
	f.Add("GET", "/admin//v1/../x", strings.Repeat("[", 10000))
	cfg := DevConfig()
	srv, err := New(cfg)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { srv.Shutdown(context.Background()) })
	h := srv.AdminHandler()
	f.Fuzz(func(t *testing.T, method, path, body string) {
		at, err := url.ParseRequestURI(path)
		if err != nil || !strings.HasPrefix(path, "/") {
			return
		}
		r := &http.Request{Method: method, URL: at, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(body)),
			ContentLength: int64(len(body)), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, RequestURI: path}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code >= 500 && w.Code != 503 || w.Code < 200 {
			t.Errorf("status %d", w.Code)
		}
		if kind := w.Header().Get("Content-Type"); strings.Contains(kind, "json") && !json.Valid(w.Body.Bytes()) {
			t.Errorf("not JSON: %q", w.Body)
		}
		for _, v := range srv.revoked.all(time.Now()) {
			if err := v.check(); err != nil {
				t.Errorf("a revocation is in force that no file could hold: %v", err)
			}
			srv.revoked.lift(v.ID, time.Now())
		}
	})
}
