package server

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

// The offer of a session that is over may be read after the one of the session that
// came for it. When the server notices the end, the transfer is the other's again.
func TestLateOfferOfADeadSessionDoesNotTakeTheVerdict(t *testing.T) {
	for _, ended := range []bool{false, true} {
		rt := newRelayTest(t, false, nil)
		bob := rt.receiver("bob", placeA)
		bob.silent = true
		old := rt.login("demo", "alice", wire.Role_ROLE_SEND, "")
		alice := rt.login("demo", "alice", wire.Role_ROLE_SEND, "")
		o := fileOffer(100)
		alice.offer(o)
		a := alice.accepted()
		rt.want(rt.patch(a.Url, "alice", 0, testContent(50)), 204)
		o.Resent = true
		old.offer(o)
		old.accepted()
		judge := func() {
			bob.mu.Lock()
			bob.silent = false
			bob.mu.Unlock()
			alice.finish(a.Transfer)
			rt.want(rt.patch(a.Url, "alice", 50, testContent(100)[50:]), 204)
			eventually(t, func() bool { p := bob.part(a.Url); bob.mu.Lock(); defer bob.mu.Unlock(); return p.done })
		}
		if ended { // the verdict goes to nobody, before
			judge()
		}
		old.conn.Close()
		if !ended {
			alice.accepted() // it is told how the transfer stands
			judge()
		}
		if v := alice.verdict(); v.Code != 0 || v.Origin != wire.Origin_ORIGIN_PEER {
			t.Errorf("ended before %v: Verdict = %v", ended, v)
		}
	}
}

func TestServerForgetsAndAsksAgain(t *testing.T) {
	rt := newRelayTest(t, false, nil)
	bob := rt.receiver("bob", placeA)
	content := testContent(1000)
	path := rt.create("alice", "bob", 1000, "")
	lost := rt.create("alice", "bob", 10, "")
	rt.want(rt.patch(path, "alice", 0, content[:400]), 204)
	rt.restart()
	bob.mu.Lock()
	delete(bob.parts, strings.TrimPrefix(lost, lanePathPrefix))
	bob.mu.Unlock()
	bob.attach(rt, placeA)
	a := rt.want(rt.head(path, "alice"), 200)
	if got := a.header.Get("Upload-Offset"); got != "400" {
		t.Errorf("Upload-Offset = %s, want 400", got)
	}
	rt.want(rt.patch(path, "alice", 400, content[400:]), 204)
	if !bytes.Equal(bob.content(path), content) {
		t.Error("other content")
	}
	rt.want(rt.head(lost, "alice"), 404)
	rt.restart()
	bob.attach(rt, placeA)
	a = rt.want(rt.head(path, "alice"), 200)
	if got := a.header.Get("Upload-Offset"); got != "1000" {
		t.Errorf("after have: Upload-Offset = %s, want 1000", got)
	}
}

func TestReceiverAwayIs423(t *testing.T) {
	rt := newRelayTest(t, false, nil)
	rt.srv.transfers.patience = 50 * time.Millisecond
	bob := rt.receiver("bob", placeA)
	bob.noLanes = true
	content := testContent(1000)
	path := rt.create("alice", "bob", 1000, "")
	bob.conn.Close()
	bob.lanes.Wait()
	eventually(t, func() bool { return rt.srv.listener("demo", "bob") == nil })
	rt.want(rt.head(path, "alice"), 423)
	rt.want(rt.patch(path, "alice", 0, content), 423)
	rt.srv.transfers.patience = 5 * time.Second
	bob.mu.Lock()
	bob.noLanes = false
	bob.mu.Unlock()
	bob.attach(rt, placeA)
	if err := rt.uploadAll(path, "alice", content, 1000); err != nil {
		t.Fatal(err)
	}
}

func TestAnotherInstanceNeverResumes(t *testing.T) {
	rt := newRelayTest(t, false, nil)
	rt.srv.transfers.patience = 100 * time.Millisecond
	bob := rt.receiver("bob", placeA)
	alice := rt.login("demo", "alice", wire.Role_ROLE_SEND, "")
	o := fileOffer(100)
	alice.offer(o)
	a := alice.accepted()
	rt.want(rt.patch(a.Url, "alice", 0, testContent(50)), 204)
	ticket := bob.part(a.Url).ticket
	second := rt.receiver("bob", placeB)
	// The ticket is revoked by the kick (404), or the transfer has ended by now (410).
	if status := rt.do(rt.request("GET", a.Url, "", nil, "Authorization", "Ticket "+ticket)).status; status != 404 && status != 410 {
		t.Errorf("a lane of the place that was kicked: %d", status)
	}
	if v := alice.verdict(); v.Code != 1104 { // at once, and not after the resume window
		t.Errorf("Verdict = %v, want 1104", v)
	}
	rt.want(rt.head(a.Url, "alice"), 404)
	o.Instance = a.Peer.Instance
	alice.offer(o)
	if v := alice.verdict(); v.Code != 1104 {
		t.Errorf("Verdict = %v, want 1104", v)
	}
	rt.restart() // a server that knows nothing of it says the same
	second.attach(rt, placeB)
	rt.want(rt.head(a.Url, "alice"), 404)
	second.mu.Lock()
	defer second.mu.Unlock()
	if len(second.parts) != 0 {
		t.Error("the other place was asked")
	}
}
