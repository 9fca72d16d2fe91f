package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dian-im/dian/internal/memnet"
	"github.com/dian-im/dian/internal/wire"
)

func query(id uint64, users ...string) *wire.Frame {
	return &wire.Frame{Body: &wire.Frame_PresenceQuery{PresenceQuery: &wire.PresenceQuery{Id: id, Users: users}}}
}

func subscribe(id uint64, stop bool, users ...string) *wire.Frame {
	return &wire.Frame{Body: &wire.Frame_PresenceSubscribe{PresenceSubscribe: &wire.PresenceSubscribe{Id: id, Stop: stop, Users: users}}}
}

func status(busy bool, dnd int32) *wire.Frame {
	return &wire.Frame{Body: &wire.Frame_Status{Status: &wire.Status{Busy: busy, DoNotDisturb: dnd}}}
}

// states makes "user=status/dnd" of presences.
func states(list []*wire.Presence) map[string]string {
	m := map[string]string{}
	for _, p := range list {
		m[p.User] = fmt.Sprintf("%d/%d", p.Status, p.DoNotDisturb)
	}
	return m
}

// list wants the whole answer with id.
func (p *testPeer) list(id uint64) (wire.Code, map[string]string) {
	p.t.Helper()
	var all []*wire.Presence
	for {
		l := p.next().GetPresenceList()
		if l == nil || l.Id != id {
			p.t.Fatalf("got %v, want a PresenceList with id %d", l, id)
		}
		all = append(all, l.Users...)
		if !l.More {
			return wire.Code(l.Code), states(all)
		}
	}
}

// change wants a PresenceChange.
func (p *testPeer) change() map[string]string {
	p.t.Helper()
	f := p.next()
	if f.GetPresenceChange() == nil {
		p.t.Fatalf("got %v, want a PresenceChange", f)
	}
	return states(f.GetPresenceChange().Users)
}

func wantStates(t *testing.T, got map[string]string, want ...string) {
	t.Helper()
	ok := len(got) == len(want)/2
	for i := 0; i < len(want); i += 2 {
		ok = ok && got[want[i]] == want[i+1]
	}
	if !ok {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestPresenceIsWhatTheTokenMaySee(t *testing.T) { // case 37
	synctest.Test(t, func(t *testing.T) {
		r := memRelay(t)
		r.listen("bob").send(status(true, -3))
		r.listen("ben")
		r.listen("carol")
		r.sender("bert")
		r.hello(listenHello(relayToken(t, "other", "boris", time.Hour, nil, nil), 1))
		alice := r.hello(listenHello(relayToken(t, "app", "alice", time.Hour, nil, []string{"b*"}), 1))
		synctest.Wait()
		alice.send(query(1))
		code, got := alice.list(1)
		if code != 0 {
			t.Errorf("code %d", code)
		}
		wantStates(t, got, "bob", "2/-3", "ben", "1/0")
		alice.send(query(2, "bob", "bert", "boris"))
		_, got = alice.list(2)
		wantStates(t, got, "bob", "2/-3", "bert", "0/0", "boris", "0/0")
		for id, c := range map[uint64]struct {
			f    *wire.Frame
			code wire.Code
		}{
			3: {query(3, "bob", "carol"), wire.NoPermission},
			4: {query(4, "bob", "alice"), wire.NoPermission}, // not even oneself
			5: {query(5, ""), wire.BadTarget},
			6: {query(6, make([]string, wire.PresenceUsers+1)...), wire.BadParameter},
			7: {subscribe(7, false, "carol"), wire.NoPermission},
			8: {subscribe(8, false, "a\x00"), wire.BadTarget},
		} {
			alice.send(c.f)
			if code, got := alice.list(id); code != c.code || len(got) != 0 {
				t.Errorf("%v: code %d with %v, want %d", c.f, code, got, c.code)
			}
		}
	})
}

func TestSubscriptionTellsChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := memRelay(t)
		alice, named := r.listen("alice"), r.sender("dora")
		alice.send(subscribe(1, false))
		_, got := alice.list(1)
		wantStates(t, got, "alice", "1/0")
		named.send(subscribe(2, false, "bob"))
		_, got = named.list(2)
		wantStates(t, got, "bob", "0/0")

		bob := r.listen("bob") // a user who comes later
		wantStates(t, alice.change(), "bob", "1/0")
		wantStates(t, named.change(), "bob", "1/0")
		bob.send(status(true, 5))
		wantStates(t, alice.change(), "bob", "2/5")
		wantStates(t, named.change(), "bob", "2/5")
		bob.send(status(true, 5)) // nothing new
		r.listen("carol")
		wantStates(t, alice.change(), "carol", "1/0")
		bob.conn.Close()
		wantStates(t, alice.change(), "bob", "0/0")
		wantStates(t, named.change(), "bob", "0/0")

		named.send(subscribe(3, true, "bob"))
		named.list(3)
		r.listen("bob")
		wantStates(t, alice.change(), "bob", "1/0")
		alice.send(subscribe(4, true))
		alice.list(4)
		r.listen("erik")
		time.Sleep(time.Second)
		for _, p := range []*testPeer{alice, named} { // silence since
			p.send(query(9, "erik"))
			_, got := p.list(9)
			wantStates(t, got, "erik", "1/0")
		}
		if n := len(r.srv.presence.named) + len(r.srv.presence.all); n != 0 {
			t.Errorf("%d subscriptions are kept", n)
		}
	})
}

func TestKickDoesNotFlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := memRelay(t)
		alice := r.listen("alice")
		r.listen("bob")
		alice.send(subscribe(1, false, "bob"))
		alice.list(1)
		for i := range 5 {
			r.hello(listenHello(r.token("bob"), byte(i)))
			time.Sleep(time.Second)
		}
		alice.send(query(2, "bob"))
		_, got := alice.list(2) // no change came before it
		wantStates(t, got, "bob", "1/0")
	})
}

func TestChangesAreMerged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := memRelay(t)
		alice, bob := r.listen("alice"), r.listen("bob")
		alice.send(subscribe(1, false, "bob"))
		alice.list(1)
		for i := range 1000 {
			bob.send(status(false, int32(i+1)))
		}
		frames := 0
		for got := alice.change(); got["bob"] != "1/1000"; got = alice.change() {
			frames++
		}
		if frames > 3 {
			t.Errorf("%d frames for changes at one moment", frames)
		}
	})
}

func TestSlowSubscriberGetsTheLastState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := memRelay(t, func(c *Config) { c.Limits.User.QueuedBytes = 512 << 10 })
		alice, bob, carol := r.listen("alice"), r.listen("bob"), r.listen("carol")
		alice.send(subscribe(1, false, "bob"))
		alice.list(1)
		alice.conn.NetConn().(*memnet.Conn).StallReads()
		for range 4 { // fills the connection and her queue
			carol.send(commandFrame(&wire.Command{Id: wire.NewSendID(), Target: "alice", Data: make([]byte, wire.CommandBytes)}))
		}
		for i := range 20 {
			bob.send(status(false, int32(i+1)))
			time.Sleep(150 * time.Millisecond)
		}
		_, before := r.srv.listener("app", "alice").link.Queued()
		if before > 260<<10 {
			t.Errorf("%d bytes are queued", before)
		}
		alice.conn.NetConn().(*memnet.Conn).Resume()
		seen := 0
		for {
			f := alice.next()
			if f.GetPresenceChange() == nil {
				continue
			}
			seen++
			if states(f.GetPresenceChange().Users)["bob"] == "1/20" {
				break
			}
		}
		if seen > 3 {
			t.Errorf("%d changes came, want them merged", seen)
		}
	})
}

func TestLongListsComeInParts(t *testing.T) {
	r := tcpRelay(t, func(c *Config) { c.Limits.User.QueuedBytes = 512 << 10 })
	alice := r.listen("alice")
	for i := range 2500 { // sessions without a connection
		s := &session{app: "app", user: fmt.Sprintf("%0100d", i), role: wire.Role_ROLE_LISTEN, srv: r.srv}
		s.state.Store(sessionLive)
		r.srv.dir.take(s)
	}
	alice.send(query(1))
	_, got := alice.list(1)
	if len(got) != 2501 {
		t.Errorf("%d users, want 2501", len(got))
	}
	resp, body := r.do("GET", "/v1/users", r.token("alice"), nil)
	var users struct{ Users []userState }
	if err := json.Unmarshal([]byte(body), &users); err != nil || resp.StatusCode != 200 || len(users.Users) != 2501 {
		t.Errorf("GET /v1/users: %d, %v, %d users", resp.StatusCode, err, len(users.Users))
	}
}

func TestTooManyQuestionsAreRefused(t *testing.T) { // case 38
	r := tcpRelay(t)
	alice := r.listen("alice")
	frames := make([]*wire.Frame, 200)
	for i := range frames {
		frames[i] = query(uint64(i), "bob")
	}
	alice.send(frames...)
	over := 0
	for range frames {
		if l := alice.next().GetPresenceList(); wire.Code(l.GetCode()) == wire.OverLimit {
			over++
		}
	}
	if over == 0 {
		t.Error("all were answered")
	}
}

func TestSubscriptionsAreBounded(t *testing.T) {
	r := tcpRelay(t)
	alice := r.listen("alice")
	last := wire.OK
	for i := range maxWatched/wire.PresenceUsers + 1 {
		users := make([]string, wire.PresenceUsers)
		for j := range users {
			users[j] = fmt.Sprintf("user-%d-%d", i, j)
		}
		alice.send(subscribe(uint64(i), false, users...))
		last, _ = alice.list(uint64(i))
	}
	if last != wire.OverLimit {
		t.Errorf("code %d for the last, want 1111", last)
	}
	alice.conn.Close()
}

func TestUsersOverHTTP(t *testing.T) {
	r := tcpRelay(t)
	r.listen("bob")
	token := relayToken(t, "app", "alice", time.Hour, nil, []string{"b*"})
	if resp, body := r.do("GET", "/v1/users/bob", token, nil); resp.StatusCode != 200 || body != `{"user":"bob","status":1,"doNotDisturb":0}`+"\n" {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	if _, body := r.do("GET", "/v1/users/ben", token, nil); body != `{"user":"ben","status":0,"doNotDisturb":0}`+"\n" {
		t.Errorf("%s", body)
	}
	if _, body := r.do("GET", "/v1/users", token, nil); body != `{"users":[{"user":"bob","status":1,"doNotDisturb":0}]}`+"\n" {
		t.Errorf("%s", body)
	}
	if _, body := r.do("GET", "/v1/users", relayToken(t, "app", "alice", time.Hour, nil, nil), nil); body != `{"users":[]}`+"\n" {
		t.Errorf("%s", body)
	}
	resp, body := r.do("GET", "/v1/users/carol", token, nil)
	wantProblem(t, resp, body, http.StatusForbidden, wire.NoPermission)
	resp, body = r.do("GET", "/v1/users/a%0Ab", token, nil)
	wantProblem(t, resp, body, http.StatusBadRequest, wire.BadTarget)
	for _, path := range []string{"/v1/users", "/v1/users/bob"} {
		resp, body = r.do("GET", path, "", nil)
		wantProblem(t, resp, body, http.StatusUnauthorized, wire.NotLoggedIn)
	}
}
