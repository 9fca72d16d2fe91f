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

// A line that comes back only to break again before the offer is answered does not
// keep the task alive for ever (case 90).
func TestOfferOnAFlappingLineEnds(t *testing.T) {
	const window, wait = 2 * time.Minute, 10 * time.Minute
	for _, up := range []time.Duration{10 * time.Millisecond, 5 * time.Second, time.Minute} {
		for _, down := range []time.Duration{10 * time.Millisecond, 5 * time.Second, time.Minute} {
			now := time.Unix(1e9, 0)
			began := now
			s := NewSender(SenderConfig{Size: 1 << 20, Window: window, OfferWait: wait, Jitter: half}, now)
			pass := func(d time.Duration) {
				for end := now.Add(d); !s.State().Ended(); {
					at, ok := s.Wake()
					if !ok || at.After(end) {
						now = end
						return
					}
					now = at
					s.Step(now, SenderTick{})
				}
			}
			for !s.State().Ended() && now.Sub(began) < time.Hour {
				s.Step(now, SenderLineUp{})
				pass(up)
				if !s.State().Ended() {
					s.Step(now, SenderLineDown{})
					pass(down)
				}
			}
			if took := now.Sub(began); !s.State().Ended() || took > wait+offerSlack+window {
				t.Errorf("up for %v, down for %v: %v after %v, want an end", up, down, s.State(), took)
			}
		}
	}
}

// An application that takes its time to answer is waited for over a lost line too.
func TestAnswerIsWaitedForOverALostLine(t *testing.T) {
	now := time.Unix(1e9, 0)
	s := NewSender(SenderConfig{Size: 1 << 20, Window: 2 * time.Minute, OfferWait: 10 * time.Minute, Jitter: half}, now)
	s.Step(now, SenderLineUp{})
	for range 8 {
		now = now.Add(time.Minute)
		s.Step(now, SenderTick{})
	}
	s.Step(now, SenderLineDown{})
	now = now.Add(time.Minute)
	s.Step(now, SenderTick{})
	s.Step(now, SenderLineUp{})
	now = now.Add(30 * time.Second)
	s.Step(now, SenderAccepted{Transfer: "t", URL: "/t", Instance: make([]byte, 16)})
	if s.State() != SenderStreaming {
		t.Errorf("it is %v: %+v", s.State(), s.Result())
	}
}
