package server

import (
	"testing"
	"testing/synctest"

	"github.com/dian-im/dian/internal/memnet"
	"github.com/dian-im/dian/internal/wire"
)

func TestSlowReceiverIsSharedBySenders(t *testing.T) { // case 49
	synctest.Test(t, func(t *testing.T) {
		r := memRelay(t)
		mallory, alice, bob, carol := r.sender("mallory"), r.sender("alice"), r.listen("bob"), r.listen("carol")
		toMallory, toAlice, toBob, toCarol := mallory.gather(), alice.gather(), bob.gather(), carol.gather()
		bob.conn.NetConn().(*memnet.Conn).Stall()
		flood := func(p *testPeer, to *gatherer) (busy int) {
			const n = 100 // 6.4 MB, more than bob's queue takes of commands
			for range n {
				p.send(commandFrame(&wire.Command{Id: wire.NewSendID(), Target: "bob", Data: make([]byte, wire.CommandBytes)}))
			}
			codes := to.codes()
			if busy = occurs(codes, wire.PeerBusy); busy != len(codes) {
				t.Fatalf("results %v, want 602 alone", codes)
			}
			return busy
		}
		full := commandShare(8 << 20)
		held := func() int64 { return r.srv.listener("app", "bob").party.user.used[countQueued].Load() }
		if busy := flood(mallory, toMallory); busy < 50 {
			t.Errorf("%d commands of one sender were refused, want half of them", busy)
		}
		if held() > full/2+128<<10 || held() < full/3 {
			t.Errorf("one sender holds %d bytes, want about half of %d", held(), full)
		}
		before := held()
		flood(alice, toAlice)
		if more := held() - before; more < full/6 || held() > full {
			t.Errorf("the second sender holds %d bytes of %d", more, full)
		}
		mallory.send(commandFrame(&wire.Command{Id: wire.NewSendID(), Target: "carol"}))
		if got := toCarol.take(); len(got) != 1 {
			t.Errorf("carol got %v, want the command", got)
		}
		if r.srv.listener("app", "bob") == nil {
			t.Error("the slow receiver was ended")
		}
		bob.conn.NetConn().(*memnet.Conn).Resume()
		got := toBob.take()
		for _, f := range got {
			bob.send(ackFrame(&wire.CommandAck{Ref: f.GetCommand().Ref, Id: f.GetCommand().Id, Outcome: final}))
		}
		if codes := append(toMallory.codes(), toAlice.codes()...); occurs(codes, 0) != len(got) {
			t.Errorf("results %v of %d commands", codes, len(got))
		}
		if n := r.srv.quota.all.used[countQueued].Load(); n != commandOverhead { // carol has not acked
			t.Errorf("%d bytes are still counted", n)
		}
		if n := len(r.srv.listener("app", "bob").shares.by); n != 1 { // mallory has turned to carol
			t.Errorf("%d shares are kept, want alice's", n)
		}
	})
}
