package transfer

import (
	"testing"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

// A cancel that the server could not decide is answered by 8. Content that was in the
// offer may be with the receiver: only he knows, and he is asked again.
func TestCancelThatWasNotDecidedIsAskedAgain(t *testing.T) {
	now := time.Unix(1e9, 0)
	s := NewSender(SenderConfig{Size: 9, Inlined: true, Window: 2 * time.Minute, OfferWait: time.Minute, Jitter: half}, now)
	s.Step(now, SenderLineUp{})
	s.Step(now, SenderCancel{})
	s.Step(now, SenderVerdict{Result: SenderResult{Code: wire.ServiceFault, Origin: wire.Origin_ORIGIN_SERVER}})
	if s.State().Ended() {
		t.Fatalf("after 8 it is %v: %+v, want it to ask", s.State(), s.Result())
	}
	at, ok := s.Wake()
	if !ok {
		t.Fatal("nothing is planned")
	}
	var did []SenderDo
	for _, a := range s.Step(at, SenderTick{}) {
		did = append(did, a.Do)
	}
	if len(did) != 2 || did[0] != SenderSendOffer || did[1] != SenderSendCancel {
		t.Errorf("did %v, want an offer and the cancel", did)
	}
}

// A HEAD that tells of the whole content means that there is a verdict. It may have gone
// to nobody, as when a relay knew the transfer from its lanes alone: it is asked for.
func TestWholeHeadHasTheVerdictAskedFor(t *testing.T) {
	now := time.Unix(1e9, 0)
	s := NewSender(SenderConfig{Size: 100, Window: 2 * time.Minute, OfferWait: time.Minute, Jitter: half}, now)
	wake := func() SenderAction {
		t.Helper()
		at, ok := s.Wake()
		if !ok {
			t.Fatal("nothing is planned")
		}
		did := s.Step(at, SenderTick{})
		if len(did) != 1 {
			t.Fatalf("did %v, want one thing", did)
		}
		return did[0]
	}
	s.Step(now, SenderLineUp{})
	s.Step(now, SenderAccepted{Transfer: "t", URL: "u"})
	s.Step(now, SenderLaneEnded{Lane: 1, End: LaneBroken})
	head := wake()
	if head.Do != SenderAskHead {
		t.Fatalf("did %v, want a HEAD", head)
	}
	s.Step(now, SenderLaneEnded{Lane: head.Lane, End: LaneConfirmed, Offset: 100})
	if again := wake(); again.Do != SenderSendOffer {
		t.Errorf("did %v, want an offer", again)
	}
}
