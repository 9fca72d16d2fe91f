package server

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

const testAdminToken = "an-admin-token-of-at-least-32-characters"

func adminRequest(method, path, token, body string, headers ...string) *http.Request {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	return r
}

func TestAdminListsSessions(t *testing.T) {
	rt := newRelayTest(t, false, nil)
	before := time.Now().Add(-time.Second)
	rt.receiver("bob", placeA)
	rt.login("demo", "alice", wire.Role_ROLE_SEND, "")
	rt.login("other", "alice", wire.Role_ROLE_LISTEN, placeA)
	var list SessionList
	if status, text := adminCall(t, rt.srv, "GET", "/admin/v1/sessions", nil, &list); status != 200 || len(list.Sessions) != 3 || list.Next != "" {
		t.Fatalf("%d %s", status, text)
	}
	for i, want := range []SessionInfo{
		{Session: 1, App: "demo", User: "bob", Role: "listen"}, {Session: 2, App: "demo", User: "alice", Role: "send"},
		{Session: 3, App: "other", User: "alice", Role: "listen"},
	} {
		got := list.Sessions[i]
		if got.Session != want.Session || got.App != want.App || got.User != want.User || got.Role != want.Role ||
			got.Protocol != "json" || got.Address != "127.0.0.1" || got.Epoch == 0 || got.Since.Before(before) ||
			got.TokenExpires.Before(time.Now().Add(50*time.Minute)) {
			t.Errorf("session %d = %+v", i, got)
		}
	}
	for query, want := range map[string]string{
		"?app=demo": "1 2", "?user=alice": "2 3", "?app=demo&user=alice": "2", "?app=nothing": "", "?after=1": "2 3", "?limit=2": "1 2",
	} {
		list = SessionList{}
		adminCall(t, rt.srv, "GET", "/admin/v1/sessions"+query, nil, &list)
		var ids []string
		for _, s := range list.Sessions {
			ids = append(ids, fmt.Sprint(s.Session))
		}
		if strings.Join(ids, " ") != want || (list.Next != "") != (query == "?limit=2") {
			t.Errorf("%s: %v, next %q; want %s", query, ids, list.Next, want)
		}
	}
	for _, query := range []string{"?limit=0", "?limit=1001", "?limit=x", "?after=x", "?what=1", "?app=a&app=b"} {
		if status, text := adminCall(t, rt.srv, "GET", "/admin/v1/sessions"+query, nil, nil); status != 400 {
			t.Errorf("%s: %d %s", query, status, text)
		}
	}
}

// TestAdminPagesThroughManySessions: a page is bounded, and all pages together have
// every session once, while others come and go.
func TestAdminPagesThroughManySessions(t *testing.T) {
	rt := newRelayTest(t, false, nil)
	const many = 100_000
	live := rt.login("demo", "alice", wire.Role_ROLE_SEND, "")
	template := rt.srv.all()[0]
	rt.srv.mu.Lock()
	for i := range uint64(many) {
		s := &session{srv: rt.srv, link: template.link, app: "demo", user: fmt.Sprint(i), id: i + 10, entered: template.entered}
		s.claims.Store(&claims{App: "demo", User: s.user, Expires: time.Now().Add(time.Hour), key: template.token().key})
		s.state.Store(sessionLive)
		rt.srv.sessions[s] = struct{}{}
	}
	rt.srv.mu.Unlock()
	seen := map[uint64]bool{}
	pages := 0
	follow := func(query string, most int) {
		for ; query != "" && most > 0; most-- {
			var list SessionList
			_, text := adminCall(t, rt.srv, "GET", "/admin/v1/sessions"+query, nil, &list)
			if len(list.Sessions) > 1000 || len(text) > 1<<20 {
				t.Fatalf("a page of %d, %d bytes", len(list.Sessions), len(text))
			}
			for _, s := range list.Sessions {
				if seen[s.Session] {
					t.Fatalf("session %d twice", s.Session)
				}
				seen[s.Session] = true
			}
			query = ""
			if list.Next != "" {
				query = "?limit=1000&after=" + list.Next
			}
			pages++
		}
	}
	follow("?limit=1000", 2)
	follow("?limit=1000&after=95009", 100) // the last 5000
	if len(seen) != 7000 || pages != 7 || !seen[1] || !seen[2008] || seen[2009] || !seen[95010] || !seen[many+9] {
		t.Errorf("%d sessions in %d pages", len(seen), pages)
	}
	rt.srv.mu.Lock()
	for s := range rt.srv.sessions {
		if s.id >= 10 {
			delete(rt.srv.sessions, s)
		}
	}
	rt.srv.mu.Unlock()
	live.conn.Close()
}

func TestAdminListsTransfers(t *testing.T) {
	rt := newRelayTest(t, false, nil)
	bob := rt.receiver("bob", placeA)
	alice := rt.login("demo", "alice", wire.Role_ROLE_SEND, "")
	o := fileOffer(1000)
	o.Name = "secret-name"
	alice.offer(o)
	a := alice.accepted()
	rt.want(rt.patch(a.Url, "alice", 0, testContent(400)), 204)
	path := rt.create("carol", "bob", 7, "")
	rt.want(rt.put("alice", "", "gone already"), 200)
	eventually(t, func() bool { return len(bob.content(a.Url)) == 400 })
	var list TransferList
	status, text := adminCall(t, rt.srv, "GET", "/admin/v1/transfers", nil, &list)
	if status != 200 || len(list.Transfers) != 2 || strings.Contains(text, "secret") {
		t.Fatalf("%d %s", status, text)
	}
	byFrom := map[string]TransferInfo{}
	for _, tr := range list.Transfers {
		byFrom[tr.From] = tr
	}
	got := byFrom["alice"]
	if got.Transfer != a.Transfer || got.SendID != o.SendId || got.App != "demo" || got.To != "bob" || got.Kind != "file" || got.Via != "session" ||
		got.Size != 1000 || got.State != "interrupted" || got.Offset != 400 || !got.Receiver || got.AgeMillis < 0 || got.AgeMillis > 60_000 || got.Rate <= 0 {
		t.Errorf("alice's: %+v", got)
	}
	if got := byFrom["carol"]; lanePathPrefix+got.Transfer != path || got.Via != "tus" || got.State != "accepted" || got.Rate != 0 {
		t.Errorf("carol's: %+v", got)
	}
	for query, want := range map[string]int{"?user=carol": 1, "?user=bob": 2, "?app=other": 0, "?limit=1": 1} {
		list = TransferList{}
		adminCall(t, rt.srv, "GET", "/admin/v1/transfers"+query, nil, &list)
		if len(list.Transfers) != want || (list.Next != "") != (query == "?limit=1") {
			t.Errorf("%s: %d, next %q", query, len(list.Transfers), list.Next)
		}
	}
	first := list.Next
	adminCall(t, rt.srv, "GET", "/admin/v1/transfers?limit=1&after="+url.QueryEscape(first), nil, &list)
	if len(list.Transfers) != 1 || list.Transfers[0].Transfer <= first {
		t.Errorf("the second page: %+v", list)
	}
}

func TestAdminKicks(t *testing.T) {
	sink := &testSink{}
	rt := newRelayTest(t, false, func(c *Config) { c.Audit.Writer = sink })
	content := testContent(1000)
	bob := rt.receiver("bob", placeA)
	path := rt.create("alice", "bob", len(content), "")
	rest := make(chan []byte)
	r := rt.request("PATCH", path, "alice", &lateBody{now: bytes.NewReader(content[:500]), rest: rest}, "Upload-Offset", "0")
	r.ContentLength = int64(len(content))
	done := make(chan answer, 1)
	go func() { done <- rt.do(r) }()
	eventually(t, func() bool { return len(bob.content(path)) == 500 })
	ticket := bob.part(path).ticket

	first, second := rt.login("demo", "alice", wire.Role_ROLE_SEND, ""), rt.login("demo", "alice", wire.Role_ROLE_SEND, "")
	namesake := rt.login("other", "alice", wire.Role_ROLE_SEND, "")
	kick := func(body map[string]any) (int, KickResult) {
		var result KickResult
		status, _ := adminCall(t, rt.srv, "POST", "/admin/v1/kick", body, &result)
		return status, result
	}
	var list SessionList
	adminCall(t, rt.srv, "GET", "/admin/v1/sessions?app=demo&user=alice", nil, &list)
	if status, result := kick(map[string]any{"app": "demo", "user": "alice", "session": list.Sessions[0].Session}); status != 200 || result.Kicked != 1 {
		t.Errorf("kick one = %d %+v", status, result)
	}
	off := func(c *rawClient) {
		t.Helper()
		if f := c.next(isLineOff); f.GetLineOff().Code != 10 || f.GetLineOff().Detail != adminOperator {
			t.Errorf("LineOff = %v", f)
		}
	}
	off(first)
	if status, result := kick(map[string]any{"app": "demo", "user": "alice"}); status != 200 || result.Kicked != 1 {
		t.Errorf("kick all = %d %+v", status, result)
	}
	off(second)
	if status, _ := kick(map[string]any{"app": "demo", "user": "alice"}); status != 404 {
		t.Errorf("kick nobody = %d", status)
	}
	namesake.send(commandFrame(&wire.Command{Id: wire.NewSendID(), Target: "nobody"}))
	namesake.next(func(f *wire.Frame) bool { return f.GetCommandResult() != nil })

	// A kicked receiver's lanes and tickets end with it.
	if status, result := kick(map[string]any{"app": "demo", "user": "bob"}); status != 200 || result.Kicked != 1 {
		t.Errorf("kick bob = %d %+v", status, result)
	}
	bob.lanes.Wait()
	rt.want(<-done, 409)
	close(rest)
	rt.want(rt.do(rt.request("GET", path, "", nil, "Authorization", "Ticket "+ticket)), 404)
	rt.login("demo", "bob", wire.Role_ROLE_LISTEN, placeA) // its token counts as before
	rt.stop()
	var codes []int64
	for _, l := range sink.events(t, auditLogout) {
		codes = append(codes, l.Code)
	}
	if !slices.Equal(codes[:3], []int64{10, 10, 10}) {
		t.Errorf("logouts have the codes %v", codes)
	}
}

func TestAdminCancels(t *testing.T) {
	sink := &testSink{}
	rt := newRelayTest(t, false, func(c *Config) { c.Audit.Writer = sink })
	bob := rt.receiver("bob", placeA)
	alice := rt.login("demo", "alice", wire.Role_ROLE_SEND, "")
	cancel := func(body map[string]any) (int, CancelResult) {
		var result CancelResult
		status, _ := adminCall(t, rt.srv, "POST", "/admin/v1/cancel", body, &result)
		return status, result
	}
	o := fileOffer(100)
	alice.offer(o)
	a := alice.accepted()
	rt.want(rt.patch(a.Url, "alice", 0, testContent(50)), 204)
	if status, result := cancel(map[string]any{"sendId": o.SendId}); status != 200 || result.Cancelled != 1 || result.Deciding != 0 {
		t.Errorf("cancel = %d %+v", status, result)
	}
	if v := alice.verdict(); v.Code != 1105 {
		t.Errorf("alice hears %v", v)
	}
	eventually(t, func() bool { p := bob.part(a.Url); bob.mu.Lock(); defer bob.mu.Unlock(); return p.canceled })
	if status, _ := cancel(map[string]any{"sendId": o.SendId}); status != 404 {
		t.Errorf("cancel again = %d", status)
	}

	// When the receiver has everything, it decides.
	bob.set(func() { bob.silent = true })
	late := fileOffer(10)
	alice.offer(late)
	a = alice.accepted()
	done := make(chan answer, 1)
	go func() { done <- rt.patch(a.Url, "alice", 0, testContent(10)) }()
	eventually(t, func() bool { return len(bob.content(a.Url)) == 10 })
	eventually(t, func() bool {
		var list TransferList
		adminCall(t, rt.srv, "GET", "/admin/v1/transfers", nil, &list)
		return len(list.Transfers) == 1 && list.Transfers[0].State == "verifying"
	})
	if status, result := cancel(map[string]any{"transfer": a.Transfer}); status != 200 || result.Cancelled != 0 || result.Deciding != 1 {
		t.Errorf("late cancel = %d %+v", status, result)
	}
	rt.want(<-done, 410)
	bob.set(func() { bob.silent = false })

	// Two users with one sendID: which one has to be said.
	same := fileOffer(100)
	alice.offer(same)
	alice.accepted()
	carol := rt.login("demo", "carol", wire.Role_ROLE_SEND, "")
	carol.offer(same)
	carol.accepted()
	if status, _ := cancel(map[string]any{"sendId": same.SendId}); status != 400 {
		t.Errorf("an ambiguous cancel = %d", status)
	}
	if status, result := cancel(map[string]any{"sendId": same.SendId, "from": "carol", "app": "demo"}); status != 200 || result.Cancelled != 1 {
		t.Errorf("carol's = %d %+v", status, result)
	}
	if v := carol.verdict(); v.Code != 1105 {
		t.Errorf("carol hears %v", v)
	}
	for _, body := range []map[string]any{{}, {"sendId": "x", "transfer": "y"}} {
		if status, _ := cancel(body); status != 400 {
			t.Errorf("%v = %d", body, status)
		}
	}
	rt.stop()
	admin := sink.events(t, auditAdmin)
	i := slices.IndexFunc(admin, func(l auditLine) bool { return l.Action == "cancel" })
	if l := admin[i]; l.App != "demo" || l.User != "alice" || l.Target != o.SendId || l.Count != 1 || l.Code != 0 {
		t.Errorf("the audit has %+v", l)
	}
}

func TestAdminRevokesAndLifts(t *testing.T) {
	sink := &testSink{}
	rt := newRelayTest(t, false, func(c *Config) { c.Audit.Writer = sink })
	alice := rt.login("demo", "alice", wire.Role_ROLE_SEND, "")
	body := map[string]any{"app": "demo", "user": "alice", "reason": "lost her phone"}
	var result, again RevokeResult
	status, text := adminCall(t, rt.srv, "POST", "/admin/v1/revocations", body, &result)
	if status != 201 || result.Ended != 1 || result.Kept || !strings.Contains(result.Problem, "revocations_file") || result.Reason != "lost her phone" {
		t.Errorf("revoke without a file = %d %s", status, text)
	}
	alice.next(isLineOff)
	if status, _ := adminCall(t, rt.srv, "POST", "/admin/v1/revocations", body, &again); status != 200 || again.ID != result.ID {
		t.Errorf("the same again = %d %+v", status, again)
	}
	adminCall(t, rt.srv, "POST", "/admin/v1/revocations", map[string]any{"app": "other", "jti": "x", "expires": time.Now().Add(time.Hour)}, nil)
	var list RevocationList
	adminCall(t, rt.srv, "GET", "/admin/v1/revocations", nil, &list)
	if len(list.Revocations) != 2 {
		t.Errorf("list: %+v", list)
	}
	adminCall(t, rt.srv, "GET", "/admin/v1/revocations?app=demo&user=alice", nil, &list)
	if len(list.Revocations) != 1 || list.Revocations[0].ID != result.ID {
		t.Errorf("alice's: %+v", list)
	}
	adminCall(t, rt.srv, "GET", "/admin/v1/revocations?limit=1", nil, &list)
	next := list.Next
	list = RevocationList{}
	adminCall(t, rt.srv, "GET", "/admin/v1/revocations?limit=1&after="+next, nil, &list)
	if next == "" || len(list.Revocations) != 1 || list.Revocations[0].ID <= next || list.Next != "" {
		t.Errorf("pages: %q, then %+v", next, list)
	}
	if got := rt.want(rt.do(rt.request("GET", "/metrics", "", nil)), 200).body; !strings.Contains(got, "dian_revocations 2\n") {
		t.Error("the metrics do not have two revocations")
	}
	if status, text := adminCall(t, rt.srv, "DELETE", "/admin/v1/revocations/"+result.ID, nil, nil); status != 200 || !strings.Contains(text, `"user":"alice"`) {
		t.Errorf("lift = %d %s", status, text)
	}
	for id, want := range map[string]int{result.ID: 404, "0123456789abcdef": 404, "x": 400, "0123456789ABCDEF": 400} {
		if status, _ := adminCall(t, rt.srv, "DELETE", "/admin/v1/revocations/"+id, nil, nil); status != want {
			t.Errorf("lift %s = %d, want %d", id, status, want)
		}
	}
	expired, err := mintAt(time.Now().Add(-2*time.Hour), devKey(), "demo", "alice", time.Hour, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []map[string]any{
		{}, {"app": "demo"}, {"user": "alice"}, {"app": "demo", "user": "alice", "jti": "x"}, {"app": "demo", "user": "\u202e"},
		{"app": "demo", "sha256": "00"}, {"app": "demo", "jti": strings.Repeat("x", 513)}, {"app": "demo", "jti": "x", "issuedBefore": time.Now()},
		{"app": "demo", "user": "a", "upToNow": true, "issuedBefore": time.Now()}, {"app": "demo", "user": "a", "reason": strings.Repeat("x", 257)},
		{"app": "demo", "user": "a", "expires": time.Now().Add(-time.Hour)}, {"app": "demo", "token": tokenOf(t, "demo", "a")},
		{"token": "x"}, {"token": expired}, {"token": tokenOf(t, "demo", "a") + "x"}, {"token": strings.Repeat("x", 9000)}, {"app": "demo", "user": "a", "more": 1},
	} {
		if status, text := adminCall(t, rt.srv, "POST", "/admin/v1/revocations", bad, nil); status/100 != 4 {
			t.Errorf("%.60v = %d %s", bad, status, text)
		}
	}
	rt.stop()
	var actions []string
	for _, l := range sink.events(t, auditAdmin) {
		if l.Action == "revoke" || l.Action == "unrevoke" {
			actions = append(actions, fmt.Sprint(l.Action, l.User, l.Code, l.Target == result.ID))
		}
	}
	if actions[0] != "revokealice0 true" || !slices.Contains(actions, "unrevokealice0 true") || len(actions) != 3+5+17 {
		t.Errorf("%d lines of revocations: %q", len(actions), actions)
	}
}

func TestFirstsAreThoseOfTheSortedList(t *testing.T) {
	for _, n := range []int{0, 1, 9, 10, 11, 1023, 1024, 1025, 5000} {
		list := rand.New(rand.NewPCG(1, uint64(n))).Perm(n)
		got, more := firsts(list, 10, func(a, b int) int { return a - b })
		want := min(n, 10)
		if len(got) != want || more != (n > 10) {
			t.Fatalf("%d: %d, more %v", n, len(got), more)
		}
		for i, v := range got {
			if v != i {
				t.Fatalf("%d: %v", n, got)
			}
		}
	}
}
