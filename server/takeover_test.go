package server

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dian-im/dian/internal/memnet"
	"github.com/dian-im/dian/internal/wire"
)

func TestNewerLoginKicksTheOlder(t *testing.T) {
	r := tcpRelay(t)
	old := r.listen("bob")
	h := listenHello(r.token("bob"), 2)
	h.LastEpoch = old.welcome.Epoch + 1000
	now := r.hello(h)
	old.lineOff(wire.Kicked)
	if now.welcome.Epoch <= h.LastEpoch {
		t.Errorf("epoch %d, want above the client's last, %d", now.welcome.Epoch, h.LastEpoch)
	}
	next := r.listen("bob")
	if next.welcome.Epoch <= now.welcome.Epoch {
		t.Errorf("epoch %d after %d", next.welcome.Epoch, now.welcome.Epoch)
	}
	now.lineOff(wire.Kicked)
	// A command goes to the one that is left.
	alice := r.sender("alice")
	alice.send(commandFrame(&wire.Command{Id: wire.NewSendID(), Target: "bob"}))
	next.command()
}

// A listener that was asleep while another instance logged in finds itself kicked
// when it wakes up, and does not take the place back (case 89).
func TestSleeperDoesNotKickWhoTookItsPlace(t *testing.T) {
	r := tcpRelay(t)
	old := r.listen("bob")
	old.conn.Close()
	h := listenHello(r.token("bob"), 2)
	now := r.hello(h)
	again := listenHello(r.token("bob"), 1)
	again.LastEpoch = old.welcome.Epoch
	sleeper := r.dial(wire.ProtoSubprotocol)
	sleeper.send(helloFrame(again))
	sleeper.lineOff(wire.Kicked)
	alice := r.sender("alice")
	alice.send(commandFrame(&wire.Command{Id: wire.NewSendID(), Target: "bob"}))
	now.command()
	// Whoever holds the place may come back over a new line, and a new login may take it.
	h.LastEpoch = now.welcome.Epoch
	now = r.hello(h)
	again.LastEpoch = 0
	r.hello(again)
	now.lineOff(wire.Kicked)
}

func TestSenderKicksNobody(t *testing.T) {
	r := tcpRelay(t)
	bob := r.listen("bob")
	one, two := r.sender("bob"), r.sender("bob")
	id := wire.NewSendID()
	for _, p := range []*testPeer{one, two} {
		p.send(commandFrame(&wire.Command{Id: id, Target: "bob"}))
		c := bob.command()
		bob.send(ackFrame(&wire.CommandAck{Ref: c.Ref, Id: id, Outcome: wire.CommandOutcome_COMMAND_OUTCOME_FINAL}))
		if got := p.result(); got.Code != 0 || got.Id != id {
			t.Errorf("result %v", got)
		}
	}
	// A sender alone cannot be addressed.
	carol := r.sender("carol")
	one.send(commandFrame(&wire.Command{Id: id, Target: "carol"}))
	one.finalCode(id, wire.PeerOffline)
	carol.conn.Close()
}

func TestNewLoginDoesNotWaitForABlockedWriter(t *testing.T) { // case 35
	synctest.Test(t, func(t *testing.T) {
		r := memRelay(t)
		old := r.listen("bob")
		alice := r.listen("alice")
		old.conn.NetConn().(*memnet.Conn).Stall()
		// Its writer is blocked in the middle of this.
		for range 4 {
			alice.send(commandFrame(&wire.Command{Id: wire.NewSendID(), Target: "bob", Data: make([]byte, wire.CommandBytes)}))
		}
		synctest.Wait()
		start := time.Now()
		now := r.hello(listenHello(r.token("bob"), 2))
		if took := time.Since(start); took > time.Second {
			t.Errorf("live after %v, want at most 1s", took)
		}
		for range 4 { // each sender is told at once that the fate is unknown
			if got := alice.result(); got.Outcome != wire.CommandOutcome_COMMAND_OUTCOME_LOST {
				t.Errorf("result %v, want LOST", got)
			}
		}
		id := wire.NewSendID()
		alice.send(commandFrame(&wire.Command{Id: id, Target: "bob"}))
		if c := now.command(); c.Id != id {
			t.Errorf("got %s, want %s", c.Id, id)
		}
		time.Sleep(6 * time.Second)
		if got := len(r.srv.all()); got != 2 {
			t.Errorf("%d sessions, want 2: the blocked one has to be gone in 5s", got)
		}
	})
}

func TestLateFramesOfTheOlderSessionAreIgnored(t *testing.T) { // case 35
	synctest.Test(t, func(t *testing.T) {
		r := memRelay(t)
		old := r.listen("bob")
		alice := r.listen("alice")
		id := wire.NewSendID()
		alice.send(commandFrame(&wire.Command{Id: id, Target: "bob"}))
		c := old.command()
		now := r.hello(listenHello(r.token("bob"), 2))
		old.send(ackFrame(&wire.CommandAck{Ref: c.Ref, Id: id, Outcome: wire.CommandOutcome_COMMAND_OUTCOME_FINAL}),
			commandFrame(&wire.Command{Id: wire.NewSendID(), Target: "alice"}),
			&wire.Frame{Body: &wire.Frame_Status{Status: &wire.Status{Busy: true}}})
		if got := alice.result(); got.Outcome != wire.CommandOutcome_COMMAND_OUTCOME_LOST {
			t.Errorf("result %v, want LOST", got)
		}
		old.lineOff(wire.Kicked)
		now.send(commandFrame(&wire.Command{Id: id, Target: "alice"}))
		if c := alice.command(); c.Id != id {
			t.Errorf("a late command was delivered: %v", c)
		}
		if got := r.srv.stateOf("app", "bob"); got.Status != statusOnline {
			t.Errorf("a late status counts: %v", got)
		}
	})
}

func TestOneOfHundredLoginsStays(t *testing.T) { // case 35
	r := tcpRelay(t)
	token := r.token("bob")
	peers := make([]*testPeer, 100)
	var logins sync.WaitGroup
	for i := range peers {
		peers[i] = r.dial(wire.ProtoSubprotocol)
		logins.Go(func() { peers[i].send(helloFrame(listenHello(token, 1))) })
	}
	logins.Wait()
	stay := 0
	var mu sync.Mutex
	for _, p := range peers {
		logins.Go(func() {
			p.conn.SetReadDeadline(time.Now().Add(3 * time.Second))
			for {
				f, err := p.read()
				switch {
				case err != nil: // nothing more came
					mu.Lock()
					stay++
					mu.Unlock()
					return
				case f.GetLineOff() != nil:
					if wire.Code(f.GetLineOff().Code) != wire.Kicked {
						t.Errorf("LineOff %v", f)
					}
					return
				}
			}
		})
	}
	logins.Wait()
	if stay != 1 || len(r.srv.all()) != 1 {
		t.Errorf("%d connections and %d sessions stay, want 1", stay, len(r.srv.all()))
	}
}

func TestKickFightIsDamped(t *testing.T) { // case 34
	r := tcpRelay(t)
	token := r.token("bob")
	for i := range kicksAtOnce + 1 {
		r.hello(listenHello(token, byte(i)))
	}
	p := r.dial(wire.ProtoSubprotocol)
	p.send(helloFrame(listenHello(token, 99)))
	p.lineOff(wire.OverLimit)
	// The instance that has the place may reconnect as often as it has to.
	for range 2 * kicksAtOnce {
		r.hello(listenHello(token, byte(kicksAtOnce)))
	}
}
