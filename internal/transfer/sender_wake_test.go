package transfer

import (
	"testing"
	"time"
)

// A cancel waits for the server while the lane it lets end has unconfirmed bytes. A
// Wake that lies in the past, where a tick changes nothing, would spin.
func TestWakeOfACancelIsNotInThePast(t *testing.T) {
	now := time.Unix(1e9, 0)
	s := NewSender(SenderConfig{Size: 1 << 20, Window: 2 * time.Minute, OfferWait: time.Minute, Jitter: half}, now)
	for _, e := range []SenderEvent{
		SenderLineUp{},
		SenderAccepted{Transfer: "t", URL: "u"},
		SenderWrote{Lane: 1, Offset: 1 << 20},
		SenderDigested{},
		SenderCancel{},
	} {
		s.Step(now, e)
	}
	for ticks := 0; !s.State().Ended(); ticks++ {
		at, ok := s.Wake()
		if !ok || at.Before(now) || ticks > 3 {
			t.Fatalf("after %d ticks Wake = %v (%v), %v after now, in %v", ticks, at, ok, at.Sub(now), s.State())
		}
		now = at
		s.Step(now, SenderTick{})
	}
}
