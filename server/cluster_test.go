package server

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dian-im/dian/internal/bus"
	nodes "github.com/dian-im/dian/internal/cluster"
	"github.com/dian-im/dian/internal/wire"
)

const testClusterSecret = "a secret of a test's cluster"

// clusterRelays starts relays that are one over a bus in memory, and waits until they
// know each other.
func clusterRelays(t *testing.T, n int, change ...func(*Config)) ([]*testRelay, *bus.Mem) {
	t.Helper()
	mem := bus.NewMem()
	var all []*testRelay
	for i := range n {
		join := func(cfg *Config) {
			cfg.Cluster = Cluster{
				Secret: NewSecret([]byte(testClusterSecret)), Listen: "127.0.0.1:0",
				Open: func(h bus.Handler) (bus.Bus, error) { return mem.Open(fmt.Sprint("n", i), h), nil },
			}
		}
		all = append(all, tcpRelay(t, append([]func(*Config){join}, change...)...))
	}
	for _, r := range all {
		become(t, "the nodes know each other", func() bool {
			r.srv.cluster.mu.RLock()
			defer r.srv.cluster.mu.RUnlock()
			known := r.srv.cluster.view.Nodes()
			for _, node := range known {
				if !r.srv.cluster.view.Proven(node.ID) {
					return false
				}
			}
			return len(known) == n-1
		})
	}
	return all, mem
}

// become waits for something that must become so.
func become(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not so: %s", what)
		}
	}
}

// knows waits until a relay knows where a user is.
func (r *testRelay) knows(user string) {
	r.t.Helper()
	become(r.t, user+" is known", func() bool {
		_, _, there := r.srv.cluster.carrier("app", user)
		return there
	})
}

// recorder joins the bus as somebody who has no secret, and writes down what is said to
// some subjects.
func recorder(t *testing.T, mem *bus.Mem, subjects ...string) (bus.Bus, func() []bus.Message) {
	t.Helper()
	var mu sync.Mutex
	var all []bus.Message
	rogue := mem.Open("rogue", bus.Handler{State: func(bool) {}, Message: func(m bus.Message) {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, bus.Message{Subject: m.Subject, Data: bytes.Clone(m.Data)})
	}})
	t.Cleanup(rogue.Close)
	for _, subject := range subjects {
		if _, err := rogue.Subscribe(subject); err != nil {
			t.Fatal(err)
		}
	}
	return rogue, func() []bus.Message {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(all)
	}
}

// A client of the bus without the secret gets nowhere: packets of its own, and such as
// it has recorded, do nothing (case 99).
func TestRogueOnTheBus(t *testing.T) {
	relays, mem := clusterRelays(t, 2)
	codec := relays[0].srv.cluster.codec // its subjects are no secret to who may listen
	rogue, recorded := recorder(t, mem, codec.All(), codec.Node(relays[0].srv.cluster.self), codec.Node(relays[1].srv.cluster.self))
	bob := relays[1].listen("bob")
	relays[0].knows("bob")
	alice := relays[0].sender("alice")
	c := &wire.Command{Id: wire.NewSendID(), Target: "bob", Stream: 1, Seq: 1, Floor: 1, Data: []byte("pay 10")}
	alice.send(commandFrame(c))
	got := bob.next().GetCommand()
	bob.send(ackFrame(&wire.CommandAck{Ref: got.Ref, Id: got.Id, Outcome: wire.CommandOutcome_COMMAND_OUTCOME_FINAL}))
	if r := alice.next().GetCommandResult(); r == nil || r.Code != 0 {
		t.Fatalf("result %v", r)
	}

	forged := nodes.NewCodec("main", []byte("another secret, which is long"))
	kick := &nodes.Message{Body: &nodes.Message_Kick{Kick: &nodes.Kick{App: "app", User: "bob"}}}
	for _, subject := range []string{codec.All(), codec.Node(relays[1].srv.cluster.self), codec.User(nodes.Place{App: "app", User: "bob"})} {
		packet, err := nodes.Append(nodes.Begin(nil), kick)
		if err != nil {
			t.Fatal(err)
		}
		forged.Seal(packet, subject, 77, 1)
		for _, data := range [][]byte{packet, packet[:10], {}, {1}, bytes.Repeat([]byte{0xff}, 100), packet[:len(packet)-1]} {
			if err := rogue.Publish(subject, data); err != nil {
				t.Fatal(err)
			}
		}
	}
	again := recorded()
	if len(again) < 3 {
		t.Fatalf("only %d packets were recorded", len(again))
	}
	for _, m := range again {
		for _, subject := range []string{m.Subject, codec.All(), codec.Node(relays[0].srv.cluster.self), codec.Node(relays[1].srv.cluster.self)} {
			if err := rogue.Publish(subject, m.Data); err != nil {
				t.Fatal(err)
			}
		}
	}
	c = &wire.Command{Id: wire.NewSendID(), Target: "bob", Stream: 1, Seq: 2, Floor: 2, Data: []byte("pay 20")}
	alice.send(commandFrame(c))
	if got := bob.next().GetCommand(); got == nil || string(got.Data) != "pay 20" {
		t.Fatalf("bob gets %v, want the next command alone", got)
	}
	if relays[1].srv.listener("app", "bob") == nil {
		t.Error("bob was kicked")
	}
	for _, r := range relays {
		if n := len(r.srv.cluster.nodeList()); n != 1 {
			t.Errorf("%d other nodes, want 1", n)
		}
	}
}

// What is recorded of a node that is gone does not bring it, or its users, to life.
func TestRecordedNodeIsNoNode(t *testing.T) {
	relays, mem := clusterRelays(t, 2)
	rogue, recorded := recorder(t, mem, relays[0].srv.cluster.codec.All(), relays[0].srv.cluster.codec.Node(relays[0].srv.cluster.self))
	relays[1].listen("bob")
	relays[0].knows("bob")
	relays[1].srv.cluster.kick(place{"app", "alice"}) // to be recorded
	become(t, "beats are recorded", func() bool { return len(recorded()) > 3 })
	again := recorded()
	relays[1].stop()
	become(t, "the node is gone", func() bool { return len(relays[0].srv.cluster.nodeList()) == 0 })
	alice := relays[0].listen("alice")
	for _, m := range again {
		if err := rogue.Publish(m.Subject, m.Data); err != nil {
			t.Fatal(err)
		}
	}
	become(t, "the packets were taken in", func() bool { return len(relays[0].srv.cluster.nodeList()) == 1 })
	time.Sleep(50 * time.Millisecond)
	if relays[0].srv.reach("app", "bob") != nil {
		t.Error("bob is there again")
	}
	if relays[0].srv.listener("app", "alice") == nil {
		t.Error("a recorded kick has kicked alice")
	}
	alice.conn.Close()
}

func (c *cluster) nodeList() []*nodes.Node {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.view.Nodes()
}

// The listener for other nodes gives nothing to whoever is none, and the header that
// marks a carried request counts nowhere else.
func TestLaneDoorIsForNodesAlone(t *testing.T) {
	relays, _ := clusterRelays(t, 2)
	relays[1].listen("bob")
	relays[0].knows("bob")
	door := relays[1].srv.cluster.lanes
	ask := func(url, path, mark string) int {
		t.Helper()
		r, err := http.NewRequest("GET", url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+relays[0].token("alice"))
		if mark != "" {
			r.Header.Set(carriedHeader, mark)
		}
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.StatusCode
	}
	from := addrOf("192.0.2.1:1")
	good := door.mark(time.Now(), from, "GET", "/v1/users/bob")
	for _, c := range []struct {
		name, path, mark string
		want             int
	}{
		{"good", "/v1/users/bob", good, 200},
		{"none", "/v1/users/bob", "", 404},
		{"another path", "/v1/users/carol", good, 404},
		{"another client", "/v1/users/bob", strings.Replace(good, "192.0.2.1", "192.0.2.2", 1), 404},
		{"another method", "/v1/users/bob", door.mark(time.Now(), from, "PUT", "/v1/users/bob"), 404},
		{"too old", "/v1/users/bob", door.mark(time.Now().Add(-time.Hour), from, "GET", "/v1/users/bob"), 404},
		{"from the future", "/v1/users/bob", door.mark(time.Now().Add(time.Hour), from, "GET", "/v1/users/bob"), 404},
		{"rubbish", "/v1/users/bob", "1 2 3", 404},
		{"metrics without", "/metrics", "", 404},
	} {
		if got := ask(door.url, c.path, c.mark); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
	// At the listener for clients it is one of a client's headers.
	limited, _ := clusterRelays(t, 1, func(cfg *Config) { cfg.Limits.Address.CommandsPerSecond = 1 })
	l := limited[0]
	refused := 0
	for i := range 20 {
		mark := l.srv.cluster.lanes.mark(time.Now(), addrOf(fmt.Sprintf("192.0.2.%d:1", i)), "GET", "/v1/users/bob")
		res, _ := l.do("GET", "/v1/users/bob", l.token("alice"), nil, carriedHeader, mark)
		if res.StatusCode == http.StatusServiceUnavailable {
			refused++
		}
	}
	if refused == 0 {
		t.Error("a client chooses the address that it is counted as")
	}
}

// A kick and a revocation at one node count at all; a node that was away when it was
// said learns of a revocation, and of one that was lifted, when it is back.
func TestOperatorsWordCountsEverywhere(t *testing.T) {
	relays, mem := clusterRelays(t, 2)
	bob := relays[1].listen("bob")
	relays[0].knows("bob")
	var kicked KickResult
	if status, text := adminCall(t, relays[0].srv, "POST", "/admin/v1/kick", kickRequest{App: "app", User: "bob"}, &kicked); status != 200 || kicked.Kicked != 1 {
		t.Fatalf("kick = %d %s", status, text)
	}
	if off := bob.next().GetLineOff(); off == nil || wire.Code(off.Code) != wire.Kicked {
		t.Fatalf("bob gets %v, want LineOff 10", off)
	}

	bob = relays[1].listen("bob")
	relays[0].knows("bob")
	var result RevokeResult
	if status, text := adminCall(t, relays[0].srv, "POST", "/admin/v1/revocations", revokeRequest{App: "app", User: "bob"}, &result); status != 201 {
		t.Fatalf("revoke = %d %s", status, text)
	}
	if off := bob.next().GetLineOff(); off == nil || wire.Code(off.Code) != wire.TokenRefused {
		t.Fatalf("bob gets %v, want LineOff 21", off)
	}

	mem.Cut("n1")
	become(t, "it is given up", func() bool { return len(relays[0].srv.cluster.nodeList()) == 0 })
	if status, text := adminCall(t, relays[0].srv, "DELETE", "/admin/v1/revocations/"+result.ID, nil, nil); status != 200 {
		t.Fatalf("unrevoke = %d %s", status, text)
	}
	if status, text := adminCall(t, relays[0].srv, "POST", "/admin/v1/revocations", revokeRequest{App: "app", User: "carol"}, nil); status != 201 {
		t.Fatalf("revoke = %d %s", status, text)
	}
	mem.Heal("n1")
	for _, r := range relays {
		become(t, "carol is revoked and bob is not", func() bool {
			list := r.srv.revoked.all(time.Now())
			return len(list) == 1 && list[0].User == "carol"
		})
	}
}

// A node that stops says so: the others know at once.
func TestNodeSaysGoodbye(t *testing.T) {
	relays, _ := clusterRelays(t, 3)
	relays[2].listen("bob")
	relays[0].knows("bob")
	relays[2].stop()
	for _, r := range relays[:2] {
		if n := len(r.srv.cluster.nodeList()); n != 1 { // it was said before it had ended
			become(t, "the node is gone", func() bool { return len(r.srv.cluster.nodeList()) == 1 })
		}
		if r.srv.reach("app", "bob") != nil {
			t.Error("bob is still there")
		}
	}
}

// A receiver whose session ends at one node while commands to it are on their way costs
// nobody a wrong result: LOST, and never a 0.
func TestCommandToASessionThatHasGone(t *testing.T) {
	relays, mem := clusterRelays(t, 2)
	bob := relays[1].listen("bob")
	relays[0].knows("bob")
	alice := relays[0].sender("alice")
	mem.Delay(100 * time.Millisecond)
	alice.send(commandFrame(&wire.Command{Id: wire.NewSendID(), Target: "bob", Stream: 1, Seq: 1, Floor: 1}))
	relays[1].hello(listenHello(relays[1].token("bob"), 1)) // the same instance again: another epoch
	if r := alice.next().GetCommandResult(); r == nil || r.Outcome != wire.CommandOutcome_COMMAND_OUTCOME_LOST {
		t.Fatalf("result %v, want LOST", r)
	}
	bob.conn.Close()
}

// A fresh subscription may not be known everywhere yet: that nobody has the user is
// believed when it is said twice.
func TestNobodyIsAskedTwice(t *testing.T) {
	relays, mem := clusterRelays(t, 2)
	mem.Lag(100 * time.Millisecond)
	mem.Drop(func(_, _, subject string) bool { return strings.HasSuffix(subject, ".all") }) // no announcements
	alice := relays[0].sender("alice")
	bob := relays[1].listen("bob")
	become(t, "the herald has told it", func() bool {
		h := relays[1].srv.cluster.subs
		h.tellMu.Lock()
		defer h.tellMu.Unlock()
		return len(h.here) == 1
	})
	alice.send(commandFrame(&wire.Command{Id: wire.NewSendID(), Target: "bob", Data: []byte("x")}))
	c := bob.next().GetCommand()
	if c == nil {
		t.Fatal("no command")
	}
	bob.send(ackFrame(&wire.CommandAck{Ref: c.Ref, Id: c.Id, Outcome: wire.CommandOutcome_COMMAND_OUTCOME_FINAL}))
	if r := alice.next().GetCommandResult(); r == nil || r.Code != 0 {
		t.Errorf("result %v, want 0", r)
	}
	alice.send(commandFrame(&wire.Command{Id: wire.NewSendID(), Target: "carol"}))
	if r := alice.next().GetCommandResult(); r == nil || wire.Code(r.Code) != wire.PeerOffline {
		t.Errorf("result %v, want 603", r)
	}
}

// Everything that stands for something at other nodes is gone when that is: nothing
// grows.
func TestClusterLeavesNothingBehind(t *testing.T) {
	relays, _ := clusterRelays(t, 2)
	bob := relays[1].listen("bob")
	relays[0].knows("bob")
	alice := relays[0].sender("alice")
	for i := range 20 {
		alice.send(&wire.Frame{Body: &wire.Frame_Offer{Offer: &wire.Offer{
			SendId: wire.NewSendID(), Target: "bob", Kind: wire.Kind_KIND_FILE, Size: int64(i), Name: "x",
		}}})
		if bob.next().GetOffer() == nil {
			t.Fatal("no offer")
		}
	}
	a, b := relays[0].srv.cluster, relays[1].srv.cluster
	count := func() string {
		a.mu.RLock()
		defer a.mu.RUnlock()
		b.mu.RLock()
		defer b.mu.RUnlock()
		return fmt.Sprint(len(a.listeners), len(a.routes), len(a.away), len(b.senders), len(b.listeners))
	}
	if got := count(); got != "0 0 1 1 0" {
		t.Errorf("while they are open: %s", got)
	}
	alice.send(commandFrame(&wire.Command{Id: wire.NewSendID(), Target: "bob"}))
	if bob.next().GetCommand() == nil {
		t.Fatal("no command")
	}
	if got := count(); got != "1 1 1 1 0" {
		t.Errorf("with a command under way: %s", got)
	}
	alice.conn.Close()
	become(t, "alice is forgotten", func() bool { return count() == "1 1 0 0 0" })
	bob.conn.Close()
	become(t, "bob is forgotten", func() bool { return count() == "0 0 0 0 0" })
	become(t, "no account is held", func() bool {
		relays[1].srv.quota.sweep()
		return relays[0].srv.quota.all.used[countTransfers].Load() == 0
	})
}

// A sender all of whose transfers are through is forgotten at their node when its
// session ends, too.
func TestStandInOfASenderThatIsThroughEnds(t *testing.T) {
	relays, _ := clusterRelays(t, 2)
	bob := relays[1].listen("bob")
	relays[0].knows("bob")
	alice := relays[0].sender("alice")
	alice.send(&wire.Frame{Body: &wire.Frame_Offer{Offer: &wire.Offer{
		SendId: wire.NewSendID(), Target: "bob", Kind: wire.Kind_KIND_FILE, Size: 1, Name: "x",
	}}})
	o := bob.next().GetOffer()
	bob.send(&wire.Frame{Body: &wire.Frame_Answer{Answer: &wire.Answer{
		Transfer: o.Transfer, Decision: wire.Decision_DECISION_REFUSE, Code: uint32(wire.PeerRefused),
	}}})
	v := alice.next().GetVerdict()
	if v == nil || wire.Code(v.Code) != wire.PeerRefused {
		t.Fatalf("verdict %v, want 606", v)
	}
	alice.send(&wire.Frame{Body: &wire.Frame_VerdictAck{VerdictAck: &wire.VerdictAck{Transfer: v.Transfer}}})
	b := relays[1].srv.cluster
	senders := func() int {
		b.mu.RLock()
		defer b.mu.RUnlock()
		return len(b.senders)
	}
	if senders() != 1 {
		t.Fatalf("%d stand-ins, want 1", senders())
	}
	alice.conn.Close()
	become(t, "it is gone", func() bool { return senders() == 0 })
}

// Clocks that are minutes apart make no difference to which of two logins is the newer
// one; a client that claims an absurd epoch moves nobody's clock (case 102).
func TestEpochsFollowWhatIsHeard(t *testing.T) {
	relays, _ := clusterRelays(t, 2)
	ahead := &relays[1].srv.dir.clock
	ahead.mu.Lock()
	ahead.last = uint64(time.Now().Add(5 * time.Minute).UnixMilli())
	ahead.mu.Unlock()
	relays[1].listen("bob")
	relays[0].knows("bob")
	carol := relays[0].listen("carol")
	if now := uint64(time.Now().Add(4 * time.Minute).UnixMilli()); carol.welcome.Epoch < now {
		t.Errorf("the login after bob's has the epoch %d, below what was heard", carol.welcome.Epoch)
	}
	relays[1].hello(&wire.Hello{Token: relays[1].token("dave"), Role: wire.Role_ROLE_LISTEN, Instance: instanceOf(4), LastEpoch: 1 << 61})
	relays[0].knows("dave")
	if eve := relays[0].listen("eve"); eve.welcome.Epoch > 1<<60 {
		t.Errorf("dave's claim is everybody's: %d", eve.welcome.Epoch)
	}
}

// A login that comes to a node from a client that has given it up meanwhile ends the
// client's live line in a way after which it comes again (case 89).
func TestLateLoginDoesNotShutItsClientOut(t *testing.T) {
	relays, _ := clusterRelays(t, 2)
	first := relays[0].listen("bob")
	h := listenHello(relays[0].token("bob"), 1)
	h.LastEpoch = first.welcome.Epoch
	live := relays[1].hello(h)
	first.ended(closeRestart)
	relays[0].knows("bob")
	late := relays[0].hello(h) // the same again, from before
	live.ended(closeRestart)
	h.LastEpoch = live.welcome.Epoch
	relays[1].knows("bob")
	relays[1].hello(h) // it comes again
	late.ended(closeRestart)
}

// A node that does not know where a receiver is does not tell his lane that there is no
// such transfer: he would believe it. To whoever has made a ticket up it does.
func TestLaneAtANodeThatDoesNotKnow(t *testing.T) {
	relays, mem := clusterRelays(t, 2)
	bob := relays[1].listen("bob")
	relays[0].knows("bob")
	alice := relays[0].sender("alice")
	alice.send(&wire.Frame{Body: &wire.Frame_Offer{Offer: &wire.Offer{
		SendId: wire.NewSendID(), Target: "bob", Kind: wire.Kind_KIND_FILE, Size: 1 << 20, Name: "x",
	}}})
	o := bob.next().GetOffer()
	mem.Cut("n1")
	become(t, "its node is given up", func() bool { return len(relays[0].srv.cluster.nodeList()) == 0 })
	res, text := relays[0].do("GET", o.Url, "", nil, "Authorization", "Ticket "+o.Ticket)
	if res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a good ticket: %d %s, want 503", res.StatusCode, text)
	}
	forged := strings.Split(o.Ticket, ".")
	for _, bad := range []string{"", "x", "x.y", "x.y.z", o.Ticket + "z", "." + o.Ticket, forged[0] + "." + strings.Repeat("0", 16) + "." + forged[2]} {
		if res, text := relays[0].do("GET", o.Url, "", nil, "Authorization", "Ticket "+bad); res.StatusCode != http.StatusNotFound {
			t.Errorf("ticket %q: %d %s, want 404", bad, res.StatusCode, text)
		}
	}
}

// A cancel that crosses the news that the line between the nodes broke is answered all the
// same.
func TestCancelBehindABrokenLineIsAnswered(t *testing.T) {
	relays, _ := clusterRelays(t, 2)
	bob := relays[1].listen("bob")
	relays[0].knows("bob")
	alice := relays[0].sender("alice")
	id := wire.NewSendID()
	alice.send(&wire.Frame{Body: &wire.Frame_Offer{Offer: &wire.Offer{
		SendId: id, Target: "bob", Kind: wire.Kind_KIND_FILE, Size: 1 << 20, Name: "x",
	}}})
	o := bob.next().GetOffer()
	bob.send(&wire.Frame{Body: &wire.Frame_Answer{Answer: &wire.Answer{
		Transfer: o.Transfer, Decision: wire.Decision_DECISION_ACCEPT, Receipt: wire.Receipt_RECEIPT_STORED,
	}}})
	if alice.next().GetAccepted() == nil {
		t.Fatal("not accepted")
	}
	relays[0].srv.cluster.broken(relays[1].srv.cluster.self)
	if s := alice.next().GetStanding(); s == nil || s.State != wire.TransferState_TRANSFER_STATE_UNKNOWN {
		t.Fatalf("%v, want UNKNOWN", s)
	}
	alice.send(&wire.Frame{Body: &wire.Frame_Cancel{Cancel: &wire.Cancel{SendId: id, Transfer: o.Transfer}}})
	if v := alice.next().GetVerdict(); v == nil || wire.Code(v.Code) != wire.Cancelled {
		t.Errorf("%v, want the verdict 1105", v)
	}
}
