package server

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

// devServer starts a server of dev mode on a listener and returns its address; served
// gets what Serve returns.
func devServer(t *testing.T, change func(*Config)) (addr string, served chan error) {
	t.Helper()
	cfg := DevConfig()
	change(&cfg)
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served = make(chan error, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		served <- s.Serve(ctx, ln)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return ln.Addr().String(), served
}

// from asks a handler as a client at an address would that has connected to host.
func from(s *Server, method, target, client, host, origin, token, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.RemoteAddr, r.Host = client, host
	local, _ := net.ResolveTCPAddr("tcp", "192.168.1.5:7700")
	r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, net.Addr(local)))
	if origin != "" {
		r.Header.Set("Origin", origin)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

func roomServer(t *testing.T) (*Server, *Room) {
	t.Helper()
	cfg := DevConfig()
	cfg.Room = NewRoom()
	cfg.Room.Opened([]string{"http://192.168.1.5:7700"}, func(string) {})
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Shutdown(context.Background()) })
	return s, cfg.Room
}

const (
	roomName   = "192.168.1.5:7700"
	roomOrigin = "http://" + roomName
	phone      = "192.168.1.77:5000"
)

func code(t *testing.T, room *Room) string {
	t.Helper()
	i, err := room.Invite()
	if err != nil {
		t.Fatal(err)
	}
	_, code, ok := strings.Cut(i.URL, "/#in=")
	if !ok || len(code) < 22 {
		t.Fatalf("invitation %q: not 128 bits behind a #", i.URL)
	}
	return code
}

// From another machine the secret that everybody knows opens nothing, and an invitation
// opens once.
func TestRoomLetsInvitedDevicesIn(t *testing.T) {
	s, room := roomServer(t)
	known, err := DevToken("mallory")
	if err != nil {
		t.Fatal(err)
	}
	if w := from(s, "GET", "/v1/users", phone, roomName, "", known, ""); w.Code != http.StatusUnauthorized {
		t.Errorf("a token that everybody can make, from another machine: %d, want 401", w.Code)
	}
	if w := from(s, "GET", "/v1/users", "127.0.0.1:5000", "127.0.0.1:7700", "", known, ""); w.Code != http.StatusOK {
		t.Errorf("the same from this machine: %d %s, want 200", w.Code, w.Body)
	}
	login := func(name, invitation string) *httptest.ResponseRecorder {
		body, _ := json.Marshal(map[string]string{"user": name, "invitation": invitation})
		return from(s, "POST", "/v1/dev/login", phone, roomName, roomOrigin, "", string(body))
	}
	for _, bad := range []string{"", "AAAAAAAAAAAAAAAAAAAAAA"} {
		if w := login("phone", bad); w.Code != http.StatusUnauthorized {
			t.Errorf("invitation %q: %d, want 401", bad, w.Code)
		}
	}
	invitation := code(t, room)
	if w := login(strings.Repeat("x", 200), invitation); w.Code != http.StatusBadRequest {
		t.Errorf("a name that is none: %d, want 400", w.Code)
	}
	w := login("phone", invitation)
	var answer struct{ Token string }
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || w.Code != http.StatusOK {
		t.Fatalf("a good invitation: %d %s", w.Code, w.Body)
	}
	if w := from(s, "GET", "/v1/users", phone, roomName, "", answer.Token, ""); w.Code != http.StatusOK {
		t.Errorf("its token: %d, want 200", w.Code)
	}
	carol := &session{srv: s, app: DevApp, user: "carol", instance: placeA}
	carol.state.Store(sessionLive)
	s.dir.take(carol)
	if w := login("carol", code(t, room)); w.Code != http.StatusConflict {
		t.Errorf("a name that somebody has: %d %s, want 409", w.Code, w.Body)
	}
	if w := login("again", invitation); w.Code != http.StatusUnauthorized {
		t.Errorf("the invitation once more: %d, want 401", w.Code)
	}
}

// A session is no other door than a request: at its login, and when it gets a newer token.
func TestRoomRefusesSessionsToo(t *testing.T) {
	s, _ := roomServer(t)
	known, err := DevToken("mallory")
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddr("192.168.1.77")
	hello := &wire.Hello{Token: known, Role: wire.Role_ROLE_SEND}
	if _, refusal := s.login(visit{addr: at}, hello, &claims{}); refusal == nil || refusal.Code != wire.TokenRefused {
		t.Errorf("a login from another machine: %v, want 21", refusal)
	}
	sess := &session{srv: s, app: DevApp, user: "mallory", address: addressText(at)}
	if refusal := sess.tryToken(known); refusal == nil || refusal.Code != wire.TokenRefused {
		t.Errorf("a newer token from another machine: %v, want 21", refusal)
	}
}

// What the page of dev mode asks is for users of dev mode's app.
func TestDevRoutesAreForTheDevApp(t *testing.T) {
	cfg := DevConfig()
	cfg.Apps = append(cfg.Apps, App{ID: "other", Keys: []Key{devKey()}})
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Shutdown(context.Background()) })
	for _, route := range []string{"invite", "cut", "restart"} {
		w := from(s, "POST", "/v1/dev/"+route, "127.0.0.1:5000", "127.0.0.1:7700", "http://127.0.0.1:7700", tokenOf(t, "other", "alice"), "")
		if w.Code != http.StatusForbidden {
			t.Errorf("%s by a user of another app: %d, want 403", route, w.Code)
		}
	}
}

func TestInvitationsEnd(t *testing.T) {
	room := NewRoom()
	if _, err := room.Invite(); err == nil {
		t.Error("a room without an address invites")
	}
	room.Opened([]string{"http://192.168.1.5:7700"}, func(string) {})
	if late := code(t, room); room.redeem(late, time.Now().Add(invitationTime)) {
		t.Error("an invitation counts after its end")
	}
	first := code(t, room)
	for range invitationsMost {
		code(t, room)
	}
	if room.redeem(first, time.Now()) {
		t.Error("more invitations wait than may")
	}
}

// A name that points to the relay is not the relay (case 114), and no page of others may
// ask for what is the own page's.
func TestRoomHostAndOrigin(t *testing.T) {
	s, room := roomServer(t)
	token, err := DevToken("alice")
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		client, host, origin string
		want                 int
	}{
		{phone, roomName, "", 200},
		{phone, roomName, roomOrigin, 200},
		{phone, "192.168.1.5", "", 200},
		{phone, "192.168.1.6:7700", "", 403},
		{phone, "rebound.example.com:7700", "", 403},
		{phone, "rebound.example.com:7700", "http://rebound.example.com:7700", 403},
		{phone, roomName, "http://evil.example.com", 403},
		{phone, roomName, "null", 403},
		{"127.0.0.1:5000", "localhost:7700", "http://localhost:7700", 200},
	} {
		if w := from(s, "GET", "/v1/page", x.client, x.host, x.origin, "", ""); w.Code != x.want {
			t.Errorf("client %s, Host %s, Origin %q: %d, want %d", x.client, x.host, x.origin, w.Code, x.want)
		}
	}
	for _, route := range []string{"login", "invite", "cut", "restart"} {
		for _, origin := range []string{"", "http://localhost:8080", "http://127.0.0.1:7700.evil.example.com"} {
			w := from(s, "POST", "/v1/dev/"+route, "127.0.0.1:5000", "127.0.0.1:7700", origin, token, `{"user":"x"}`)
			if w.Code != http.StatusForbidden {
				t.Errorf("%s from origin %q: %d, want 403", route, origin, w.Code)
			}
		}
		if route != "login" {
			w := from(s, "POST", "/v1/dev/"+route, phone, roomName, roomOrigin, "", "")
			if w.Code != http.StatusUnauthorized {
				t.Errorf("%s without a login: %d, want 401", route, w.Code)
			}
		}
	}
	if w := from(s, "POST", "/v1/dev/login", phone, "localhost:7700", "http://localhost:7700", "", `{"user":"x"}`); w.Code != http.StatusUnauthorized {
		t.Errorf("another machine that says it is this one: %d, want 401", w.Code)
	}
	var p pageSettings
	if err := json.Unmarshal(from(s, "GET", "/v1/page", phone, roomName, "", "", "").Body.Bytes(), &p); err != nil || p.Login != "invitation" || !p.Invite || p.Restart {
		t.Errorf("the page of another machine is told %+v, %v", p, err)
	}
	_ = room
}

func TestCutBreaksTheUsersConnections(t *testing.T) {
	addr, _ := devServer(t, func(*Config) {})
	hold := func(user string) net.Conn { // a connection that is known to be user's
		t.Helper()
		token, err := DevToken(user)
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		io.WriteString(c, "GET /v1/users HTTP/1.1\r\nHost: "+addr+"\r\nAuthorization: Bearer "+token+"\r\n\r\n")
		if _, err := c.Read(make([]byte, 4096)); err != nil {
			t.Fatal(err)
		}
		return c
	}
	alice, bob := hold("alice"), hold("bob")
	token, _ := DevToken("alice")
	res := post(t, addr, "/v1/dev/cut", token)
	body, _ := io.ReadAll(res.Body)
	if res.StatusCode != http.StatusOK || strings.TrimSpace(string(body)) != `{"cut":1}` {
		t.Errorf("cut: %d %s, want one connection", res.StatusCode, body)
	}
	if n, err := alice.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("alice's connection: %d bytes, %v, want a reset", n, err)
	}
	bob.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := bob.Read(make([]byte, 1)); !errors.Is(err, context.DeadlineExceeded) && !isTimeout(err) {
		t.Errorf("bob's connection: %v, want it to be there", err)
	}
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

func post(t *testing.T, addr, path, token string) *http.Response {
	t.Helper()
	r, err := http.NewRequest("POST", "http://"+addr+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Origin", "http://"+addr)
	r.Header.Set("Authorization", "Bearer "+token)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	return res
}

func TestRestartEndsServe(t *testing.T) {
	addr, served := devServer(t, func(c *Config) {
		c.DevRestart = true
		c.ShutdownGrace = time.Hour // nothing is waited for
	})
	token, err := DevToken("alice")
	if err != nil {
		t.Fatal(err)
	}
	if res := post(t, addr, "/v1/dev/restart", token); res.StatusCode != http.StatusAccepted {
		t.Errorf("restart: %d, want 202", res.StatusCode)
	}
	if err := <-served; !errors.Is(err, ErrRestart) {
		t.Errorf("Serve = %v, want ErrRestart", err)
	}
	served <- nil
}

func TestRestartIsOffUnlessConfigured(t *testing.T) {
	addr, _ := devServer(t, func(*Config) {})
	token, _ := DevToken("alice")
	if res := post(t, addr, "/v1/dev/restart", token); res.StatusCode != http.StatusNotFound {
		t.Errorf("restart: %d, want 404", res.StatusCode)
	}
}

func TestPageAndItsHeaders(t *testing.T) {
	for _, x := range []struct {
		path         string
		off          bool
		status       int
		policy, kind string
	}{
		{"/", false, 200, "script-src 'self' 'wasm-unsafe-eval'; style-src 'self'", "text/html; charset=utf-8"},
		{"/icon.svg", false, 200, "default-src 'none'", "image/svg+xml"},
		{"/index.html", false, 404, "sandbox", "application/problem+json"},
		{"/assets/", false, 404, "sandbox", "application/problem+json"},
		{"/", true, 404, "sandbox", "application/problem+json"},
		{"/v1/page", true, 404, "sandbox", "application/problem+json"},
		{"/v1/page", false, 200, "sandbox", "application/json"},
	} {
		cfg := DevConfig()
		cfg.NoPage = x.off
		s, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		w := from(s, "GET", x.path, "127.0.0.1:5000", "localhost", "", "", "")
		h := w.Header()
		if w.Code != x.status || !strings.Contains(h.Get("Content-Security-Policy"), x.policy) || h.Get("Content-Type") != x.kind || h.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s, no_page %v: %d %v", x.path, x.off, w.Code, h)
		}
		if strings.Contains(h.Get("Content-Security-Policy"), "unsafe-inline") {
			t.Errorf("%s: a policy with unsafe-inline", x.path)
		}
		s.Shutdown(context.Background())
	}
}
