package transfer

import (
	"testing"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

// An offer that a stopping server has held back (8) is offered again after the
// reconnect. The receiver was there, so that it is not yet back (603) is no reason
// to fail.
func TestHeldOfferWaitsForThePeerToComeBack(t *testing.T) {
	const window = 2 * time.Minute
	now := time.Unix(1e9, 0)
	s := NewSender(SenderConfig{Size: 1 << 20, Window: window, OfferWait: time.Minute, Jitter: half}, now)
	offers := 0
	step := func(e SenderEvent) {
		for _, a := range s.Step(now, e) {
			if a.Do == SenderSendOffer {
				offers++
			}
		}
	}
	refuse := func(code wire.Code) {
		step(SenderVerdict{Result: SenderResult{Code: code, Origin: wire.Origin_ORIGIN_SERVER}})
	}
	tick := func() {
		at, ok := s.Wake()
		if !ok {
			t.Fatal("nothing is planned")
		}
		now = at
		step(SenderTick{})
	}
	step(SenderLineUp{})
	for range 3 {
		refuse(wire.ServiceFault)
		tick()
	}
	if offers != 4 || s.State() != SenderOffered {
		t.Fatalf("%d offers in %v, want it to be offered again and again", offers, s.State())
	}
	refuse(wire.ServiceFault)
	step(SenderLineDown{})
	now = now.Add(5 * time.Second)
	step(SenderLineUp{})
	up := now
	for now.Sub(up) < 10*time.Second {
		refuse(wire.PeerOffline)
		if s.State() != SenderOffered {
			t.Fatalf("%v after the reconnect it is %v: %+v", now.Sub(up), s.State(), s.Result())
		}
		tick()
	}
	for !s.State().Ended() {
		refuse(wire.PeerOffline)
		if !s.State().Ended() {
			tick()
		}
	}
	if waited := now.Sub(up); waited < window-10*time.Second || waited > window+10*time.Second {
		t.Errorf("it gave up after %v, want about %v", waited, window)
	}
}
