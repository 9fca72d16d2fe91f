package server

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/dian-im/dian/internal/wire"
)

func TestAuditOfLogins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, sink := auditedRelay(t)
		alice := r.sender("alice")
		bob := r.listen("bob")
		second := r.hello(listenHello(r.token("bob"), 2)) // kicks the first
		bob.lineOff(wire.Kicked)
		alice.send(&wire.Frame{Body: &wire.Frame_UpdateToken{UpdateToken: &wire.UpdateToken{Token: "x"}}})
		alice.next()
		bad := r.dial(wire.ProtoSubprotocol)
		bad.send(helloFrame(sendHello(r.token("alice") + "x")))
		bad.lineOff(wire.TokenRefused)
		synctest.Wait()
		r.do("GET", "/v1/users", r.token("alice")+"x", nil)
		r.do("GET", "/v1/users", "", nil) // has shown no token
		short := r.hello(sendHello(relayToken(t, "app", "carol", time.Second, nil, nil)))
		short.next() // TokenWillExpire
		short.lineOff(wire.TokenExpired)
		synctest.Wait()
		second.conn.Close()
		synctest.Wait()
		alice.conn.Close()
		synctest.Wait()
		r.stop()
		var got []auditLine
		for _, l := range sink.lines(t) {
			if l.Event == "login" || l.Event == "logout" {
				if l.Address == "" {
					t.Errorf("no address: %+v", l)
				}
				got = append(got, l)
			}
		}
		want := []auditLine{
			{Event: "login", App: "app", User: "alice", Role: "send", Session: 1},
			{Event: "login", App: "app", User: "bob", Role: "listen", Session: 2},
			{Event: "logout", App: "app", User: "bob", Role: "listen", Session: 2, Code: 10},
			{Event: "login", App: "app", User: "bob", Role: "listen", Session: 3},
			{Event: "login", App: "app", User: "alice", Action: "update", Code: 19},
			{Event: "login", Action: "session", Code: 21}, // whose token it was nobody knows
			{Event: "login", Action: "request", Code: 21},
			{Event: "login", App: "app", User: "carol", Role: "send", Session: 4},
			{Event: "logout", App: "app", User: "carol", Role: "send", Session: 4, Code: 18, Ms: 1000},
			{Event: "logout", App: "app", User: "bob", Role: "listen", Session: 3, Ms: 1000},
			{Event: "logout", App: "app", User: "alice", Role: "send", Session: 1, Ms: 1000},
		}
		if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(auditLine{}, "Time", "Address")); diff != "" {
			t.Errorf("lines (-want +got):\n%s", diff)
		}
	})
}

// TestAuditHidesUsersAndAddresses: with a key and no_addresses nothing tells who it
// was to somebody without the key.
func TestAuditHidesUsersAndAddresses(t *testing.T) {
	key := NewSecret([]byte(strings.Repeat("k", 32)))
	rt, sink := auditedTest(t, func(c *Config) { c.Audit.UserKey, c.Audit.NoAddresses = key, true })
	rt.receiver("bob", placeA)
	rt.want(rt.put("alice", "", "hello"), 200)
	adminCall(t, rt.srv, "POST", "/admin/v1/kick", map[string]any{"app": "demo", "user": "bob"}, nil)
	got := rt.tasks(sink, 1)
	if len(got) != 1 || got[0].From != AuditAlias(key, "demo", "alice") || got[0].To != AuditAlias(key, "demo", "bob") {
		t.Errorf("lines: %+v", got)
	}
	for _, canary := range []string{"alice", "bob", "127.0.0.1"} {
		if strings.Contains(sink.text(), canary) {
			t.Errorf("%s is in the audit:\n%s", canary, sink.text())
		}
	}
}
