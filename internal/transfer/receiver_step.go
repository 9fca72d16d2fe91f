package transfer

import (
	"time"

	"github.com/dian-im/dian/internal/wire"
)

// Step takes an event in and returns what to do about it; the slice is valid
// until the next call.
func (r *Receiver) Step(now time.Time, event ReceiverEvent) []ReceiverAction {
	r.out = r.out[:0]
	if r.forgot {
		return r.out
	}
	switch e := event.(type) {
	case ReceiverOffered:
		r.onOffered(now, e)
	case ReceiverSync:
		r.sync(now, e.Offset)
	case ReceiverFinish:
		r.onFinish(now, e.Digest)
	case ReceiverCancel:
		r.onCancel(now, e)
	case ReceiverQuery:
		r.query(now, e)
	case ReceiverAcked:
		if r.state.Ended() {
			r.acked = true
			r.forget()
		}
	case ReceiverLineUp:
		r.up = true
		if r.state.Ended() && !r.acked && r.state != ReceiverRefused {
			r.sendVerdict()
		}
	case ReceiverLineDown:
		r.up = false
	case ReceiverAccept:
		if r.state == ReceiverAsking && r.offered {
			r.receipt = e.Receipt
			r.move(ReceiverPreparing)
			r.do(ReceiverAction{Do: ReceiverPrepare})
		}
	case ReceiverRefuse:
		if r.state == ReceiverAsking && r.offered {
			r.refuse(now, ReceiverRefused, ReceiverVerdict{Code: e.Code, Detail: e.Detail})
		}
	case ReceiverStop:
		r.stop(now)
	case ReceiverReady:
		r.ready(now, e.Offset)
	case ReceiverBroke:
		r.broke(now, ReceiverVerdict{Code: e.Code, Detail: e.Detail})
	case ReceiverTook:
		r.took(now, e.Offset)
	case ReceiverLaneEnded:
		r.laneEnded(now, e)
	case ReceiverKept:
		r.kept(now, e.Verdict)
	case ReceiverTick:
		r.tick(now)
	}
	return r.out
}

func (r *Receiver) do(a ReceiverAction) {
	a.Transfer = r.transfer
	r.out = append(r.out, a)
}

func (r *Receiver) sendVerdict() { r.do(ReceiverAction{Do: ReceiverSendVerdict, Verdict: r.verdict}) }

func (r *Receiver) answer(d wire.Decision) {
	r.do(ReceiverAction{Do: ReceiverSendAnswer, Decision: d, Offset: r.offset, Verdict: r.verdict})
}

func (r *Receiver) accept() {
	r.do(ReceiverAction{Do: ReceiverSendAnswer, Decision: wire.Decision_DECISION_ACCEPT, Offset: r.offset,
		Verdict: ReceiverVerdict{Receipt: r.receipt}})
	r.confirmed = max(r.confirmed, r.offset)
}

func (r *Receiver) forget() {
	r.forgot = true
	r.do(ReceiverAction{Do: ReceiverForget})
}

// end brings the transfer to its end, once. Who calls it says so to the server.
func (r *Receiver) end(now time.Time, state ReceiverState, v ReceiverVerdict) {
	r.endLane()
	r.move(state)
	r.verdict, r.endedAt = v, now
}

func (r *Receiver) endLane() {
	r.next = time.Time{}
	if r.running {
		r.running = false
		r.do(ReceiverAction{Do: ReceiverEndLane})
	}
}

func (r *Receiver) refuse(now time.Time, state ReceiverState, v ReceiverVerdict) {
	r.end(now, state, v)
	r.answer(wire.Decision_DECISION_REFUSE)
}

// recall ends a machine of which the record says that it has ended before.
func (r *Receiver) recall(now time.Time) bool {
	if r.state != ReceiverAsking || r.offered {
		return false
	}
	rec := r.cfg.Record
	switch rec.State {
	case wire.TransferState_TRANSFER_STATE_HAVE:
		r.end(now, ReceiverDone, ReceiverVerdict{Code: rec.Code, Receipt: rec.Receipt, LengthOnly: rec.LengthOnly})
	case wire.TransferState_TRANSFER_STATE_CANCELLED:
		r.end(now, ReceiverCancelled, ReceiverVerdict{Code: wire.Cancelled})
	default:
		return false
	}
	return true
}

func (r *Receiver) onOffered(now time.Time, e ReceiverOffered) {
	r.recall(now)
	if r.offered && e.Size != r.size && !r.state.Ended() {
		// Another content under an id that is in use: only this offer is refused.
		r.out = append(r.out, ReceiverAction{Do: ReceiverSendAnswer, Transfer: e.Transfer,
			Decision: wire.Decision_DECISION_REFUSE, Verdict: ReceiverVerdict{Code: wire.BadSendID, Detail: "the id is in use"}})
		return
	}
	r.transfer, r.url, r.ticket = e.Transfer, e.URL, e.Ticket
	r.acked = false
	switch {
	case r.state == ReceiverDone:
		r.answer(wire.Decision_DECISION_HAVE)
	case r.state == ReceiverCancelled, r.state == ReceiverRefused:
		r.answer(wire.Decision_DECISION_REFUSE)
	case r.state == ReceiverFailed:
		r.sendVerdict()
	case !r.offered:
		r.offered, r.size, r.inlined = true, e.Size, e.Inlined
		if e.Inlined {
			r.finish, r.digest = true, e.Digest
		}
		r.do(ReceiverAction{Do: ReceiverAsk})
	case r.state == ReceiverVerifying && !r.inlined:
		r.accept()
	case r.state == ReceiverReceiving, r.state == ReceiverParked:
		r.accept()
		r.goOn(now)
	}
}

// goOn gets bytes to flow again after the server has shown that it knows the
// transfer. A lane that runs and brings nothing may hang on a dead connection.
func (r *Receiver) goOn(now time.Time) {
	r.move(ReceiverReceiving)
	r.tries = 0
	if r.running && now.Sub(r.laneFrom) >= silentTime && now.Sub(r.lastByte) >= silentTime {
		r.endLane()
	}
	r.lastByte = now
	if !r.running && r.offset < r.size {
		r.open(now)
	}
	r.whole()
}

func (r *Receiver) open(now time.Time) {
	r.next = time.Time{}
	r.lane++
	r.running, r.laneAt, r.laneFrom, r.laneTicket = true, r.offset, now, r.ticket
	a := ReceiverAction{Do: ReceiverOpenLane, Lane: r.lane, Offset: r.offset}
	if r.piece > 0 && r.size-r.offset > r.piece {
		a.Length = r.piece
	}
	r.do(a)
}

// later opens the next lane after a random while.
func (r *Receiver) later(now time.Time) {
	wait := min(retryFirst<<min(r.tries, 10), retryMost)
	r.tries++
	r.next = now.Add(r.cfg.Jitter(wait))
}

func (r *Receiver) ready(now time.Time, offset int64) {
	if r.state != ReceiverPreparing {
		return
	}
	r.lastByte = now
	if r.inlined {
		r.offset = r.size
		r.whole()
		return
	}
	r.offset = min(max(offset, 0), r.size)
	r.move(ReceiverReceiving)
	r.accept()
	if r.offset < r.size {
		r.open(now)
	}
	r.whole()
}

// whole begins to verify if everything is there.
func (r *Receiver) whole() {
	switch r.state {
	case ReceiverReceiving, ReceiverParked, ReceiverPreparing:
		if r.finish && r.offset == r.size {
			r.endLane()
			r.move(ReceiverVerifying)
			r.do(ReceiverAction{Do: ReceiverVerify})
		}
	}
}

func (r *Receiver) took(now time.Time, offset int64) {
	if offset <= r.offset || offset > r.size || r.state != ReceiverReceiving && r.state != ReceiverParked {
		return
	}
	r.offset, r.lastByte, r.tries = offset, now, 0
	switch {
	case r.syncAt > 0 && offset >= r.syncAt:
		r.syncAt = 0
		r.received(now, true)
	case offset == r.size, now.Sub(r.told) >= receivedEvery:
		r.received(now, false)
	}
	r.whole()
}

func (r *Receiver) received(now time.Time, mark bool) {
	r.told, r.confirmed = now, r.offset
	r.do(ReceiverAction{Do: ReceiverSendReceived, Offset: r.offset, Mark: mark})
}

func (r *Receiver) sync(now time.Time, offset int64) {
	switch {
	case r.state != ReceiverReceiving && r.state != ReceiverParked && r.state != ReceiverVerifying:
	case offset > r.size:
	case offset <= r.offset:
		r.received(now, r.state != ReceiverVerifying)
	default:
		if r.syncAt == 0 {
			r.syncFrom = now
		}
		r.syncAt = max(r.syncAt, offset)
	}
}

func (r *Receiver) onFinish(now time.Time, d *wire.Digest) {
	r.recall(now)
	if r.state.Ended() {
		r.sendVerdict()
		return
	}
	if !r.offered { // of a part that was left: an offer or a question goes on with it
		r.forget()
		return
	}
	if r.inlined || r.state == ReceiverVerifying || d != nil && len(d.Value) > digestBytes {
		return
	}
	r.finish, r.digest = true, d
	if r.state == ReceiverReceiving || r.state == ReceiverParked {
		r.whole()
	}
}

func (r *Receiver) onCancel(now time.Time, e ReceiverCancel) {
	if r.transfer == "" {
		r.transfer = e.Transfer
	}
	r.recall(now)
	if r.state.Ended() {
		r.sendVerdict()
		return
	}
	if r.state == ReceiverVerifying {
		r.stopping = true
		return
	}
	r.cancelled(now, true)
}

// cancelled removes and writes down what was cancelled.
func (r *Receiver) cancelled(now time.Time, bySender bool) {
	asking, accepted := r.state == ReceiverAsking && r.offered, r.state != ReceiverAsking
	r.end(now, ReceiverCancelled, ReceiverVerdict{Code: wire.Cancelled})
	if asking {
		r.do(ReceiverAction{Do: ReceiverWithdrawn})
	}
	r.do(ReceiverAction{Do: ReceiverDrop, Record: true})
	if accepted && bySender {
		r.do(ReceiverAction{Do: ReceiverWithdrawn})
		r.do(ReceiverAction{Do: ReceiverNotifyCancel})
	}
	r.sendVerdict()
}

func (r *Receiver) stop(now time.Time) {
	switch {
	case r.state.Ended() || !r.offered:
	case r.state == ReceiverVerifying:
		r.stopping = true
	default:
		r.cancelled(now, false)
	}
}

func (r *Receiver) broke(now time.Time, v ReceiverVerdict) {
	if r.state.Ended() || r.state == ReceiverAsking || r.state == ReceiverVerifying {
		return
	}
	preparing := r.state == ReceiverPreparing
	r.end(now, ReceiverFailed, v)
	if v.Code == wire.NoSpace {
		r.do(ReceiverAction{Do: ReceiverDrop}) // it would keep the disk full for everybody else
	} else {
		r.do(ReceiverAction{Do: ReceiverLeave})
	}
	r.do(ReceiverAction{Do: ReceiverWithdrawn})
	if preparing {
		r.answer(wire.Decision_DECISION_REFUSE)
		return
	}
	r.sendVerdict()
}

func (r *Receiver) kept(now time.Time, v ReceiverVerdict) {
	if r.state != ReceiverVerifying {
		return
	}
	switch {
	case v.Code == wire.OK:
		r.end(now, ReceiverDone, v)
		r.sendVerdict()
	case r.stopping:
		r.cancelled(now, true)
	default:
		r.end(now, ReceiverFailed, v)
		r.do(ReceiverAction{Do: ReceiverWithdrawn})
		r.sendVerdict()
	}
}

func (r *Receiver) query(now time.Time, e ReceiverQuery) {
	r.recall(now)
	r.transfer, r.url, r.ticket = e.Transfer, e.URL, e.Ticket
	standing := func(s wire.TransferState) {
		r.do(ReceiverAction{Do: ReceiverSendStanding, Standing: s, Offset: r.offset, Length: r.size, Verdict: r.verdict})
	}
	switch r.state {
	case ReceiverDone:
		standing(wire.TransferState_TRANSFER_STATE_HAVE)
	case ReceiverCancelled:
		standing(wire.TransferState_TRANSFER_STATE_CANCELLED)
	case ReceiverRefused, ReceiverFailed:
		r.sendVerdict()
	case ReceiverAsking, ReceiverPreparing:
		// The sender offers again, with all that is to be known; a part that is
		// here is gone on with then.
		standing(wire.TransferState_TRANSFER_STATE_UNKNOWN)
		if !r.offered {
			r.forget()
		}
	default:
		standing(wire.TransferState_TRANSFER_STATE_PARTIAL)
		r.confirmed = r.offset
		if r.state != ReceiverVerifying {
			r.goOn(now)
		}
	}
}

func (r *Receiver) laneEnded(now time.Time, e ReceiverLaneEnded) {
	if !r.running || e.Lane != r.lane || r.state != ReceiverReceiving {
		return
	}
	r.running = false
	if r.offset == r.size {
		return // waits for Finish
	}
	moved := r.offset > r.laneAt
	switch e.End {
	case LaneGone, LaneOver:
		if r.laneTicket != r.ticket { // it was opened before the latest offer or question
			r.later(now)
			return
		}
		r.move(ReceiverParked)
	case LaneWhole:
		switch {
		case r.piece > 0 && moved:
			if now.Sub(r.laneFrom) < pieceQuick {
				r.piece = min(2*r.piece, pieceMax)
			}
			r.open(now)
		default:
			r.later(now)
		}
	case LaneNothing:
		if now.Sub(r.laneFrom) >= time.Second {
			r.open(now)
			return
		}
		r.later(now)
	default:
		if r.piece > 0 && !moved {
			r.piece = max(r.piece/2, pieceMin)
		}
		r.later(now)
	}
}

// silentAt is when the bytes that a Sync speaks of should have come.
func (r *Receiver) silentAt() time.Time {
	if r.syncAt == 0 || r.piece > 0 || !r.running {
		return time.Time{}
	}
	at := r.lastByte
	for _, t := range []time.Time{r.syncFrom, r.laneFrom} {
		if t.After(at) {
			at = t
		}
	}
	return at.Add(silentTime)
}

// Wake returns when the next ReceiverTick is due, and false for never.
func (r *Receiver) Wake() (time.Time, bool) {
	var at time.Time
	sooner := func(t time.Time) {
		if !t.IsZero() && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	switch {
	case r.forgot:
	case r.state.Ended():
		sooner(r.endedAt.Add(r.cfg.Idle))
	case r.state == ReceiverReceiving, r.state == ReceiverParked:
		sooner(r.next)
		sooner(r.silentAt())
		sooner(r.lastByte.Add(r.cfg.Idle))
		if r.offset > r.confirmed {
			sooner(r.told.Add(receivedEvery))
		}
	}
	return at, !at.IsZero()
}

func (r *Receiver) tick(now time.Time) {
	if r.state.Ended() {
		if due(r.endedAt.Add(r.cfg.Idle), now) {
			r.forget()
		}
		return
	}
	if r.state != ReceiverReceiving && r.state != ReceiverParked {
		return
	}
	if due(r.lastByte.Add(r.cfg.Idle), now) {
		// Nobody goes on with it. What is here stays for a later offer.
		r.endLane()
		r.do(ReceiverAction{Do: ReceiverLeave})
		r.forget()
		return
	}
	if r.offset > r.confirmed && now.Sub(r.told) >= receivedEvery {
		r.received(now, false)
	}
	if due(r.silentAt(), now) {
		r.endLane()
		r.piece = 2 * pieceMin
		r.open(now)
	}
	if due(r.next, now) && !r.running {
		r.open(now)
	}
}
