package transfer

import (
	"testing"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

// A server that has restarted knows a transfer from its lanes alone while the
// sender's offer was refused, because the receiver was not back yet. When the
// content is whole the sender asks for the verdict, which nobody was there to get.
func TestSenderAsksForAVerdictThatDoesNotCome(t *testing.T) {
	now := time.Unix(1e9, 0)
	s := NewSender(SenderConfig{Size: 100, Window: 2 * time.Minute, OfferWait: time.Minute, Jitter: half}, now)
	offers := 0
	step := func(e SenderEvent) (lane int) {
		for _, a := range s.Step(now, e) {
			switch a.Do {
			case SenderSendOffer:
				offers++
			case SenderOpenLane, SenderAskHead:
				lane = a.Lane
			}
		}
		return lane
	}
	step(SenderLineUp{})
	lane := step(SenderAccepted{Transfer: "t", URL: "/t"})
	step(SenderLineDown{})
	step(SenderLaneEnded{Lane: lane, End: LaneBroken})
	now = now.Add(time.Second)
	head := step(SenderTick{})
	step(SenderLineUp{})
	step(SenderVerdict{Result: SenderResult{Code: wire.PeerOffline, Origin: wire.Origin_ORIGIN_SERVER}})
	lane = step(SenderLaneEnded{Lane: head, End: LaneConfirmed})
	step(SenderWrote{Lane: lane, Offset: 100})
	step(SenderDigested{})
	step(SenderLaneEnded{Lane: lane, End: LaneConfirmed, Offset: 100})
	before := offers
	now = now.Add(10 * time.Second)
	step(SenderTick{})
	if offers != before+1 {
		t.Errorf("%d offers after the whole content was taken, want one that asks for the verdict", offers-before)
	}
}

// A lane that was opened with the ticket of a server's life before, and is told so
// only after the new one's offer has come, says nothing about the new ticket.
func TestOldTicketDoesNotParkANewOffer(t *testing.T) {
	now := time.Unix(1e9, 0)
	r := NewReceiver(ReceiverConfig{Idle: time.Hour, Jitter: half}, true, now)
	step := func(e ReceiverEvent) (lane int) {
		for _, a := range r.Step(now, e) {
			if a.Do == ReceiverOpenLane {
				lane = a.Lane
			}
		}
		return lane
	}
	step(ReceiverOffered{Transfer: "t", URL: "/t", Ticket: "old", Size: 100})
	step(ReceiverAccept{Receipt: wire.Receipt_RECEIPT_STORED})
	lane := step(ReceiverReady{})
	step(ReceiverLineDown{})
	step(ReceiverLaneEnded{Lane: lane, End: LaneBroken})
	now = now.Add(time.Second)
	lane = step(ReceiverTick{}) // with the old ticket, on its way to the new server
	step(ReceiverLineUp{})
	step(ReceiverOffered{Transfer: "t", URL: "/t", Ticket: "new", Size: 100})
	step(ReceiverLaneEnded{Lane: lane, End: LaneGone})
	now = now.Add(10 * time.Second)
	if lane = step(ReceiverTick{}); lane == 0 || r.State() != ReceiverReceiving {
		t.Errorf("no lane is opened with the new ticket; the transfer is %v", r.State())
	}
}

// Content in an offer is cancelled, and the server says that its receiver has gone
// elsewhere, maybe with it: an offer to the place that is there now would find out
// nothing about that, and a cancel there would be a wrong answer.
func TestCancelAtAPlaceThatIsGone(t *testing.T) {
	now := time.Unix(1e9, 0)
	for transfer, want := range map[string]SenderState{"t": SenderRefused, "": SenderOffered} {
		s := NewSender(SenderConfig{Size: 10, Inlined: true, Window: 2 * time.Minute, OfferWait: time.Minute, Jitter: half}, now)
		s.Step(now, SenderLineUp{})
		s.Step(now, SenderCancel{})
		s.Step(now, SenderVerdict{Transfer: transfer, Result: SenderResult{Code: wire.BadSendID, Origin: wire.Origin_ORIGIN_SERVER}})
		if s.State() != want {
			t.Errorf("of transfer %q: %v, want %v", transfer, s.State(), want)
		}
	}
}
