package transfer

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dian-im/dian/internal/wire"
)

// A world is a sender and a receiver with a server between them, which has the
// server's own machine. Lanes, lines and time are moved by the test.
type world struct {
	t    *rapid.T
	now  time.Time
	size int64
	log  []string

	s          *Sender
	sUp        bool
	toSender   []SenderEvent // frames on their way, in order
	told       int
	progressed int64

	r            *Receiver
	rUp          bool
	toReceiver   []ReceiverEvent
	fromReceiver []RelayEvent
	fromSender   []string
	record       ReceiverRecord // what survives a restart
	have         bool           // the application has it
	delivered    int
	marked       int64 // what survives a kill
	inlined      bool

	relay *Relay

	up struct {
		on       bool
		lane     int
		pos, end int64
	}
	head int // number of an open HEAD, or 0
	down struct {
		on                bool
		lane              int
		at, taken, flying int64
	}
}

func (w *world) note(format string, args ...any) {
	w.log = append(w.log, fmt.Sprintf(format, args...))
}

func half(d time.Duration) time.Duration { return d / 2 }

func newWorld(t *rapid.T) *world {
	w := &world{t: t, now: time.Unix(1e9, 0)}
	w.inlined = rapid.Bool().Draw(t, "inlined") && rapid.Bool().Draw(t, "inlined too")
	w.size = rapid.SampledFrom([]int64{0, 1, 100, 5 << 20, 40 << 20}).Draw(t, "size")
	w.s = NewSender(SenderConfig{Size: w.size, Inlined: w.inlined, Window: 2 * time.Minute, OfferWait: time.Minute, Jitter: half}, w.now)
	return w
}

func (w *world) relayConfig() RelayConfig {
	return RelayConfig{Size: w.size, Inlined: w.inlined, OfferWait: time.Minute, Window: 2 * time.Minute}
}

func (w *world) stepSender(e SenderEvent) {
	w.note("sender %T%+v in %v", e, e, w.s.State())
	for _, a := range append([]SenderAction(nil), w.s.Step(w.now, e)...) {
		w.note("  sender does %+v", a)
		switch a.Do {
		case SenderSendOffer:
			w.fromSender = append(w.fromSender, "offer")
		case SenderSendFinish:
			w.fromSender = append(w.fromSender, "finish")
		case SenderSendAck:
			w.fromSender = append(w.fromSender, "ack")
		case SenderSendCancel:
			w.fromSender = append(w.fromSender, "cancel")
		case SenderOpenLane:
			w.endUp()
			w.up.on, w.up.lane, w.up.pos, w.up.end = true, a.Lane, a.Offset, a.Offset+a.Length
			w.stepRelay(RelayUpJoined{})
		case SenderAskHead:
			w.head = a.Lane
		case SenderEndLane:
			w.endUp()
			w.head = 0
		case SenderDigest:
			defer w.stepSender(SenderDigested{})
		case SenderProgress:
			if a.Offset <= w.progressed || a.Offset > w.size {
				w.fail("progress %d after %d of %d", a.Offset, w.progressed, w.size)
			}
			w.progressed = a.Offset
		case SenderTell:
			w.told++
		}
	}
}

func (w *world) fail(format string, args ...any) {
	for _, l := range w.log {
		w.t.Log(l)
	}
	w.t.Fatalf(format, args...)
}

func (w *world) endUp() {
	if w.up.on {
		w.up.on = false
		w.stepRelay(RelayUpEnded{})
	}
}

func (w *world) endDown() {
	if w.down.on {
		w.down.on, w.down.flying = false, 0
		w.stepRelay(RelayDownEnded{})
	}
}

func (w *world) stepReceiver(e ReceiverEvent) {
	if w.r == nil {
		w.r = NewReceiver(ReceiverConfig{Record: w.record, Idle: 3 * time.Minute, Jitter: half}, w.rUp, w.now)
	}
	w.note("receiver %T%+v in %v", e, e, w.r.State())
	var then []ReceiverEvent
	for _, a := range append([]ReceiverAction(nil), w.r.Step(w.now, e)...) {
		w.note("  receiver does %+v", a)
		send := func(e RelayEvent) {
			if w.rUp {
				w.fromReceiver = append(w.fromReceiver, e)
			}
		}
		v := RelayVerdict{Code: a.Verdict.Code, Receipt: a.Verdict.Receipt}
		switch a.Do {
		case ReceiverSendAnswer:
			send(RelayAnswered{Decision: a.Decision, Offset: a.Offset, Verdict: v})
		case ReceiverSendReceived:
			if a.Mark {
				w.marked = a.Offset
				w.record = ReceiverRecord{State: wire.TransferState_TRANSFER_STATE_PARTIAL, Offset: a.Offset, Size: w.size}
			}
			send(RelayReceived{Offset: a.Offset})
		case ReceiverSendVerdict:
			send(RelayJudged{Verdict: v})
		case ReceiverSendStanding:
			send(RelayStanding{State: a.Standing, Offset: a.Offset, Size: a.Length, Verdict: v})
		case ReceiverAsk:
			then = append(then, ReceiverAccept{Receipt: wire.Receipt_RECEIPT_STORED})
		case ReceiverPrepare:
			then = append(then, ReceiverReady{Offset: w.marked})
			w.down.taken = w.marked
		case ReceiverOpenLane:
			w.endDown()
			w.down.lane = a.Lane
			if w.relay == nil || w.relay.Forgotten() {
				then = append(then, ReceiverLaneEnded{Lane: a.Lane, End: LaneGone})
				break
			}
			w.down.on, w.down.at, w.down.flying = true, a.Offset, 0
			w.stepRelay(RelayDownJoined{At: a.Offset})
		case ReceiverEndLane:
			w.endDown()
		case ReceiverVerify:
			if !w.inlined && w.down.taken != w.size {
				w.fail("verified with %d of %d bytes", w.down.taken, w.size)
			}
			w.have = true
			w.delivered++
			w.record = ReceiverRecord{State: wire.TransferState_TRANSFER_STATE_HAVE, Receipt: wire.Receipt_RECEIPT_STORED}
			then = append(then, ReceiverKept{Verdict: ReceiverVerdict{Receipt: wire.Receipt_RECEIPT_STORED}})
		case ReceiverDrop:
			w.marked = 0
			w.record = ReceiverRecord{State: wire.TransferState_TRANSFER_STATE_UNKNOWN}
			if a.Record {
				w.record = ReceiverRecord{State: wire.TransferState_TRANSFER_STATE_CANCELLED, Code: wire.Cancelled}
			}
		case ReceiverLeave:
			w.marked = w.r.Offset()
			w.record = ReceiverRecord{State: wire.TransferState_TRANSFER_STATE_PARTIAL, Offset: w.marked, Size: w.size}
		case ReceiverForget:
			w.r = nil
			return
		}
	}
	for _, e := range then {
		if w.r != nil {
			w.stepReceiver(e)
		}
	}
}

func (w *world) stepRelay(e RelayEvent) {
	if w.relay == nil {
		return
	}
	w.note("relay %T%+v in %v", e, e, w.relay.State())
	relay := w.relay
	actions, err := relay.Step(w.now, e)
	if err != nil {
		w.fail("relay: %v", err)
	}
	for _, a := range append([]RelayAction(nil), actions...) {
		w.note("  relay does %+v", a)
		toR := func(e ReceiverEvent) {
			if w.rUp {
				w.toReceiver = append(w.toReceiver, e)
			}
		}
		toS := func(e SenderEvent) {
			if w.sUp {
				w.toSender = append(w.toSender, e)
			}
		}
		switch a.Do {
		case RelayForget:
			w.relay = nil
		case RelaySendOffer:
			toR(ReceiverOffered{Transfer: "t", Size: w.size, Inlined: w.inlined})
		case RelaySendQuery:
			toR(ReceiverQuery{Transfer: "t"})
		case RelaySendSync:
			toR(ReceiverSync{Offset: a.Offset})
		case RelaySendFinish:
			toR(ReceiverFinish{})
		case RelaySendCancel:
			toR(ReceiverCancel{Transfer: "t"})
		case RelaySendVerdictAck:
			toR(ReceiverAcked{})
		case RelaySendAccepted:
			toS(SenderAccepted{Transfer: "t", URL: "u", Offset: a.Offset, Instance: []byte("i")})
		case RelaySendReceived:
			toS(SenderReceived{Offset: a.Offset})
		case RelaySendVerdict:
			v := relay.Verdict()
			toS(SenderVerdict{Transfer: "t", Result: SenderResult{Code: v.Code, Receipt: v.Receipt, Origin: v.Origin}})
		case RelaySendUnknown:
			toS(SenderUnknown{})
		case RelayEndUp:
			if w.up.on {
				w.up.on = false
				lane := w.up.lane
				defer w.stepSender(SenderLaneEnded{Lane: lane, End: LaneConflict})
			}
		case RelayEndDown:
			if w.down.on {
				w.down.on, w.down.flying = false, 0
				lane := w.down.lane
				if w.r != nil {
					defer w.stepReceiver(ReceiverLaneEnded{Lane: lane, End: LaneOver})
				}
			}
		}
	}
}

// frameFromSender is the server's handling of what a sender says.
func (w *world) frameFromSender(f string) {
	ended := w.relay != nil && (w.relay.Forgotten() ||
		w.relay.Acked() && (w.relay.State() == RelayFailed || w.relay.State() == RelayRefused))
	switch f {
	case "offer":
		if w.relay == nil || ended {
			if !w.rUp {
				w.toSender = append(w.toSender, SenderVerdict{Result: SenderResult{Code: wire.PeerOffline, Origin: wire.Origin_ORIGIN_SERVER}})
				return
			}
			w.relay = NewRelay(w.relayConfig(), w.now)
			w.stepRelay(RelayOfferArrived{})
			w.stepRelay(RelayReceiverUp{})
			return
		}
		w.stepRelay(RelayOfferArrived{})
	case "finish":
		w.stepRelay(RelayFinish{})
	case "ack":
		w.stepRelay(RelayAcked{})
	case "cancel":
		if w.relay == nil || w.relay.Forgotten() {
			w.toSender = append(w.toSender, SenderVerdict{Result: SenderResult{Code: wire.BadSendID, Origin: wire.Origin_ORIGIN_SERVER}})
			return
		}
		w.stepRelay(RelayCancel{})
	}
}

// deliver brings one frame to where it goes.
func (w *world) deliver(which int) {
	switch which % 4 {
	case 0:
		if len(w.fromSender) > 0 {
			f := w.fromSender[0]
			w.fromSender = w.fromSender[1:]
			w.frameFromSender(f)
		}
	case 1:
		if len(w.toSender) > 0 {
			e := w.toSender[0]
			w.toSender = w.toSender[1:]
			w.stepSender(e)
		}
	case 2:
		if len(w.fromReceiver) > 0 {
			e := w.fromReceiver[0]
			w.fromReceiver = w.fromReceiver[1:]
			w.stepRelay(e)
		}
	case 3:
		if len(w.toReceiver) > 0 {
			e := w.toReceiver[0]
			w.toReceiver = w.toReceiver[1:]
			w.stepReceiver(e)
		}
	}
}

// lanes moves bytes.
func (w *world) lanes(n int64) {
	if w.down.on && w.down.flying > 0 && w.r != nil {
		k := min(n, w.down.flying)
		w.down.flying -= k
		w.down.taken = w.r.Offset() + k
		w.stepReceiver(ReceiverTook{Offset: w.down.taken})
	}
	if w.down.on && w.down.at == w.size && w.down.flying == 0 && w.r != nil {
		w.down.on = false
		lane := w.down.lane
		w.stepRelay(RelayDownEnded{})
		if w.r != nil {
			w.stepReceiver(ReceiverLaneEnded{Lane: lane, End: LaneWhole})
		}
	}
	if w.relay == nil || w.relay.Forgotten() {
		if w.up.on {
			w.up.on = false
			w.stepSender(SenderLaneEnded{Lane: w.up.lane, End: LaneGone})
		}
		if w.head > 0 {
			lane := w.head
			w.head = 0
			w.stepSender(SenderLaneEnded{Lane: lane, End: LaneGone})
		}
		return
	}
	if w.head > 0 && !w.relay.Asking() {
		lane := w.head
		w.head = 0
		w.stepSender(SenderLaneEnded{Lane: lane, End: LaneConfirmed, Offset: w.relay.Upload(w.relay.Confirmed())})
	}
	if !w.up.on {
		return
	}
	j := w.relay.Join(w.up.pos)
	switch j.Do {
	case RelayConflict:
		lane := w.up.lane
		w.endUp()
		w.stepSender(SenderLaneEnded{Lane: lane, End: LaneConflict})
		return
	case RelaySkip:
		w.up.pos = min(w.up.end, w.up.pos+j.Drop)
	case RelayCopy:
		w.up.pos = min(w.up.end, w.up.pos+j.Drop)
		k := min(n, w.up.end-w.up.pos)
		if k > 0 && w.relay.State() == RelayStreaming {
			w.up.pos += k
			w.down.at += k
			w.down.flying += k
			w.stepRelay(RelayCopied{N: k})
		}
	}
	if w.up.on {
		w.stepSender(SenderWrote{Lane: w.up.lane, Offset: w.up.pos})
	}
	if w.up.on && w.up.pos == w.up.end && w.relay.Confirmed() >= w.up.end {
		lane, at := w.up.lane, w.relay.Upload(w.relay.Confirmed())
		w.endUp()
		w.stepSender(SenderLaneEnded{Lane: lane, End: LaneConfirmed, Offset: at})
	}
}

func (w *world) pass(d time.Duration) {
	w.now = w.now.Add(d)
	if at, ok := w.s.Wake(); ok && !w.now.Before(at) {
		w.stepSender(SenderTick{})
	}
	if w.r != nil {
		if at, ok := w.r.Wake(); ok && !w.now.Before(at) {
			w.stepReceiver(ReceiverTick{})
		}
	}
	w.stepRelay(RelayTick{})
	if w.relay != nil && w.relay.Forgotten() {
		w.relay = nil
	}
}

func (w *world) senderLine(up bool) {
	if up == w.sUp {
		return
	}
	w.sUp = up
	w.toSender, w.fromSender = nil, nil
	if up {
		w.stepSender(SenderLineUp{})
		return
	}
	w.stepSender(SenderLineDown{})
}

func (w *world) receiverLine(up bool) {
	if up == w.rUp {
		return
	}
	w.rUp = up
	w.toReceiver, w.fromReceiver = nil, nil
	if up {
		if w.r != nil {
			w.stepReceiver(ReceiverLineUp{})
		}
		w.stepRelay(RelayReceiverUp{})
		return
	}
	w.stepRelay(RelayReceiverDown{})
	if w.r != nil {
		w.stepReceiver(ReceiverLineDown{})
	}
}

func (w *world) killReceiver() {
	w.endDown()
	w.receiverLine(false)
	w.r = nil
}

func (w *world) step() {
	switch op := rapid.IntRange(0, 30).Draw(w.t, "op"); op {
	case 0:
		w.senderLine(!w.sUp)
	case 1:
		w.receiverLine(!w.rUp)
	case 2:
		if w.up.on {
			lane := w.up.lane
			w.endUp()
			w.stepSender(SenderLaneEnded{Lane: lane, End: LaneBroken})
		}
	case 3:
		if w.down.on {
			lane := w.down.lane
			w.endDown()
			w.endUpByServer()
			if w.r != nil {
				w.stepReceiver(ReceiverLaneEnded{Lane: lane, End: LaneBroken})
			}
		}
	case 4:
		w.pass(time.Duration(rapid.IntRange(1, 12).Draw(w.t, "seconds")) * time.Second)
	case 5:
		if rapid.IntRange(0, 5).Draw(w.t, "kill") == 0 {
			w.killReceiver()
		}
	case 6, 7, 8, 9:
		w.pass(60 * time.Millisecond)
	case 10, 11, 12, 13, 14:
		w.lanes(int64(rapid.IntRange(1, 16<<20).Draw(w.t, "bytes")))
	default:
		w.deliver(op)
	}
}

// endUpByServer: a broken down-lane ends the up-lane.
func (w *world) endUpByServer() {
	if w.up.on {
		lane := w.up.lane
		w.endUp()
		w.stepSender(SenderLaneEnded{Lane: lane, End: LaneConflict})
	}
}

// heal lets everything work until the sender has nothing left to do.
func (w *world) heal() {
	w.senderLine(true)
	w.receiverLine(true)
	for range 4000 {
		for range 4 {
			for k := range 4 {
				w.deliver(k)
			}
		}
		w.lanes(8 << 20)
		w.pass(100 * time.Millisecond)
		if w.s.Over() && len(w.toReceiver)+len(w.fromSender)+len(w.fromReceiver)+len(w.toSender) == 0 {
			return
		}
	}
	w.fail("sender is %v, not over; relay %v", w.s.State(), w.relay)
}

func TestBothEndsAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		w.senderLine(true)
		w.receiverLine(true)
		steps := rapid.IntRange(0, 120).Draw(t, "steps")
		cancelAt := rapid.IntRange(-200, 120).Draw(t, "cancel")
		stopAt := rapid.IntRange(-400, 120).Draw(t, "stop")
		failAt := rapid.IntRange(-800, 120).Draw(t, "fail")
		for i := range steps {
			if i == cancelAt {
				w.stepSender(SenderCancel{})
			}
			if i == stopAt && w.r != nil {
				w.stepReceiver(ReceiverStop{})
			}
			if i == failAt && !w.inlined {
				w.stepSender(SenderSourceFailed{Code: wire.FileError})
			}
			w.step()
		}
		w.heal()
		if w.told != 1 {
			w.fail("%d results", w.told)
		}
		code := w.s.Result().Code
		switch {
		case code == wire.OK && !w.have:
			w.fail("0, but the receiver has nothing")
		case code == wire.OK && w.progressed != w.size:
			w.fail("0 with progress %d of %d", w.progressed, w.size)
		case (code == wire.Cancelled || code == wire.FileError) && w.have:
			w.fail("%v, but the receiver has it", code)
		case w.delivered > 1:
			w.fail("delivered %d times", w.delivered)
		case cancelAt < 0 && stopAt < 0 && failAt < 0 && code != wire.OK && code != wire.ConnectionLost && code != wire.PeerNoAnswer && code != wire.PeerOffline:
			w.fail("%v for no reason", code)
		}
	})
}

func TestNoFrameAtAnyTimePanics(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(1e9, 0)
		size := rapid.Int64Range(0, 100).Draw(t, "size")
		s := NewSender(SenderConfig{Size: size, Window: time.Minute, Jitter: half, Inlined: rapid.Bool().Draw(t, "inlined")}, now)
		r := NewReceiver(ReceiverConfig{Idle: time.Minute, Jitter: half,
			Record: ReceiverRecord{State: wire.TransferState(rapid.IntRange(0, 4).Draw(t, "record"))}}, true, now)
		told := 0
		for range 60 {
			now = now.Add(time.Duration(rapid.IntRange(0, 20000).Draw(t, "ms")) * time.Millisecond)
			n := rapid.Int64Range(-2, 110).Draw(t, "n")
			lane := rapid.IntRange(0, 6).Draw(t, "lane")
			end := LaneEnd(rapid.IntRange(0, int(LaneOver)).Draw(t, "end"))
			se := rapid.SampledFrom([]SenderEvent{SenderLineUp{}, SenderLineDown{}, SenderAccepted{"t", "u", n, nil},
				SenderReceived{n}, SenderVerdict{"t", SenderResult{Code: wire.Code(max(0, n)), Origin: wire.Origin(n & 1)}}, SenderUnknown{},
				SenderVerdict{"", SenderResult{Code: wire.PeerOffline}}, SenderCancel{}, SenderSourceFailed{Code: wire.FileError},
				SenderDigested{}, SenderWrote{lane, n}, SenderLaneEnded{Lane: lane, End: end, Offset: n}, SenderTick{}}).Draw(t, "sender")
			for _, a := range s.Step(now, se) {
				if a.Do == SenderTell {
					told++
				}
			}
			s.Wake()
			r.Step(now, rapid.SampledFrom([]ReceiverEvent{ReceiverOffered{"t", "u", "k", max(0, n), n&1 == 0, nil}, ReceiverSync{n},
				ReceiverFinish{}, ReceiverCancel{"t"}, ReceiverQuery{"t", "u", "k"}, ReceiverAcked{}, ReceiverLineUp{}, ReceiverLineDown{},
				ReceiverAccept{}, ReceiverRefuse{Code: 606}, ReceiverStop{}, ReceiverReady{n}, ReceiverBroke{Code: 1112}, ReceiverTook{n},
				ReceiverLaneEnded{lane, end}, ReceiverKept{ReceiverVerdict{Code: wire.Code(n & 1)}}, ReceiverTick{}}).Draw(t, "receiver"))
			r.Wake()
		}
		if told > 1 {
			t.Fatalf("%d results", told)
		}
	})
}
