package transfer

import (
	"time"

	"github.com/dian-im/dian/internal/wire"
)

func (r *Relay) answered(now time.Time, e RelayAnswered) error {
	if e.Decision == wire.Decision_DECISION_ACCEPT && e.Offset > r.cfg.Size {
		return &wire.Error{Code: wire.BadParameter, Detail: "answer: the offset is behind the size"}
	}
	if r.state.Ended() {
		return nil
	}
	e.Verdict.Origin = wire.Origin_ORIGIN_PEER
	switch e.Decision {
	case wire.Decision_DECISION_REFUSE:
		if e.Verdict.Code == wire.OK {
			return &wire.Error{Code: wire.BadParameter, Detail: "answer: a refusal without a code"}
		}
		r.judged(e.Verdict)
	case wire.Decision_DECISION_HAVE:
		r.judged(e.Verdict)
	case wire.Decision_DECISION_ACCEPT:
		first := r.state == RelayOffered
		if first {
			r.move(RelayAccepted)
			r.progress = now
		}
		r.receipt, r.header = e.Verdict.Receipt, e.Verdict.Header
		r.position(now, e.Offset)
		if first || r.reoffered {
			r.reoffered = false
			r.doOffset(RelaySendAccepted, r.confirmed)
		}
		r.settle()
	}
	return nil
}

// position takes over what the receiver says to have, after its answer or
// Standing. Only with a running down-lane it may be older than what we know.
func (r *Relay) position(now time.Time, offset int64) {
	r.asking, r.back, r.elsewhere = false, false, false
	if r.down && offset < r.confirmed {
		offset = r.confirmed
	}
	if offset > r.confirmed {
		r.progress = now
	}
	r.risen = now
	r.confirmed, r.claimed, r.synced, r.syncAt = offset, offset, offset, 0
	r.relayed = max(r.relayed, offset)
	if !r.down {
		r.at = offset
	}
}

// settle brings the state in line with what is known after position.
func (r *Relay) settle() {
	switch {
	case r.cfg.Inlined, r.confirmed == r.cfg.Size:
		r.move(RelayVerifying)
	case r.state == RelayVerifying && r.at < r.cfg.Size:
		r.move(RelayInterrupted)
	}
	r.stream()
	r.sendFinish()
	if r.cancelling && r.receiver {
		r.do(RelaySendCancel)
	}
}

// stream says that bytes can flow if they can.
func (r *Relay) stream() {
	if r.up && r.down && !r.asking && (r.state == RelayAccepted || r.state == RelayInterrupted) {
		r.move(RelayStreaming)
	}
}

// pause is the opposite of stream.
func (r *Relay) pause() {
	if r.state == RelayStreaming && !(r.up && r.down) {
		r.move(RelayInterrupted)
	}
}

func (r *Relay) received(now time.Time, offset int64) error {
	if offset > r.cfg.Size {
		return &wire.Error{Code: wire.BadParameter, Detail: "received: the offset is behind the size"}
	}
	if r.state.Ended() || r.asking || r.state == RelayOffered {
		return nil
	}
	// The receiver may have bytes that we have not counted yet, but not without a
	// pair of lanes: then it cannot have more than was ever relayed.
	r.claimed = max(r.claimed, offset)
	if r.syncAt > 0 && offset >= r.syncAt {
		r.synced = min(max(r.synced, offset), r.relayed)
		r.syncAt = 0
	}
	was := r.confirmed
	r.confirm(now)
	if !r.down && r.at < r.confirmed { // it took in what we thought lost with its lane
		r.at = r.confirmed
		if r.confirmed == r.cfg.Size {
			r.settle()
		}
	}
	if !r.down && offset > r.relayed && !r.elsewhere {
		r.elsewhere = true // it has lanes at the node where it was before: its word counts
		r.query()
	}
	if r.verifies() && r.confirmed == was && now.Sub(r.progress) >= r.cfg.Window/2 {
		r.atWork(now)
	}
	return nil
}

// confirm counts what the receiver claims, as far as it was relayed.
func (r *Relay) confirm(now time.Time) {
	if r.state != RelayStreaming {
		r.claimed = min(r.claimed, r.relayed)
	}
	if c := min(r.claimed, r.relayed); c > r.confirmed {
		r.confirmed = c
		r.progress, r.risen = now, now
		r.doOffset(RelaySendReceived, c)
	}
}

func (r *Relay) judged(v RelayVerdict) {
	v.Origin = wire.Origin_ORIGIN_PEER
	if r.state.Ended() {
		switch {
		case r.forgotten:
		case r.withdrawn && (v.Code != wire.OK || r.state == RelayCancelled):
			// It has learned of the end that we told it.
			r.withdrawn = false
			r.do(RelaySendVerdictAck)
		case r.acked:
			r.do(RelaySendVerdictAck)
		default:
			r.do(RelaySendVerdict) // said again until the sender has acked it
		}
		return
	}
	next := RelayFailed
	switch {
	case v.Code == wire.OK:
		next = RelayDone
		if r.receipt != wire.Receipt_RECEIPT_UNSPECIFIED && v.Receipt == wire.Receipt_RECEIPT_UNSPECIFIED {
			v.Receipt = r.receipt
		}
	case v.Code == wire.Cancelled:
		next = RelayCancelled
	case r.state == RelayOffered && !r.cfg.Inlined:
		next = RelayRefused
	}
	if next == RelayDone {
		if r.relayed = r.cfg.Size; r.confirmed < r.cfg.Size {
			r.confirmed, r.claimed, r.synced = r.cfg.Size, r.cfg.Size, r.cfg.Size
			r.doOffset(RelaySendReceived, r.cfg.Size)
		}
	}
	r.end(next, v)
	if r.cfg.HTTP {
		r.ack()
	}
}

func (r *Relay) standing(now time.Time, e RelayStanding) {
	if r.state.Ended() {
		return
	}
	// It may answer a question from before the offer that is under way to it: then
	// what it did not know it is about to learn, and it answers that.
	overtaken := r.state == RelayOffered && !r.queried
	switch e.State {
	case wire.TransferState_TRANSFER_STATE_HAVE:
		r.judged(e.Verdict)
	case wire.TransferState_TRANSFER_STATE_CANCELLED:
		r.judged(RelayVerdict{Code: wire.Cancelled, Detail: e.Verdict.Detail})
	case wire.TransferState_TRANSFER_STATE_PARTIAL:
		if overtaken {
			return
		}
		if e.Size != r.cfg.Size || e.Offset > e.Size {
			r.unknown() // of another content: ours is unknown
			return
		}
		if r.state == RelayOffered {
			return // it was asked by an offer, and answers that
		}
		if r.polled && r.verifies() {
			r.polled = false // nothing happened to it since: what it has is known
			r.atWork(now)
			return
		}
		asked := r.asking || r.back
		r.position(now, e.Offset)
		if asked && r.reoffered {
			r.reoffered = false
			r.doOffset(RelaySendAccepted, r.confirmed)
		}
		r.settle()
	case wire.TransferState_TRANSFER_STATE_UNKNOWN:
		if !overtaken && (r.state != RelayOffered || r.cfg.Inlined) {
			r.unknown()
		}
	}
}

// unknown is for a transfer that the receiver does not know (any more).
func (r *Relay) unknown() {
	if r.cancelling { // then there is nothing left that could come
		r.end(RelayCancelled, RelayVerdict{Code: wire.Cancelled, Origin: wire.Origin_ORIGIN_SERVER})
		return
	}
	r.do(RelaySendUnknown)
	r.forget(RelayVerdict{Code: wire.BadSendID, Detail: "the receiver does not know it", Origin: wire.Origin_ORIGIN_SERVER})
}

func (r *Relay) receiverUp(now time.Time) {
	r.receiver = true
	switch {
	case r.state.Ended():
		if r.withdrawn {
			r.do(RelaySendCancel)
		}
	case r.state == RelayOffered && r.cancelling && !r.cfg.Inlined:
		r.do(RelaySendCancel)
	case r.state == RelayOffered && !(r.cfg.Inlined && r.passed):
		r.pass()
	default:
		r.query()
		r.back = true
	}
}

func (r *Relay) laneUp(now time.Time) {
	r.up = true
	if r.state.Ended() {
		return
	}
	r.progress, r.waits = now, now
	r.stream()
}

func (r *Relay) downJoined(now time.Time, at int64) error {
	if at < 0 || at > r.cfg.Size {
		return &wire.Error{Code: wire.BadParameter, Detail: "range: outside of the content"}
	}
	r.down = true
	if r.state.Ended() {
		return nil
	}
	if r.state == RelayStreaming {
		r.move(RelayInterrupted) // the pair that ran before has ended
	}
	r.at = at
	r.relayed = max(r.relayed, at)
	if at < r.confirmed { // it has restarted and lost some
		r.confirmed, r.claimed = at, at
	}
	r.claimed, r.synced = min(r.claimed, at), min(r.synced, at)
	r.progress = now
	if at < r.syncAt {
		r.syncAt = 0
	}
	if r.state == RelayVerifying && at < r.cfg.Size {
		r.move(RelayInterrupted)
	}
	r.stream()
	return nil
}

func (r *Relay) copied(now time.Time, n int64) {
	if n <= 0 || r.state.Ended() {
		return
	}
	r.at = min(r.at+n, r.cfg.Size)
	r.relayed = max(r.relayed, r.at)
	r.progress = now
	if r.at == r.cfg.Size && r.state != RelayOffered && !r.asking {
		r.confirm(now) // before the state says that no bytes are under way
		r.move(RelayVerifying)
		r.sendFinish()
		return
	}
	r.confirm(now)
}

func (r *Relay) sync(now time.Time) {
	// What was sent on a lane that broke may be lost; the present one's will come.
	if r.state.Ended() || r.asking || !r.receiver || r.at <= r.synced {
		return
	}
	r.syncAt, r.syncSent, r.risen = r.at, now, now
	r.doOffset(RelaySendSync, r.syncAt)
}

func (r *Relay) tick(now time.Time) {
	if r.state.Ended() {
		return
	}
	switch {
	case r.state == RelayOffered:
		if !now.Before(r.deadline) {
			r.withdraw()
			r.end(RelayFailed, RelayVerdict{Code: wire.PeerNoAnswer, Origin: wire.Origin_ORIGIN_SERVER})
		}
		return
	case now.Sub(r.progress) >= r.cfg.Window:
		v := RelayVerdict{Code: wire.ConnectionLost, Detail: "no progress within the resume window", Origin: wire.Origin_ORIGIN_SERVER}
		r.verdict = v
		r.do(RelaySendVerdict)
		r.forget(v)
		return
	}
	r.poll(now)
	r.askForLane(now)
	if r.syncAt > 0 && r.confirmed >= r.syncAt && now.Sub(r.syncSent) >= relaySyncTrust {
		r.synced, r.syncAt = max(r.synced, r.syncAt), 0
	}
	if r.at > r.confirmed && now.Sub(r.risen) >= relaySyncAfter {
		r.sync(now)
	}
}
