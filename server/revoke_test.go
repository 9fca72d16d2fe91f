package server

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/dian-im/dian/internal/wire"
)

// signToken signs claims as the login service of app "demo" would.
func signToken(t testing.TB, body jwt.MapClaims) string {
	t.Helper()
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, body).SignedString(devKey().Secret.bytes())
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// adminCall calls an admin route of a server and decodes the answer.
func adminCall(t testing.TB, srv *Server, method, path string, body, into any) (status int, text string) {
	t.Helper()
	var content io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		content = bytes.NewReader(data)
	}
	r := httptest.NewRequest(method, path, content)
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	srv.AdminHandler().ServeHTTP(w, r)
	if into != nil {
		if err := json.Unmarshal(w.Body.Bytes(), into); err != nil {
			t.Fatalf("%s %s: %q: %v", method, path, w.Body, err)
		}
	}
	return w.Code, w.Body.String()
}

// A revoker is a relay with users whose tokens a kind of revocation takes away.
type revoker struct {
	*relayTest
	kind   revokeKind
	path   string
	tokens map[string]string
	bob    *diskReceiver
	lifts  []func()
}

// A revokeKind is one way to take a token out of service.
type revokeKind struct {
	name   string
	claims jwt.MapClaims // beside sub, aud and exp; "*" in a text stands for the user
	body   func(user, token string) any
	user   bool // all tokens of the user, not one
	key    bool // by taking away the key, see Reload
	reload bool // by the file and Reload
}

var revokeKinds = []revokeKind{
	{name: "user", user: true, body: func(user, _ string) any { return map[string]any{"app": "demo", "user": user} }},
	{name: "user up to now", user: true, claims: jwt.MapClaims{"iat": time.Now().Unix()},
		body: func(user, _ string) any { return map[string]any{"app": "demo", "user": user, "upToNow": true} }},
	{name: "user up to now, without iat", user: true,
		body: func(user, _ string) any { return map[string]any{"app": "demo", "user": user, "upToNow": true} }},
	{name: "jti", claims: jwt.MapClaims{"jti": "id of *"},
		body: func(user, _ string) any { return map[string]any{"app": "demo", "jti": "id of " + user} }},
	{name: "sha256", body: func(_, token string) any {
		return map[string]any{"app": "demo", "sha256": fmt.Sprintf("%x", sha256.Sum256([]byte(token)))}
	}},
	{name: "token with jti", claims: jwt.MapClaims{"jti": "id of *"}, body: func(_, token string) any { return map[string]any{"token": token} }},
	{name: "token without jti", body: func(_, token string) any { return map[string]any{"token": token} }},
	{name: "file and reload", user: true, reload: true},
	{name: "key", user: true, key: true},
}

func newRevoker(t *testing.T, kind revokeKind) *revoker {
	v := &revoker{kind: kind, path: filepath.Join(t.TempDir(), "revocations"), tokens: map[string]string{}}
	v.relayTest = newRelayTest(t, false, func(c *Config) {
		c.RevocationsFile = v.path
		c.Apps[0].Keys = append(c.Apps[0].Keys, newKey) // of whoever is not revoked
	})
	v.bob = &diskReceiver{user: "bob", parts: map[string]*receivedPart{}, token: v.token("bob")}
	if kind.key {
		v.bob.token = v.newer("bob") // only alice's goes
	}
	v.bob.attach(v.relayTest, placeA)
	return v
}

// token returns a user's one token.
func (v *revoker) token(user string) string {
	if v.tokens[user] == "" {
		body := jwt.MapClaims{"sub": user, "aud": "demo", "exp": time.Now().Add(time.Hour).Unix(), "see": []string{"*"}}
		for name, value := range v.kind.claims {
			if text, ok := value.(string); ok {
				value = strings.ReplaceAll(text, "*", user)
			}
			body[name] = value
		}
		v.tokens[user] = signToken(v.t, body)
	}
	return v.tokens[user]
}

// as makes a request of a user with its one token.
func (v *revoker) as(user, method, path string, body io.Reader, headers ...string) *http.Request {
	return v.request(method, path, "", body, append(headers, "Authorization", "Bearer "+v.token(user))...)
}

// revoke takes a user's token out of service; lift undoes it.
func (v *revoker) revoke(user string) {
	v.t.Helper()
	switch {
	case v.kind.key:
		cfg := DevConfig()
		cfg.Apps[0].Keys = []Key{newKey}
		if err := v.srv.Reload(cfg); err != nil {
			v.t.Fatal(err)
		}
		v.lifts = append(v.lifts, func() {
			if err := v.srv.Reload(DevConfig()); err != nil {
				v.t.Error(err)
			}
		})
		return
	case v.kind.reload:
		write := func(list []Revocation) {
			if err := saveRevocations(v.path, list); err != nil {
				v.t.Fatal(err)
			}
			cfg := DevConfig()
			cfg.Apps[0].Keys = append(cfg.Apps[0].Keys, newKey)
			if err := v.srv.Reload(cfg); err != nil {
				v.t.Fatal(err)
			}
		}
		write([]Revocation{{ID: "0123456789abcdef", App: "demo", User: user, Created: time.Now()}})
		v.lifts = append(v.lifts, func() { write(nil) })
		return
	}
	var result RevokeResult
	status, text := adminCall(v.t, v.srv, "POST", "/admin/v1/revocations", v.kind.body(user, v.token(user)), &result)
	if status != http.StatusCreated || !result.Kept || result.ID == "" {
		v.t.Fatalf("revoke = %d %s", status, text)
	}
	v.lifts = append(v.lifts, func() {
		if status, text := adminCall(v.t, v.srv, "DELETE", "/admin/v1/revocations/"+result.ID, nil, nil); status != 200 {
			v.t.Errorf("lift = %d %s", status, text)
		}
	})
}

// refused wants a request to be answered with 401 and code 21, soon.
func (v *revoker) refused(a answer) {
	v.t.Helper()
	if v.want(a, 401); !strings.Contains(a.body, `"code":21`) {
		v.t.Errorf("answer %s, want code 21", a.body)
	}
}

// waiting begins a request and returns its answer to come.
func (v *revoker) waiting(r *http.Request) <-chan answer {
	done := make(chan answer, 1)
	go func() { done <- v.do(r) }()
	return done
}

func (v *revoker) lineOff(c *rawClient) {
	v.t.Helper()
	f := c.next(func(f *wire.Frame) bool { return f.GetLineOff() != nil })
	if wire.Code(f.GetLineOff().Code) != wire.TokenRefused {
		v.t.Errorf("LineOff %v, want 21", f)
	}
}

// create makes a transfer of alice's to bob.
func (v *revoker) create(size int) string {
	v.t.Helper()
	a := v.want(v.do(v.as("alice", "POST", "/v1/users/bob/transfers", nil, "Upload-Length", fmt.Sprint(size))), 201)
	return a.header.Get("Location")
}

// half begins to send content and returns when bob has half of it.
func (v *revoker) half(r *http.Request, path func() string, content []byte) (done <-chan answer, rest chan []byte) {
	v.t.Helper()
	rest = make(chan []byte, 1)
	half := len(content) / 2
	r.Body = io.NopCloser(&lateBody{now: bytes.NewReader(content[:half]), rest: rest})
	r.ContentLength = int64(len(content))
	done = v.waiting(r)
	eventually(v.t, func() bool { p := path(); return p != "" && len(v.bob.content(p)) == half })
	return done, rest
}

// anyPath is the path of bob's only transfer.
func (v *revoker) anyPath() string {
	v.bob.mu.Lock()
	defer v.bob.mu.Unlock()
	for id := range v.bob.parts {
		return lanePathPrefix + id
	}
	return ""
}

// offered waits until bob has an offer.
func (v *revoker) offered() { v.t.Helper(); eventually(v.t, func() bool { return v.anyPath() != "" }) }

func patchOf(v *revoker, path string, p int, body io.Reader) *http.Request {
	return v.as("alice", "PATCH", path, body, "Upload-Offset", fmt.Sprint(p))
}

// newer is another token of a user, that ends a little earlier; the key stays for
// those who are not revoked.
func (v *revoker) newer(user string) string {
	body := jwt.MapClaims{"sub": user, "aud": "demo", "exp": time.Now().Add(30 * time.Minute).Unix(), "iat": time.Now().Unix()}
	token := jwt.NewWithClaims(jwt.SigningMethodHS256, body)
	token.Header["kid"] = newKey.ID
	text, err := token.SignedString(newKey.Secret.bytes())
	if err != nil {
		v.t.Fatal(err)
	}
	return text
}

// hasUp reports whether a transfer has an up-lane.
func (v *revoker) hasUp(path string) bool {
	t := v.srv.transfers.find(strings.TrimPrefix(path, lanePathPrefix))
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.up != nil
}

// lineOffOf waits until a receiver, which reads its frames itself, has gone.
func (v *revoker) lineOffOf(d *diskReceiver) {
	v.t.Helper()
	eventually(v.t, func() bool { return v.srv.listener("demo", d.user) == nil })
	d.lanes.Wait()
}

func (d *diskReceiver) partLocked() *receivedPart {
	for _, p := range d.parts {
		return p
	}
	return &receivedPart{}
}

// toldBody says that it is read.
type toldBody struct {
	io.ReadCloser
	seen chan struct{}
}

func (b *toldBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	select {
	case <-b.seen:
	default:
		close(b.seen)
	}
	return n, err
}

// TestRevocationCountsOnEveryPath: whatever a token is used for, and however it is
// taken out of service, it ends at once (cases 30, 41).
func TestRevocationCountsOnEveryPath(t *testing.T) {
	for _, kind := range revokeKinds {
		for _, path := range revokePaths {
			t.Run(kind.name+"/"+path.name, func(t *testing.T) {
				t.Parallel()
				path.run(newRevoker(t, kind))
			})
		}
	}
}

// TestRevocationSparesOthers: other users, apps and tokens go on.
func TestRevocationSparesOthers(t *testing.T) {
	for _, kind := range revokeKinds[:7] {
		v := newRevoker(t, kind)
		carol := v.hello(v.token("carol"), wire.Role_ROLE_SEND, "")
		namesake := v.login("other", "alice", wire.Role_ROLE_SEND, "")
		v.revoke("alice")
		other := v.hello(v.newer("alice"), wire.Role_ROLE_SEND, "")
		if want := wire.Code(0); kind.user {
			want = wire.TokenRefused
			if other.refused != want {
				t.Errorf("%s: another token of alice: %d, want 21", kind.name, other.refused)
			}
		} else if other.refused != want {
			t.Errorf("%s: another token of alice: %d", kind.name, other.refused)
		}
		for name, c := range map[string]*rawClient{"carol": carol, "alice of another app": namesake} {
			c.send(commandFrame(&wire.Command{Id: wire.NewSendID(), Target: "nobody"}))
			if f := c.next(func(f *wire.Frame) bool { return f.GetCommandResult() != nil || f.GetLineOff() != nil }); f.GetLineOff() != nil {
				t.Errorf("%s: %s is out too: %v", kind.name, name, f)
			}
		}
		v.stop()
	}
}

// TestRevocationByTime: a token that was issued later counts, one that does not say
// when does not.
func TestRevocationByTime(t *testing.T) {
	at := time.Date(2026, 10, 1, 12, 0, 0, 0, time.UTC)
	v, err := openRevocations("")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := v.add(Revocation{App: "a", User: "u", IssuedBefore: at, Expires: at.Add(time.Hour)}, at); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		issued, now time.Time
		refused     bool
	}{
		{at.Add(-time.Second), at, true},
		{at, at, false},
		{at.Add(time.Second), at, false},
		{time.Time{}, at, true},
		{at.Add(-time.Second), at.Add(time.Hour - 1), true},
		{at.Add(-time.Second), at.Add(time.Hour), false}, // it has ended
	} {
		if got := v.refuse(claims{App: "a", User: "u", issued: c.issued}, c.now); got != c.refused {
			t.Errorf("issued %v, at %v: refused = %v", c.issued, c.now, got)
		}
	}
	// The issuer's clock may be ahead by tokenSkew: a token from before must not
	// look newer than a revocation of "now".
	srv := newRelayTest(t, false, nil).srv
	before := time.Now()
	q, err := srv.revocationOf(revokeRequest{App: "demo", User: "u", UpToNow: true})
	if err != nil || q.IssuedBefore.Before(before.Add(tokenSkew)) || q.IssuedBefore.After(time.Now().Add(tokenSkew+time.Millisecond)) {
		t.Errorf("up to now is %v (%v)", q.IssuedBefore, err)
	}
}

// TestRevocationCatchesALoginInMidAir: its token was looked at before, and it enters
// after.
func TestRevocationCatchesALoginInMidAir(t *testing.T) {
	rt := newRelayTest(t, false, nil)
	rt.srv.entering.Lock()
	refused := make(chan *rawClient)
	go func() { refused <- rt.hello(tokenOf(t, "demo", "alice"), wire.Role_ROLE_LISTEN, placeA) }()
	eventually(t, func() bool { // until it waits for the lock, after its token was good
		stacks := make([]byte, 1<<20)
		for stack := range strings.SplitSeq(string(stacks[:runtime.Stack(stacks, true)]), "\n\n") {
			if strings.Contains(stack, "[sync.Mutex.Lock]") && strings.Contains(stack, "server.(*Server).login(") {
				return true
			}
		}
		return false
	})
	adminCall(t, rt.srv, "POST", "/admin/v1/revocations", map[string]any{"app": "demo", "user": "alice"}, nil)
	rt.srv.entering.Unlock()
	c := <-refused
	if c.welcome != nil {
		c.next(isLineOff) // in and out
	}
	if rt.srv.listener("demo", "alice") != nil {
		t.Error("alice is in")
	}
	eventually(t, func() bool { return len(rt.srv.all()) == 0 })
}

// TestRevocationLeavesNobodyInWhoComesAtTheSameTime: logins, updates and requests that
// race with a revocation are refused, or are ended by it; none stays.
func TestRevocationLeavesNobodyInWhoComesAtTheSameTime(t *testing.T) {
	for range 10 {
		rt := newRelayTest(t, false, nil)
		rt.receiver("bob", placeA)
		token := tokenOf(t, "demo", "alice")
		go1 := make(chan struct{})
		var racing sync.WaitGroup
		for i := range 20 {
			racing.Go(func() {
				<-go1
				if i%2 == 0 {
					c := rt.hello(token, wire.Role_ROLE_SEND, "")
					if c.welcome != nil {
						for range c.frames { // until its end
						}
					}
					return
				}
				rt.do(rt.request("PUT", "/v1/users/bob/files/x", "", strings.NewReader("x"), "Authorization", "Bearer "+token))
			})
		}
		close(go1)
		adminCall(t, rt.srv, "POST", "/admin/v1/revocations", map[string]any{"app": "demo", "user": "alice"}, nil)
		racing.Wait() // hangs if a session stays
		for _, s := range rt.srv.all() {
			if s.user == "alice" && s.live() {
				t.Errorf("session %d is still in", s.id)
			}
		}
		rt.stop()
	}
}
