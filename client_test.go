package dian

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/dian-im/dian/internal/wire"
)

func TestConnectTellsWhyNot(t *testing.T) {
	scripts(t, func(t *testing.T, s *script) {
		for _, c := range []struct {
			name   string
			answer func(*wire.Hello) *wire.Frame
			opts   []Option
			want   Code
			origin Origin
		}{
			{name: "token expired", answer: func(*wire.Hello) *wire.Frame { return lineOffFrame(18) }, want: ErrTokenExpired, origin: Server},
			{name: "stopping", answer: func(*wire.Hello) *wire.Frame { return lineOffFrame(8) }, want: ErrServiceFault, origin: Server},
			{name: "no answer", answer: func(*wire.Hello) *wire.Frame { return nil }, want: ErrNoAnswerFromServer},
			{name: "nonsense", answer: func(*wire.Hello) *wire.Frame {
				return &wire.Frame{Body: &wire.Frame_Ping{Ping: &wire.Ping{}}}
			}, want: ErrBadData},
			{name: "nobody there", want: ErrConnectFailed, opts: []Option{
				WithHTTPClient(&http.Client{Transport: &http.Transport{DialContext: refusing}})}},
			{name: "no token", want: ErrBadParameter, opts: []Option{WithToken("")}},
			{name: "token source", want: ErrWrongCredentials, opts: []Option{
				WithTokenSource(func(context.Context) (string, error) { return "", errors.New("no") })}},
		} {
			s.reply(c.answer)
			client, err := s.connect(c.opts...)
			e, ok := errors.AsType[*Error](err)
			if client != nil || !ok || e.Code != c.want || e.Origin != c.origin || CodeOf(err) != c.want || !errors.Is(err, c.want) {
				t.Errorf("%s: error %#v, want code %v from %v", c.name, err, c.want, c.origin)
			}
		}
		s.reply(func(*wire.Hello) *wire.Frame { return nil })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		_, err := Connect(ctx, "http://relay.mem", WithToken("t"), WithSendOnly(), WithHTTPClient(&http.Client{
			Transport: &http.Transport{DialContext: s.l.DialContext}}))
		if CodeOf(err) != ErrTimedOut || !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("context of 1 s: %v after %v, want %v", err, time.Since(start), ErrTimedOut)
		}
	})
}

func TestConnectRefusesBadURLs(t *testing.T) {
	for _, server := range []string{"", "relay.example.com", "ftp://relay", "https://", "https://user:secret@relay", "https://relay?x=1", "http://a b"} {
		_, err := Connect(t.Context(), server, WithToken("t"))
		if CodeOf(err) != ErrBadParameter {
			t.Errorf("%q: %v, want %v", server, err, ErrBadParameter)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("the error shows the password: %v", err)
		}
	}
}

func TestLaneURLKeepsThePathPrefix(t *testing.T) {
	for _, c := range []struct{ server, base, path, want string }{
		{"https://relay.example.com", "", "/v1/transfers/x", "https://relay.example.com/v1/transfers/x"},
		{"https://relay.example.com/dian/", "", "/v1/transfers/x", "https://relay.example.com/dian/v1/transfers/x"},
		{"https://relay.example.com", "https://lanes.example.com:8443", "/v1/x", "https://lanes.example.com:8443/v1/x"},
		{"https://relay.example.com", "http://plain.example.com", "/v1/x", "https://relay.example.com/v1/x"},
		{"https://relay.example.com", "", "//evil.example.com/x", "https://relay.example.com/evil.example.com/x"},
	} {
		n, err := newNetwork(c.server, &options{})
		if err != nil {
			t.Fatal(err)
		}
		if got := n.laneURL(c.base, c.path); got != c.want {
			t.Errorf("%s with base %q: %s, want %s", c.server, c.base, got, c.want)
		}
	}
}

func TestClientReconnectsAndTellsItsSessionAgain(t *testing.T) {
	scripts(t, func(t *testing.T, s *script) {
		var mu sync.Mutex
		var events []string
		note := func(e string) { mu.Lock(); defer mu.Unlock(); events = append(events, e) }
		tokens := 0
		c, p := s.pair(WithTokenSource(func(context.Context) (string, error) { tokens++; return strings.Repeat("t", tokens), nil }),
			WithHandler(Handler{
				NotifyReconnecting: func(r Reconnecting) {
					if r.Attempt != 1 || r.Delay > reconnectFirst || r.Err == nil {
						t.Errorf("%+v, want attempt 1 within %v", r, reconnectFirst)
					}
					note("reconnecting")
				},
				NotifyReconnected: func() { note("reconnected") },
				NotifyLineOff:     func(error) { note("off") },
			}))
		defer c.Close()
		go func() { // the subscription's first answer
			f := p.next().GetPresenceSubscribe()
			p.send(&wire.Frame{Body: &wire.Frame_PresenceList{PresenceList: &wire.PresenceList{Id: f.GetId()}}})
		}()
		if err := c.StartUserStatusNotify(t.Context(), "bob"); err != nil {
			t.Fatal(err)
		}
		task := c.SendCmd("bob", []byte("one"))
		if first := p.command(); first.Resent || first.Seq != 1 {
			t.Errorf("command %v, want the first, not resent", first)
		}
		s.l.CutAll()

		p = s.session()
		if p.hello.LastEpoch != 1 || p.hello.Token != "tt" {
			t.Errorf("hello with epoch %d and token %q, want 1 and a new token", p.hello.LastEpoch, p.hello.Token)
		}
		if f := p.next().GetPresenceSubscribe(); f == nil || !slices.Equal(f.Users, []string{"bob"}) {
			t.Errorf("first frame %v, want the subscription", f)
		}
		again := p.command()
		if !again.Resent || again.Seq != 1 || string(again.Data) != "one" {
			t.Errorf("command %v, want it resent", again)
		}
		p.ok(again)
		if err := task.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		c.Close()
		if want := []string{"reconnecting", "reconnected"}; !slices.Equal(events, want) {
			t.Errorf("events %v, want %v", events, want)
		}
	})
}

func TestFinalLineOffEndsEverythingOnce(t *testing.T) {
	for _, code := range []Code{ErrKicked, ErrTokenExpired, ErrNoPermission} {
		scripts(t, func(t *testing.T, s *script) {
			var off, results []Code
			c, p := s.pair(WithHandler(Handler{
				NotifyLineOff: func(err error) { off = append(off, CodeOf(err)) },
				SendCmdResult: func(r Result) { results = append(results, CodeOf(r.Err)) },
			}))
			task := c.SendCmd("bob", nil)
			p.l.Close(lineOffFrame(code), websocket.CloseNormalClosure)
			<-c.Done()
			err := task.Wait(t.Context())
			if e, ok := errors.AsType[*Error](err); !ok || e.Code != code || e.Origin != Server || e.Peer != "bob" {
				t.Errorf("task: %v, want %v from the server", err, code)
			}
			if CodeOf(c.Err()) != code {
				t.Errorf("Err = %v, want %v", c.Err(), code)
			}
			if err := c.SendCmd("bob", nil).Wait(t.Context()); CodeOf(err) != code {
				t.Errorf("later task: %v, want %v", err, code)
			}
			if _, err := c.UserStatus(t.Context()); CodeOf(err) != code {
				t.Errorf("later query: %v, want %v", err, code)
			}
			c.Close()
			if !slices.Equal(off, []Code{code}) || !slices.Equal(results, []Code{code, code}) {
				t.Errorf("line off %v, results %v; want each %v, and two results", off, results, code)
			}
			select {
			case <-s.sessions:
				t.Error("reconnected")
			default:
			}
		})
	}
}

func TestExpiredTokenIsReplacedByItsSource(t *testing.T) {
	scripts(t, func(t *testing.T, s *script) {
		c, p := s.pair(WithTokenSource(func(context.Context) (string, error) { return "t", nil }))
		defer c.Close()
		p.send(&wire.Frame{Body: &wire.Frame_TokenWillExpire{TokenWillExpire: &wire.TokenWillExpire{TokenExpiresMs: 1}}})
		if f := p.next(); f.GetUpdateToken().GetToken() != "t" {
			t.Errorf("frame %v, want UpdateToken", f)
		}
		p.l.Close(lineOffFrame(ErrTokenExpired), websocket.CloseNormalClosure)
		s.session()
	})
}

func TestTokenWillExpireIsToldWithoutASource(t *testing.T) {
	scripts(t, func(t *testing.T, s *script) {
		told := make(chan time.Time, 1)
		c, p := s.pair(WithHandler(Handler{NotifyTokenWillExpire: func(at time.Time) { told <- at }}))
		defer c.Close()
		ends := time.Now().Add(30 * time.Second).Truncate(time.Millisecond)
		p.send(&wire.Frame{Body: &wire.Frame_TokenWillExpire{TokenWillExpire: &wire.TokenWillExpire{TokenExpiresMs: ends.UnixMilli()}}})
		if at := <-told; !at.Equal(ends) {
			t.Errorf("told %v, want %v", at, ends)
		}
		for _, code := range []Code{OK, ErrTokenRefused} {
			go func() {
				p.next()
				p.send(&wire.Frame{Body: &wire.Frame_TokenUpdated{TokenUpdated: &wire.TokenUpdated{Code: uint32(code)}}})
			}()
			if err := c.UpdateToken(t.Context(), "new-"+code.Error()); CodeOf(err) != code {
				t.Errorf("UpdateToken = %v, want %v", err, code)
			}
		}
		if token, _ := c.bearer(t.Context()); token != "new-"+OK.Error() {
			t.Errorf("bearer %q, want the token that was taken", token)
		}
	})
}

func TestTasksEndWhenTheLineIsDownTooLong(t *testing.T) {
	scripts(t, func(t *testing.T, s *script) {
		c, p := s.pair(WithResumeWindow(30 * time.Second))
		defer c.Close()
		task := c.SendCmd("bob", nil)
		p.command()
		s.reply(func(*wire.Hello) *wire.Frame { return lineOffFrame(ErrServiceFault) })
		s.l.CutAll()
		start := time.Now()
		err := task.Wait(t.Context())
		if took := time.Since(start); CodeOf(err) != ErrConnectionLost || took != 30*time.Second {
			t.Errorf("task: %v after %v, want %v after 30s", err, took, ErrConnectionLost)
		}
		s.reply(nil)
		p = s.session()
		task = c.SendCmd("bob", nil)
		p.ok(p.command())
		if err := task.Wait(t.Context()); err != nil {
			t.Errorf("after the line is back: %v", err)
		}
	})
}

// A server that has enough logins at the moment is asked again, with full jitter,
// whether it says so before the upgrade or after it.
func TestRefusedLoginIsTriedAgain(t *testing.T) { // case 55
	for _, upgraded := range []bool{false, true} {
		scripts(t, func(t *testing.T, s *script) {
			var delays []time.Duration
			c, _ := s.pair(WithHandler(Handler{
				NotifyReconnecting: func(r Reconnecting) {
					if r.Attempt > 1 && (CodeOf(r.Err) != ErrOverLimit || r.Err.(*Error).Origin != Server) {
						t.Errorf("try %d because of %v, want 1111 from the server", r.Attempt, r.Err)
					}
					delays = append(delays, r.Delay)
				},
				NotifyLineOff: func(err error) { t.Errorf("line off: %v", err) },
			}))
			if upgraded {
				s.reply(func(*wire.Hello) *wire.Frame { return lineOffFrame(ErrOverLimit) })
			} else {
				s.refuse(true)
			}
			if _, err := s.connect(); CodeOf(err) != ErrOverLimit {
				t.Errorf("Connect = %v, want 1111", err)
			}
			s.l.CutAll()
			time.Sleep(5 * time.Minute)
			s.reply(nil)
			s.refuse(false)
			s.session()
			if c.Err() != nil {
				t.Errorf("Err = %v", c.Err())
			}
			c.Close()
			long := 0
			for i, d := range delays {
				if most := min(reconnectMost, reconnectFirst<<min(i, 10)); d > most {
					t.Errorf("delay %d is %v, want at most %v", i, d, most)
				}
				if d > reconnectMost/2 {
					long++
				}
			}
			if n := len(delays); n < 20 || long < 5 || long > n-5 {
				t.Errorf("%d tries, %d of them after a long delay: that is no full jitter", n, long)
			}
		})
	}
}

func TestGoAwaySpreadsReconnects(t *testing.T) {
	scripts(t, func(t *testing.T, s *script) {
		delay := make(chan time.Duration, 1)
		c, p := s.pair(WithHandler(Handler{NotifyReconnecting: func(r Reconnecting) { delay <- r.Delay }}))
		defer c.Close()
		for range 5 { // far above the first step of the backoff in at least one of them
			p.send(&wire.Frame{Body: &wire.Frame_GoAway{GoAway: &wire.GoAway{DelayMs: 60_000}}})
			p.l.Close(nil, websocket.CloseServiceRestart)
			if d := <-delay; d >= reconnectFirst {
				if d > time.Minute {
					t.Errorf("delay %v, want at most 1m0s", d)
				}
				return
			}
			p = s.session()
		}
		t.Error("GoAway's delay is not used")
	})
}

func TestCloseEndsTasksAndGoroutines(t *testing.T) {
	for _, inside := range []bool{false, true} {
		scripts(t, func(t *testing.T, s *script) {
			var results []Code
			closed := make(chan struct{})
			var c *Client
			ready := make(chan struct{})
			c, p := s.pair(WithHandler(Handler{
				SendCmdResult: func(r Result) { results = append(results, CodeOf(r.Err)) },
				NotifyLineOff: func(error) { t.Error("NotifyLineOff for a Close") },
				NotifyUserStatus: func([]UserStatus) {
					<-ready
					task := c.SendCmd("bob", nil)
					if inside {
						c.Close()
						c.Close()
					} else {
						go c.Close()
					}
					if err := task.Wait(t.Context()); CodeOf(err) != ErrNotLoggedIn {
						t.Errorf("task: %v, want %v", err, ErrNotLoggedIn)
					}
					close(closed)
				},
			}))
			close(ready)
			go func() {
				f := p.next().GetPresenceSubscribe()
				p.send(&wire.Frame{Body: &wire.Frame_PresenceList{PresenceList: &wire.PresenceList{
					Id: f.GetId(), Users: []*wire.Presence{{User: "bob", Status: 1}}}}})
			}()
			if err := c.StartUserStatusNotify(t.Context()); err != nil {
				t.Fatal(err)
			}
			<-closed
			c.Close()
			if !slices.Equal(results, []Code{ErrNotLoggedIn}) {
				t.Errorf("results %v, want one %v", results, ErrNotLoggedIn)
			}
			if CodeOf(c.Err()) != ErrNotLoggedIn {
				t.Errorf("Err = %v, want %v", c.Err(), ErrNotLoggedIn)
			}
			if err := c.SendCmd("bob", nil).Wait(t.Context()); CodeOf(err) != ErrNotLoggedIn {
				t.Errorf("after Close: %v, want %v", err, ErrNotLoggedIn)
			}
			if err := c.SetStatus(true, 1); CodeOf(err) != ErrWrongLoginState { // it only sends
				t.Errorf("SetStatus: %v, want %v", err, ErrWrongLoginState)
			}
			c.events.wait()
		})
	}
}

func TestUserStatusFailsWhenTheLineBreaks(t *testing.T) {
	scripts(t, func(t *testing.T, s *script) {
		c, p := s.pair()
		defer c.Close()
		go func() {
			p.next()
			s.l.CutAll()
		}()
		if _, err := c.UserStatus(t.Context(), "bob"); CodeOf(err) != ErrConnectionLost {
			t.Errorf("UserStatus = %v, want %v", err, ErrConnectionLost)
		}
		p = s.session()
		synctest.Wait() // the client has seen its Welcome
		go func() {
			id := p.next().GetPresenceQuery().GetId()
			for i, u := range []string{"bob", "carol"} {
				p.send(&wire.Frame{Body: &wire.Frame_PresenceList{PresenceList: &wire.PresenceList{
					Id: id, More: i == 0, Users: []*wire.Presence{{User: u, Status: 2, DoNotDisturb: int32(i)}}}}})
			}
		}()
		got, err := c.UserStatus(t.Context())
		if want := []UserStatus{{"bob", Busy, 0}, {"carol", Busy, 1}}; err != nil || !slices.Equal(got, want) {
			t.Errorf("UserStatus = %v, %v; want %v", got, err, want)
		}
		if _, err := c.UserStatus(t.Context(), "."); CodeOf(err) != ErrBadTarget {
			t.Errorf("bad name: %v, want %v", err, ErrBadTarget)
		}
	})
}

func TestLaneClientSpeaksHTTP1WithoutRedirects(t *testing.T) {
	given := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, net.ErrClosed }}
	n, err := newNetwork("https://relay", &options{httpClient: &http.Client{Transport: given, Timeout: time.Second}})
	if err != nil {
		t.Fatal(err)
	}
	tr := n.lanes.Transport.(*http.Transport)
	if tr == given || tr.Protocols.HTTP2() || !tr.Protocols.HTTP1() || n.lanes.Timeout != 0 || n.lanes.CheckRedirect == nil {
		t.Errorf("transport %+v, timeout %v", tr, n.lanes.Timeout)
	}
}

func TestUntrustedCertificateIsATLSFault(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	defer srv.Close()
	if _, err := Connect(t.Context(), srv.URL, WithToken("t"), WithSendOnly()); CodeOf(err) != ErrTLSFault {
		t.Errorf("unknown CA: %v, want %v", err, ErrTLSFault)
	}
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	_, err := Connect(t.Context(), srv.URL, WithToken("t"), WithSendOnly(), WithTLSConfig(&tls.Config{RootCAs: roots}))
	if CodeOf(err) != ErrConnectFailed || !strings.Contains(err.Error(), "404") {
		t.Errorf("known CA, but no Dian: %v, want %v because of HTTP 404", err, ErrConnectFailed)
	}
	_, err = Connect(t.Context(), strings.Replace(srv.URL, "https", "http", 1), WithToken("t"), WithSendOnly())
	if CodeOf(err) != ErrConnectFailed {
		t.Errorf("plain HTTP to a TLS port: %v, want %v", err, ErrConnectFailed)
	}
}
