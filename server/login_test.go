package server

import (
	"bytes"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/dian-im/dian/internal/memnet"
	"github.com/dian-im/dian/internal/wire"
)

func TestWelcomeTellsTheTerms(t *testing.T) {
	r := tcpRelay(t, func(c *Config) {
		c.MaxFileBytes = 1 << 40
		c.PublicURL = "https://relay.example.com/dian"
	})
	before := uint64(time.Now().UnixMilli())
	for _, protocol := range []string{wire.ProtoSubprotocol, wire.JSONSubprotocol} {
		p := r.dial(protocol)
		p.send(helloFrame(listenHello(r.token("alice"), 1)))
		w := p.next().GetWelcome()
		if w.GetUser() != "alice" || w.App != "app" || w.Epoch < before || w.HeartbeatMs != 9000 ||
			w.Limits.FileBytes != 1<<40 || w.Limits.CommandBytes != 65536 || w.Limits.BufferBytes != 104857600 ||
			w.Limits.ResumeWindowMs != 120_000 || w.LaneBase != "https://relay.example.com/dian" ||
			time.Until(time.UnixMilli(w.TokenExpiresMs)) < 23*time.Hour {
			t.Errorf("%s: Welcome = %v", protocol, w)
		}
	}
}

func TestBadTokenIsRefusedForGood(t *testing.T) {
	r := tcpRelay(t)
	old, err := mintAt(time.Now().Add(-time.Hour), relayKey, "app", "alice", time.Minute, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	wrong := relayKey
	wrong.Secret = NewSecret([]byte("fedcba9876543210fedcba9876543210"))
	forged, err := Mint(wrong, "app", "alice", time.Hour, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, token string
		code        wire.Code
	}{
		{"expired", old, wire.TokenExpired},
		{"not a token", "hello", wire.TokenMalformed},
		{"empty", "", wire.TokenMalformed},
		{"too long", strings.Repeat("a", wire.TokenBytes+1), wire.TokenMalformed},
		{"app", relayToken(t, "nowhere", "alice", time.Hour, nil, nil), wire.NoSuchApp},
		{"signature", forged, wire.TokenRefused},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := r.dial(wire.ProtoSubprotocol)
			p.send(helloFrame(listenHello(c.token, 1)))
			p.lineOff(c.code)
			resp, body := r.do("GET", "/v1/users", c.token, nil)
			if c.token != "" {
				wantProblem(t, resp, body, http.StatusUnauthorized, c.code)
			} else {
				wantProblem(t, resp, body, http.StatusUnauthorized, wire.NotLoggedIn)
			}
		})
	}
}

func TestBadHelloIsRefused(t *testing.T) { // case 15
	r := tcpRelay(t)
	token := r.token("alice")
	for name, h := range map[string]*wire.Hello{
		"no role":           {Token: token, Instance: instanceOf(1)},
		"strange role":      {Token: token, Role: 7, Instance: instanceOf(1)},
		"no instance":       {Token: token, Role: wire.Role_ROLE_LISTEN},
		"short instance":    {Token: token, Role: wire.Role_ROLE_SEND, Instance: []byte{1}},
		"long client":       {Token: token, Role: wire.Role_ROLE_SEND, Client: strings.Repeat("c", wire.ClientBytes+1)},
		"many capabilities": {Token: token, Role: wire.Role_ROLE_SEND, Capabilities: make([]string, wire.Capabilities+1)},
		"last epoch":        {Token: token, Role: wire.Role_ROLE_SEND, LastEpoch: 1<<64 - 1},
	} {
		t.Run(name, func(t *testing.T) {
			p := r.dial(wire.ProtoSubprotocol)
			p.send(helloFrame(h))
			p.lineOff(wire.BadParameter)
		})
	}
}

// everyFrame has a frame of each kind.
func everyFrame() []*wire.Frame {
	return []*wire.Frame{
		{Body: &wire.Frame_Hello{Hello: &wire.Hello{}}},
		{Body: &wire.Frame_Welcome{Welcome: &wire.Welcome{}}},
		{Body: &wire.Frame_LineOff{LineOff: &wire.LineOff{}}},
		{Body: &wire.Frame_UpdateToken{UpdateToken: &wire.UpdateToken{}}},
		{Body: &wire.Frame_TokenUpdated{TokenUpdated: &wire.TokenUpdated{}}},
		{Body: &wire.Frame_TokenWillExpire{TokenWillExpire: &wire.TokenWillExpire{}}},
		{Body: &wire.Frame_GoAway{GoAway: &wire.GoAway{}}},
		{Body: &wire.Frame_Ping{Ping: &wire.Ping{}}},
		{Body: &wire.Frame_Pong{Pong: &wire.Pong{}}},
		{Body: &wire.Frame_Command{Command: &wire.Command{}}},
		{Body: &wire.Frame_CommandAck{CommandAck: &wire.CommandAck{}}},
		{Body: &wire.Frame_CommandResult{CommandResult: &wire.CommandResult{}}},
		{Body: &wire.Frame_PresenceQuery{PresenceQuery: &wire.PresenceQuery{}}},
		{Body: &wire.Frame_PresenceList{PresenceList: &wire.PresenceList{}}},
		{Body: &wire.Frame_PresenceSubscribe{PresenceSubscribe: &wire.PresenceSubscribe{}}},
		{Body: &wire.Frame_PresenceChange{PresenceChange: &wire.PresenceChange{}}},
		{Body: &wire.Frame_Status{Status: &wire.Status{}}},
		{Body: &wire.Frame_Offer{Offer: &wire.Offer{}}},
		{Body: &wire.Frame_Answer{Answer: &wire.Answer{}}},
		{Body: &wire.Frame_Accepted{Accepted: &wire.Accepted{}}},
		{Body: &wire.Frame_Received{Received: &wire.Received{}}},
		{Body: &wire.Frame_Sync{Sync: &wire.Sync{}}},
		{Body: &wire.Frame_Finish{Finish: &wire.Finish{}}},
		{Body: &wire.Frame_Verdict{Verdict: &wire.Verdict{}}},
		{Body: &wire.Frame_VerdictAck{VerdictAck: &wire.VerdictAck{}}},
		{Body: &wire.Frame_Cancel{Cancel: &wire.Cancel{}}},
		{Body: &wire.Frame_Query{Query: &wire.Query{}}},
		{Body: &wire.Frame_Standing{Standing: &wire.Standing{}}},
	}
}

func TestOnlyHelloCountsBeforeWelcome(t *testing.T) { // case 11
	r := tcpRelay(t)
	for _, f := range everyFrame()[1:] {
		p := r.dial(wire.ProtoSubprotocol)
		p.send(f)
		p.ended(websocket.ClosePolicyViolation)
	}
	good := helloFrame(listenHello(r.token("alice"), 1))
	one, err := wire.AppendBinary(nil, good)
	if err != nil {
		t.Fatal(err)
	}
	two, err := wire.AppendBinary(one[:len(one):len(one)], commandFrame(&wire.Command{Id: wire.NewSendID(), Target: "bob"}))
	if err != nil {
		t.Fatal(err)
	}
	text, err := wire.EncodeJSON(good)
	if err != nil {
		t.Fatal(err)
	}
	for name, m := range map[string]struct {
		kind int
		data []byte
	}{
		"empty message":   {websocket.BinaryMessage, nil},
		"two frames":      {websocket.BinaryMessage, two},
		"garbage":         {websocket.BinaryMessage, []byte{5, 1, 2, 3, 4, 5}},
		"truncated":       {websocket.BinaryMessage, one[:len(one)-1]},
		"text":            {websocket.TextMessage, text},
		"over the budget": {websocket.BinaryMessage, make([]byte, wire.LoginBytes+1)},
	} {
		p := r.dial(wire.ProtoSubprotocol)
		if err := p.conn.WriteMessage(m.kind, m.data); err != nil {
			t.Fatal(err)
		}
		p.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if f, err := p.read(); err == nil {
			t.Errorf("%s: answered with %v", name, f)
		} else if c, ok := err.(*websocket.CloseError); !ok || c.Code != websocket.ClosePolicyViolation && name != "over the budget" {
			t.Errorf("%s: %v, want close 1008", name, err)
		}
	}
	if got := r.counter("dian_panics_total"); got != "0" {
		t.Errorf("dian_panics_total = %q", got)
	}
}

func TestSilentLoginEndsInTime(t *testing.T) { // case 10
	synctest.Test(t, func(t *testing.T) {
		r := memRelay(t)
		start := time.Now()
		p := r.dial(wire.ProtoSubprotocol)
		p.ended(websocket.ClosePolicyViolation)
		if took := time.Since(start); took != 10*time.Second {
			t.Errorf("closed after %v, want 10s", took)
		}
		if n := r.srv.quota.all.used[countEntering].Load(); n != 0 {
			synctest.Wait()
			if n = r.srv.quota.all.used[countEntering].Load(); n != 0 {
				t.Errorf("%d logins are still counted", n)
			}
		}
	})
}

func TestSlowHelloEndsInTime(t *testing.T) { // case 2
	synctest.Test(t, func(t *testing.T) {
		r := memRelay(t)
		start := time.Now()
		p := r.dial(wire.ProtoSubprotocol)
		dripped := make(chan struct{})
		go func() {
			defer close(dripped)
			// A masked binary frame of 16,000 bytes, one byte a second.
			header := []byte{0x82, 0xFE, 0x3E, 0x80, 0, 0, 0, 0}
			for i := range 16000 {
				b := byte(0)
				if i < len(header) {
					b = header[i]
				}
				if _, err := p.conn.NetConn().Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		}()
		p.ended(websocket.ClosePolicyViolation)
		if took := time.Since(start); took > 11*time.Second {
			t.Errorf("closed after %v, want 10s", took)
		}
		p.conn.Close()
		<-dripped
	})
}

func TestPendingLoginsAreBounded(t *testing.T) { // cases 10 and 52
	bubble(t, nil, func(t *testing.T, c *crowd) {
		refused := func(address, by string) {
			t.Helper()
			resp, body := c.from(address).do("GET", "/v1/session", "", nil, "Connection", "Upgrade", "Upgrade", "websocket",
				"Sec-WebSocket-Protocol", wire.ProtoSubprotocol, "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
			wantProblem(t, resp, body, http.StatusServiceUnavailable, wire.OverLimit)
			if resp.Header.Get("Retry-After") == "" {
				t.Errorf("%s: no Retry-After", by)
			}
		}
		var all []func()
		for i := range maxLogins / maxLoginsPerIP {
			a := c.srv.quota.address(netip.MustParseAddr(fmt.Sprintf("198.51.100.%d", i+1)))
			for range maxLoginsPerIP {
				done, refusal := c.srv.quota.entering(a)
				if refusal != nil {
					t.Fatal("refused too early")
				}
				all = append(all, done)
			}
			c.srv.quota.releaseAddress(a)
			if i == 0 {
				refused("198.51.100.1", "the address")
				c.from("203.0.113.1").sends("alice")
			}
		}
		refused("203.0.113.2", "all")
		for _, done := range all {
			done()
			done()
		}
		c.from("198.51.100.1").sends("bob")
		if n := c.used(countEntering); n != 0 {
			t.Errorf("%d are counted at the end", n)
		}
	})
}

func TestHandshakeIsChecked(t *testing.T) { // cases 5 and 114
	r := tcpRelay(t, func(c *Config) { c.Origins = []string{"https://app.example.com"} })
	dial := func(h http.Header, protocols ...string) (*websocket.Conn, *http.Response, error) {
		d := websocket.Dialer{NetDialContext: r.ln.DialContext, Subprotocols: protocols, EnableCompression: true}
		return d.Dial("ws://relay.example/v1/session", h)
	}
	for name, c := range map[string]struct {
		origin    string
		protocols []string
		status    int
	}{
		"no protocol":      {"", nil, http.StatusBadRequest},
		"another protocol": {"", []string{"dian.v2.proto"}, http.StatusBadRequest},
		"foreign origin":   {"https://evil.example", []string{wire.ProtoSubprotocol}, http.StatusForbidden},
		"null origin":      {"null", []string{wire.ProtoSubprotocol}, http.StatusForbidden},
		"sub-domain":       {"https://x.relay.example", []string{wire.ProtoSubprotocol}, http.StatusForbidden},
	} {
		h := http.Header{}
		if c.origin != "" {
			h.Set("Origin", c.origin)
		}
		_, resp, err := dial(h, c.protocols...)
		if err == nil || resp == nil || resp.StatusCode != c.status {
			t.Errorf("%s: %v, want status %d", name, err, c.status)
		}
	}
	resp, body := r.do("GET", "/v1/session", "", nil)
	wantProblem(t, resp, body, http.StatusBadRequest, wire.BadParameter)
	resp, body = r.do("GET", "/v1/session", "", nil, "Connection", "Upgrade", "Upgrade", "websocket")
	wantProblem(t, resp, body, http.StatusBadRequest, wire.VersionNotSupported)

	for _, origin := range []string{"https://app.example.com", "http://relay.example"} {
		conn, resp, err := dial(http.Header{"Origin": {origin}}, "other", wire.JSONSubprotocol)
		if err != nil {
			t.Errorf("origin %s: %v", origin, err)
			continue
		}
		conn.Close()
		if conn.Subprotocol() != wire.JSONSubprotocol || resp.Header.Get("Sec-WebSocket-Extensions") != "" {
			t.Errorf("negotiated %q and %q", conn.Subprotocol(), resp.Header.Get("Sec-WebSocket-Extensions"))
		}
	}
}

func TestTokenEndsTheSession(t *testing.T) { // case 29
	synctest.Test(t, func(t *testing.T) {
		r := memRelay(t)
		start := time.Now()
		p := r.hello(listenHello(relayToken(t, "app", "alice", 2*time.Minute, nil, nil), 1))
		notice := p.next().GetTokenWillExpire()
		if notice == nil || time.Since(start) != 90*time.Second || notice.TokenExpiresMs != p.welcome.TokenExpiresMs {
			t.Errorf("notice %v after %v, want it after 1m30s", notice, time.Since(start))
		}
		// Another user's, another app's and an earlier token change nothing.
		for _, token := range []string{
			relayToken(t, "app", "bob", time.Hour, nil, nil),
			relayToken(t, "other", "alice", time.Hour, nil, nil),
			relayToken(t, "app", "alice", 10*time.Second, nil, nil),
		} {
			p.send(&wire.Frame{Body: &wire.Frame_UpdateToken{UpdateToken: &wire.UpdateToken{Token: token}}})
			if u := p.next().GetTokenUpdated(); u == nil || wire.Code(u.Code) != wire.TokenRefused || u.TokenExpiresMs != p.welcome.TokenExpiresMs {
				t.Errorf("TokenUpdated %v, want 21", u)
			}
		}
		p.send(&wire.Frame{Body: &wire.Frame_UpdateToken{UpdateToken: &wire.UpdateToken{Token: "nonsense"}}})
		if u := p.next().GetTokenUpdated(); u == nil || wire.Code(u.Code) != wire.TokenMalformed {
			t.Errorf("TokenUpdated %v, want 19", u)
		}
		p.send(&wire.Frame{Body: &wire.Frame_UpdateToken{UpdateToken: &wire.UpdateToken{Token: relayToken(t, "app", "alice", 2*time.Minute, nil, nil)}}})
		updated := time.Now()
		if u := p.next().GetTokenUpdated(); u == nil || u.Code != 0 || u.TokenExpiresMs != updated.Add(2*time.Minute).Truncate(time.Second).UnixMilli() {
			t.Errorf("TokenUpdated %v", u)
		}
		for p.next().GetTokenWillExpire() == nil {
		}
		if took := time.Since(updated).Round(time.Second); took != 90*time.Second {
			t.Errorf("second notice after %v, want 1m30s", took)
		}
		p.conn.SetReadDeadline(time.Time{})
		f, err := p.read()
		if err != nil || wire.Code(f.GetLineOff().GetCode()) != wire.TokenExpired || time.Since(updated).Round(time.Second) != 2*time.Minute {
			t.Errorf("%v, %v after %v, want LineOff(18) after 2m0s", f, err, time.Since(updated))
		}
		p.ended(websocket.ClosePolicyViolation)
	})
}

func TestShortTokenIsNoticedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := memRelay(t)
		p := r.hello(listenHello(relayToken(t, "app", "alice", 10*time.Second, nil, nil), 1))
		start := time.Now()
		if p.next().GetTokenWillExpire() == nil || time.Since(start) != 0 {
			t.Errorf("no notice at once")
		}
		p.lineOff(wire.TokenExpired)
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("ended after %v, want 10s", took)
		}
	})
}

func TestFloodOfTokensIsRefused(t *testing.T) {
	r := tcpRelay(t)
	p := r.listen("alice")
	frames := make([]*wire.Frame, 20)
	for i := range frames {
		frames[i] = &wire.Frame{Body: &wire.Frame_UpdateToken{UpdateToken: &wire.UpdateToken{Token: r.token("alice")}}}
	}
	p.send(frames...)
	over := 0
	for range frames {
		if u := p.next().GetTokenUpdated(); wire.Code(u.GetCode()) == wire.OverLimit {
			over++
		}
	}
	if over == 0 {
		t.Error("all were checked")
	}
}

func TestSilentPeerIsMissed(t *testing.T) { // case 88
	synctest.Test(t, func(t *testing.T) {
		r := memRelay(t)
		p := r.listen("alice")
		p.conn.NetConn().(*memnet.Conn).Blackhole()
		time.Sleep(19 * time.Second)
		if got := r.srv.stateOf("app", "alice"); got.Status != statusOffline {
			t.Errorf("after 19s still %v", got)
		}
	})
}

func TestHostileUsersCannotLogIn(t *testing.T) { // cases 20 and 40
	r := tcpRelay(t)
	for _, user := range []string{"a\r\nb", "a\x00", "..", "\u202egnp", " a", "e\u0301", strings.Repeat("x", 129)} {
		// Mint refuses them as well, so the token is made by hand.
		token := rawToken(t, fmt.Sprintf(`{"aud":"app","sub":%q,"exp":%d}`, user, time.Now().Add(time.Hour).Unix()))
		p := r.dial(wire.ProtoSubprotocol)
		p.send(helloFrame(listenHello(token, 1)))
		f := p.next()
		if c := wire.Code(f.GetLineOff().GetCode()); c != wire.TokenRefused && c != wire.TokenMalformed {
			t.Errorf("user %q: %v", user, f)
		}
	}
	for _, user := range []string{"a.b*>c", "a b", "名前", "A", "a"} {
		r.hello(listenHello(r.token(user), 1))
	}
	if got := len(r.srv.all()); got != 5 {
		t.Errorf("%d sessions, want 5", got)
	}
}

func TestWriteBuffersAreNotKeptByIdleSessions(t *testing.T) {
	r := tcpRelay(t)
	u := r.srv.upgrader()
	if u.WriteBufferPool == nil || u.EnableCompression || u.ReadBufferSize > 4096 {
		t.Errorf("upgrader %+v", u)
	}
	if !bytes.Equal(instanceOf(1), []byte(r.peerOf("alice"))) {
		t.Error("the instance is not kept as it came")
	}
}

// peerOf logs a user in and returns the instance that the server knows.
func (r *testRelay) peerOf(user string) string {
	r.listen(user)
	return r.srv.listener("app", user).instance
}
