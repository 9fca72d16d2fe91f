package server

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

// auditedTest is a relayTest whose audit the test reads.
func auditedTest(t *testing.T, change func(*Config)) (*relayTest, *testSink) {
	sink := &testSink{}
	return newRelayTest(t, false, func(c *Config) {
		c.Audit.Writer = sink
		if change != nil {
			change(c)
		}
	}), sink
}

// tasks waits until so many tasks have a line, ends the relay, and returns all.
func (rt *relayTest) tasks(sink *testSink, n int) []auditLine {
	rt.t.Helper()
	eventually(rt.t, func() bool { return strings.Count(sink.text(), `"event":"task"`) >= n })
	rt.stop()
	return sink.events(rt.t, auditTask)
}

func (rt *relayTest) put(user, sendID, content string) answer {
	rt.t.Helper()
	r := rt.request("PUT", "/v1/users/bob/files/secret-name.txt", user, strings.NewReader(content))
	if sendID != "" {
		r.Header.Set("Dian-Send-Id", sendID)
	}
	return rt.do(r)
}

// fileLine is the line of a file from alice to bob that went well.
func fileLine(id string, size int64, change func(*auditLine)) auditLine {
	l := auditLine{App: "demo", To: "bob", Kind: "file", Via: "session", SendID: id, Size: size, Bytes: size, By: "peer", Receipt: "stored"}
	if change != nil {
		change(&l)
	}
	return l
}

// failed is a result that is not 0.
func failed(code wire.Code, by string, bytes int64) func(*auditLine) {
	return func(l *auditLine) { l.Code, l.By, l.Bytes, l.Receipt = int64(code), by, bytes, "" }
}

func TestAuditOfTransfersThatGoWell(t *testing.T) {
	rt, sink := auditedTest(t, nil)
	bob := rt.receiver("bob", placeA)
	alice := rt.login("demo", "alice", wire.Role_ROLE_SEND, "")

	inline := fileOffer(5)
	inline.Kind, inline.Inlined, inline.Inline = wire.Kind_KIND_BUFFER, true, []byte("hello")
	for range 2 { // offered again, because the verdict was lost
		alice.offer(inline)
		alice.verdict()
	}
	lanes := fileOffer(1000)
	alice.offer(lanes)
	a := alice.accepted()
	alice.finish(a.Transfer)
	rt.want(rt.patch(a.Url, "alice", 0, testContent(1000)), 204)
	alice.verdict()
	alice.offer(lanes)
	alice.verdict()
	empty := fileOffer(0)
	alice.offer(empty)
	alice.accepted()
	alice.finish(bob.transferOf(empty.SendId))
	alice.verdict()

	put := wire.NewSendID()
	rt.want(rt.put("alice", put, "hello"), 200)
	tus := wire.NewSendID()
	path := rt.create("alice", "bob", 7, "sendId "+b64(tus))
	rt.want(rt.patch(path, "alice", 0, []byte("hel")), 204)
	rt.want(rt.patch(path, "alice", 3, []byte("lo w")), 204)
	rt.want(rt.head(path, "alice"), 200)

	got := rt.tasks(sink, 5)
	wantTasks(t, got,
		fileLine(inline.SendId, 5, func(l *auditLine) { l.Kind = "buffer" }),
		fileLine(lanes.SendId, 1000, nil),
		fileLine(empty.SendId, 0, nil),
		fileLine(put, 5, func(l *auditLine) { l.Via = "put" }),
		fileLine(tus, 7, func(l *auditLine) { l.Via = "tus" }),
	)
	for _, l := range got {
		if l.FromAddress != "127.0.0.1" || l.ToAddress != "127.0.0.1" || time.Since(l.Time) > time.Minute {
			t.Errorf("time or addresses: %+v", l)
		}
	}
	if strings.Contains(sink.text(), "secret-name") {
		t.Error("a file's name is in the audit")
	}
}

func TestAuditOfTransfersThatFail(t *testing.T) {
	rt, sink := auditedTest(t, func(c *Config) { c.OfferWait, c.HTTPOfferWait = 300*time.Millisecond, 300*time.Millisecond })
	bob := rt.receiver("bob", placeA)
	alice := rt.login("demo", "alice", wire.Role_ROLE_SEND, "")
	verdict := func(o *wire.Offer) string {
		alice.offer(o)
		alice.verdict()
		return o.SendId
	}
	var want []auditLine
	add := func(id string, size int64, change ...func(*auditLine)) {
		want = append(want, fileLine(id, size, func(l *auditLine) {
			for _, c := range change {
				c(l)
			}
		}))
	}
	to := func(user string) func(*auditLine) { return func(l *auditLine) { l.To = user } }
	via := func(via string) func(*auditLine) { return func(l *auditLine) { l.Via = via } }

	offline := fileOffer(10)
	offline.Target = "carol"
	add(verdict(offline), 10, failed(wire.PeerOffline, "relay", 0), to("carol"))
	bad := fileOffer(-1)
	add(verdict(bad), 0, failed(wire.BadParameter, "relay", 0))
	id := wire.NewSendID()
	rt.want(rt.do(rt.request("PUT", "/v1/users/dave/files/x", "alice", strings.NewReader("abc"), "Dian-Send-Id", id)), 404)
	add(id, 3, failed(wire.PeerOffline, "relay", 0), to("dave"), via("put"))

	bob.set(func() { bob.refuse = uint32(wire.PeerRefused) })
	add(verdict(fileOffer(10)), 10, failed(wire.PeerRefused, "peer", 0))
	inline := fileOffer(5) // the offer had it
	inline.Inlined, inline.Inline = true, []byte("hello")
	add(verdict(inline), 5, failed(wire.PeerRefused, "peer", 5))
	id = wire.NewSendID()
	rt.want(rt.do(rt.request("POST", "/v1/users/bob/transfers", "alice", nil, "Upload-Length", "3", "Upload-Metadata", "sendId "+b64(id))), 403)
	add(id, 3, failed(wire.PeerRefused, "peer", 0), via("tus"))

	bob.set(func() { bob.refuse, bob.hold = 0, true })
	add(verdict(fileOffer(10)), 10, failed(wire.PeerNoAnswer, "relay", 0)) // expires
	bob.set(func() { bob.hold = false })

	cancelled := fileOffer(100)
	alice.offer(cancelled)
	a := alice.accepted()
	rt.want(rt.patch(a.Url, "alice", 0, testContent(50)), 204)
	alice.send(cancelOf(cancelled.SendId))
	alice.verdict()
	alice.send(cancelOf(cancelled.SendId)) // of what has ended: no task of its own
	alice.verdict()
	alice.send(cancelOf(wire.NewSendID()))
	alice.verdict()
	add(cancelled.SendId, 100, failed(wire.Cancelled, "relay", 50))

	byPeer := fileOffer(100)
	alice.offer(byPeer)
	a = alice.accepted()
	bob.send(&wire.Frame{Body: &wire.Frame_Verdict{Verdict: &wire.Verdict{Transfer: a.Transfer, Code: 1105}}})
	alice.verdict()
	add(byPeer.SendId, 100, failed(wire.Cancelled, "peer", 0))

	moved := fileOffer(100)
	alice.offer(moved)
	a = alice.accepted()
	rt.want(rt.patch(a.Url, "alice", 0, testContent(50)), 204)
	rt.receiver("bob", placeB)
	alice.verdict()
	add(moved.SendId, 100, failed(wire.BadSendID, "relay", 50))

	wantTasks(t, rt.tasks(sink, len(want)), want...)
}

func TestAuditOfAForgottenTransfer(t *testing.T) {
	rt, sink := auditedTest(t, func(c *Config) { c.ResumeWindow = 300 * time.Millisecond })
	rt.receiver("bob", placeA)
	alice := rt.login("demo", "alice", wire.Role_ROLE_SEND, "")
	o := fileOffer(10)
	alice.offer(o)
	a := alice.accepted()
	rt.want(rt.patch(a.Url, "alice", 0, []byte("abc")), 204)
	if v := alice.verdict(); v.Code != 207 {
		t.Fatalf("Verdict = %v", v)
	}
	alice.offer(o) // again, which is another attempt with a result of its own
	a = alice.accepted()
	alice.finish(a.Transfer)
	rt.want(rt.patch(a.Url, "alice", 3, []byte("defghij")), 204)
	alice.verdict()
	wantTasks(t, rt.tasks(sink, 2), fileLine(o.SendId, 10, failed(wire.ConnectionLost, "relay", 3)), fileLine(o.SendId, 10, nil))
}

// TestAuditOfATransferThatTheReceiverLost: it is offered again and has one line, or is
// not, and has one.
func TestAuditOfATransferThatTheReceiverLost(t *testing.T) {
	for _, again := range []bool{true, false} {
		rt, sink := auditedTest(t, nil)
		bob := rt.receiver("bob", placeA)
		alice := rt.login("demo", "alice", wire.Role_ROLE_SEND, "")
		o := fileOffer(10)
		alice.offer(o)
		a := alice.accepted()
		rt.want(rt.patch(a.Url, "alice", 0, []byte("abc")), 204)
		bob.leave(rt)
		bob.set(func() { bob.parts = map[string]*receivedPart{} })
		bob.attach(rt, placeA)
		alice.next(func(f *wire.Frame) bool { return f.GetStanding() != nil })
		want := fileLine(o.SendId, 10, failed(wire.BadSendID, "relay", 3))
		want.Outcome = outcomeForgotten
		if again {
			alice.offer(o)
			a = alice.accepted()
			alice.finish(a.Transfer)
			rt.want(rt.patch(a.Url, "alice", 0, []byte("abcdefghij")), 204)
			alice.verdict()
			want = fileLine(o.SendId, 10, nil)
		}
		rt.stop()
		wantTasks(t, sink.events(t, auditTask), want)
	}

	rt, sink := auditedTest(t, nil)
	bob := rt.receiver("bob", placeA)
	id := wire.NewSendID()
	path := rt.create("alice", "bob", 10, "sendId "+b64(id))
	bob.leave(rt)
	bob.set(func() { bob.parts = map[string]*receivedPart{} })
	bob.attach(rt, placeA)
	eventually(t, func() bool { return rt.head(path, "alice").status == 404 }) // final for a tus client
	rt.want(rt.head(path, "alice"), 404)                                       // asked once more
	rt.stop()
	wantTasks(t, sink.events(t, auditTask), fileLine(id, 10, func(l *auditLine) {
		failed(wire.BadSendID, "relay", 0)(l)
		l.Via = "tus"
	}))
}

func TestAuditOfATransferThatMovesToAnotherPlace(t *testing.T) {
	rt, sink := auditedTest(t, nil)
	bob := rt.receiver("bob", placeA)
	alice := rt.login("demo", "alice", wire.Role_ROLE_SEND, "")
	o := fileOffer(10)
	alice.offer(o)
	alice.accepted()
	// The offer is on its way again when the user comes up elsewhere.
	bob.leave(rt)
	ts := rt.srv.transfers
	ts.mu.Lock()
	tr := ts.table[transferKey{"demo", "alice", "bob", o.SendId}]
	drop(ts.target, place{"demo", "bob"}, tr) // as if it looked a moment too early
	ts.mu.Unlock()
	rt.receiver("bob", placeB)
	alice.offer(o)
	a := alice.accepted()
	alice.finish(a.Transfer)
	rt.want(rt.patch(a.Url, "alice", 0, []byte("abcdefghij")), 204)
	alice.verdict()
	rt.stop()
	wantTasks(t, sink.events(t, auditTask), fileLine(o.SendId, 10, nil))
}

// TestAuditOverARestart: what a relay cannot know, the line says.
func TestAuditOverARestart(t *testing.T) {
	rt, sink := auditedTest(t, nil)
	bob := rt.receiver("bob", placeA)
	id, whole := wire.NewSendID(), wire.NewSendID()
	path := rt.create("alice", "bob", 10, "sendId "+b64(id))
	rt.want(rt.patch(path, "alice", 0, []byte("abcd")), 204)
	done := rt.create("alice", "bob", 3, "sendId "+b64(whole))
	rt.want(rt.patch(done, "alice", 0, []byte("abc")), 204)
	rt.restart()
	bob.attach(rt, placeA)
	rt.want(rt.head(path, "alice"), 200) // rebuilt
	rt.want(rt.patch(path, "alice", 4, []byte("efghij")), 204)
	rt.want(rt.head(done, "alice"), 200) // rebuilt, and there before
	tus := func(l *auditLine) { l.Via = "tus" }
	got := rt.tasks(sink, 4)
	wantTasks(t, got,
		fileLine(whole, 3, tus),
		fileLine(id, 10, func(l *auditLine) {
			failed(wire.ServiceFault, "relay", 4)(l)
			l.Via, l.Outcome = "tus", outcomeUnfinished
		}),
		fileLine(id, 10, tus),
		fileLine(whole, 3, func(l *auditLine) { l.Via, l.Had = "tus", true }),
	)
	var relay []string
	for _, l := range sink.events(t, auditRelay) {
		relay = append(relay, l.Action)
	}
	if strings.Join(relay, " ") != "start stop start stop" {
		t.Errorf("the relay's own lines: %v", relay)
	}
}

func TestAuditRefusesTransfersWhenItFails(t *testing.T) {
	rt, sink := auditedTest(t, func(c *Config) { c.Audit.WhenFailing = AuditFail })
	rt.receiver("bob", placeA)
	alice := rt.login("demo", "alice", wire.Role_ROLE_SEND, "")
	running := fileOffer(10)
	alice.offer(running)
	a := alice.accepted()
	path := rt.create("alice", "bob", 10, "")
	eventually(t, func() bool { return len(sink.events(t, auditLogin)) == 2 }) // both are written
	sink.set(func(s *testSink) { s.err = errors.New("no") })
	rt.want(rt.put("alice", "", "x"), 200) // its line cannot be written
	eventually(t, func() bool { return rt.srv.audit.shut.Load() })

	rt.want(rt.put("alice", "", "x"), 503)
	rt.want(rt.do(rt.request("POST", "/v1/users/bob/transfers", "alice", nil, "Upload-Length", "3")), 503)
	alice.offer(fileOffer(10))
	if v := alice.verdict(); wire.Code(v.Code) != wire.ServiceFault {
		t.Errorf("a new offer: %v, want 8", v)
	}
	// What runs ends well, however it goes on.
	alice.offer(running)
	alice.accepted()
	alice.finish(a.Transfer)
	rt.want(rt.patch(a.Url, "alice", 0, []byte("0123456789")), 204)
	alice.verdict()
	rt.want(rt.patch(path, "alice", 0, []byte("0123456789")), 204)
	sink.set(func(s *testSink) { s.err = nil })
	got := rt.tasks(sink, 3)
	if len(got) != 3 {
		t.Errorf("%d tasks, want 3: %+v", len(got), got)
	}
	if lost := sink.events(t, auditLost); len(lost) != 1 || lost[0].RefusedTasks != 3 || lost[0].Lines != 0 {
		t.Errorf("lost = %+v, want three refused tasks", lost)
	}
}

// TestAuditOfASlowDiskSlowsNobody: a write that never ends holds up no task.
func TestAuditOfASlowDiskSlowsNobody(t *testing.T) {
	rt, sink := auditedTest(t, nil)
	stall := make(chan struct{})
	sink.set(func(s *testSink) { s.stall = stall })
	rt.receiver("bob", placeA)
	for range 20 {
		rt.want(rt.put("alice", "", "hello"), 200)
	}
	if waiting, _ := rt.srv.audit.state(); waiting < 20 {
		t.Errorf("%d lines wait, want all: did they not go through the queue?", waiting)
	}
	close(stall)
	if got := rt.tasks(sink, 20); len(got) != 20 {
		t.Errorf("%d lines, want 20", len(got))
	}
}
