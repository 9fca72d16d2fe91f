package transfer

import (
	"time"

	"github.com/dian-im/dian/internal/wire"
)

// Step takes an event in and returns what to do about it; the slice is valid
// until the next call.
func (s *Sender) Step(now time.Time, event SenderEvent) []SenderAction {
	s.out = s.out[:0]
	switch e := event.(type) {
	case SenderLineUp:
		s.lineUp(now)
	case SenderLineDown:
		s.up = false
		if s.state == SenderOffered {
			s.progress = now // from here on it is the line that is waited for
		}
		s.drop(SenderSendOffer)
	case SenderAccepted:
		s.onAccepted(now, e)
	case SenderReceived:
		if !s.state.Ended() {
			s.confirm(now, e.Offset)
		}
	case SenderVerdict:
		s.verdict(now, e)
	case SenderUnknown:
		s.unknown(now)
	case SenderCancel:
		s.cancel(now)
	case SenderSourceFailed:
		s.fail(now, SenderResult{Code: e.Code, Detail: e.Detail})
	case SenderDigested:
		s.digested = true
		s.sendFinish()
	case SenderWrote:
		s.onWrote(now, e)
	case SenderLaneEnded:
		s.laneEnded(now, e)
	case SenderTick:
		s.tick(now)
	}
	return s.out
}

func (s *Sender) do(what SenderDo) { s.out = append(s.out, SenderAction{Do: what}) }

// lineUp says again what the server may have forgotten.
func (s *Sender) lineUp(now time.Time) {
	s.up = true
	switch {
	case s.withdrawing:
		s.do(SenderSendCancel)
	case s.state.Ended():
	default:
		s.offer(now)
		if s.cancelling {
			s.do(SenderSendCancel)
		}
	}
}

// offer sends the offer, the first time or again.
func (s *Sender) offer(now time.Time) {
	if !s.up || s.state.Ended() {
		return
	}
	s.drop(SenderSendOffer)
	s.asked++
	s.asks = now
	s.do(SenderSendOffer)
}

// known reports whether somebody may have got an offer of this task.
func (s *Sender) known() bool { return s.everyone || s.asked > 0 }

// deliverable reports whether the receiver may have it all, for all we know.
func (s *Sender) deliverable() bool {
	return s.finished || s.known() && (s.cfg.Inlined || s.cfg.Reused && !s.everyone)
}

// later plans what to do next, with full jitter.
func (s *Sender) later(now time.Time, do SenderDo, at int64) {
	wait := min(retryFirst<<min(s.tries, 10), retryMost)
	s.tries++
	s.next, s.nextDo, s.nextAt = now.Add(s.cfg.Jitter(wait)), do, at
}

// drop forgets what was planned, if it is this.
func (s *Sender) drop(do SenderDo) {
	if s.nextDo == do {
		s.next, s.nextDo = time.Time{}, SenderNothing
	}
}

func (s *Sender) dropAll() { s.next, s.nextDo = time.Time{}, SenderNothing }

// endLane ends what runs.
func (s *Sender) endLane() {
	s.dropAll()
	if s.running {
		s.running = false
		s.do(SenderEndLane)
	}
	s.stalled = time.Time{}
}

// end brings the task to its end, once.
func (s *Sender) end(state SenderState, r SenderResult) {
	s.endLane()
	s.move(state)
	s.cancelling = false
	s.result = r
	s.do(SenderTell)
}

// withdraw ends the task by this side's word alone; the server is told.
func (s *Sender) withdraw(now time.Time, state SenderState, r SenderResult) {
	known := s.known()
	s.end(state, r)
	if !known {
		return
	}
	s.withdrawing, s.until = true, now.Add(s.cfg.Window)
	if s.up {
		s.do(SenderSendCancel)
	}
}

func (s *Sender) cancel(now time.Time) {
	took := SenderResult{Code: wire.Cancelled}
	switch {
	case s.state.Ended():
	case s.cancelling:
		s.reason = nil // now it is the application's wish too
	case !s.known():
		s.end(SenderCancelled, took)
	case !s.up && !s.deliverable():
		s.withdraw(now, SenderCancelled, took)
	default:
		s.askCancel(now)
	}
}

// askCancel leaves the decision to the server and the receiver.
func (s *Sender) askCancel(now time.Time) {
	if s.state != SenderVerifying {
		s.endLane()
	}
	s.dropAll()
	s.cancelling, s.until = true, now.Add(s.cfg.Window)
	if s.up {
		s.do(SenderSendCancel)
	}
}

// fail is for a reason on this side.
func (s *Sender) fail(now time.Time, r SenderResult) {
	switch {
	case s.state.Ended(), s.cancelling:
	case !s.finished:
		s.withdraw(now, SenderFailed, r) // without Finish nothing was delivered
	default:
		s.reason = &r
		s.askCancel(now)
	}
}

func (s *Sender) onAccepted(now time.Time, e SenderAccepted) {
	first := !s.accepted
	if !s.state.Ended() {
		s.asked, s.accepted, s.everyone = 0, true, true
		s.drop(SenderSendOffer)
	}
	s.transfer, s.url, s.instance = e.Transfer, e.URL, e.Instance
	switch {
	case s.withdrawing:
		s.do(SenderSendCancel) // it crossed the first one
		return
	case s.state.Ended():
		return
	case e.Offset < 0 || e.Offset > s.cfg.Size:
		s.fail(now, SenderResult{Code: wire.BadData, Detail: "accepted from an offset behind the size"})
		return
	case s.cancelling:
		return
	}
	if first {
		s.progress, s.tries = now, 0
	}
	s.confirm(now, e.Offset)
	switch {
	case s.cfg.Inlined:
		s.move(SenderVerifying)
	case e.Offset == s.cfg.Size:
		if !s.running {
			s.dropAll()
			s.move(SenderVerifying)
		}
		s.whole()
	case s.running && !s.heading:
		s.sendFinish()
	default:
		s.endLane() // a HEAD, which this answers
		s.open(now, e.Offset)
		s.sendFinish()
	}
}

// confirm takes in how much the receiver has.
func (s *Sender) confirm(now time.Time, offset int64) {
	if offset <= s.confirmed || offset > s.cfg.Size {
		return
	}
	if s.piece > 0 {
		s.bounded += offset - s.confirmed
	}
	s.confirmed = offset
	s.progress = now
	s.tries, s.reasked, s.finals = 0, 0, 0
	if s.stalled = now; s.wrote <= offset {
		s.stalled = time.Time{}
	}
	s.out = append(s.out, SenderAction{Do: SenderProgress, Offset: offset})
}

// open starts a lane at offset.
func (s *Sender) open(now time.Time, offset int64) {
	if s.state == SenderVerifying {
		s.move(SenderInterrupted)
	}
	s.move(SenderStreaming)
	s.dropAll()
	s.finalAt = time.Time{}
	s.lane++
	s.running, s.heading = true, false
	s.wrote, s.laneEnd, s.stalled, s.pieceFrom = offset, s.cfg.Size, time.Time{}, now
	if s.piece > 0 && s.bounded >= boundedFor && s.relapses < boundedMost {
		s.piece = 0
	}
	if s.piece > 0 {
		s.laneEnd = min(s.cfg.Size, offset+s.piece)
	}
	s.out = append(s.out, SenderAction{Do: SenderOpenLane, Lane: s.lane, Offset: offset, Length: s.laneEnd - offset})
}

func (s *Sender) head() {
	s.dropAll()
	s.lane++
	s.running, s.heading, s.stalled = true, true, time.Time{}
	s.out = append(s.out, SenderAction{Do: SenderAskHead, Lane: s.lane})
}

func (s *Sender) onWrote(now time.Time, e SenderWrote) {
	if s.state.Ended() || !s.running || s.heading || e.Lane != s.lane || e.Offset <= s.wrote || e.Offset > s.laneEnd {
		return
	}
	s.wrote = e.Offset
	if s.wrote > s.confirmed && s.stalled.IsZero() {
		s.stalled = now
	}
	if s.wrote == s.cfg.Size && !s.cancelling {
		s.move(SenderVerifying)
		s.whole()
	}
}

// whole asks for the digest, or says it again.
func (s *Sender) whole() {
	if !s.digesting {
		s.digesting = true
		s.do(SenderDigest)
		return
	}
	s.sendFinish()
}

func (s *Sender) sendFinish() {
	if s.digested && s.up && s.accepted && !s.cancelling && !s.state.Ended() && !s.cfg.Inlined {
		s.finished = true
		s.do(SenderSendFinish)
	}
}

func (s *Sender) laneEnded(now time.Time, e SenderLaneEnded) {
	if s.state.Ended() || !s.running || e.Lane != s.lane {
		return
	}
	head := s.heading
	s.running, s.heading, s.stalled = false, false, time.Time{}
	if s.cancelling {
		return
	}
	if e.End == LaneConfirmed && (e.Offset < 0 || e.Offset > s.cfg.Size) {
		e.End = LaneBroken
	}
	if s.state == SenderStreaming || s.state == SenderVerifying && e.End != LaneConfirmed {
		s.move(SenderInterrupted)
	}
	switch e.End {
	case LaneConfirmed:
		before := s.confirmed
		s.confirm(now, e.Offset)
		switch {
		case head, s.state == SenderVerifying:
			s.headSays(now, e.Offset, head)
		case e.Offset < s.laneEnd || e.Offset <= before && s.laneEnd > s.wrote:
			s.later(now, SenderOpenLane, e.Offset)
		default:
			s.adapt(now)
			s.open(now, e.Offset)
		}
	case LaneGone:
		s.forgotten(now)
	case LaneTooLarge:
		if s.piece == pieceMin {
			s.withdraw(now, SenderFailed, SenderResult{Code: wire.SendFailed, Detail: "a proxy takes no upload of 1 MiB"})
			return
		}
		s.shrink()
		s.later(now, SenderAskHead, 0)
	case LaneFinal:
		// The verdict says it better, if there is one.
		s.final = SenderResult{Code: e.Code, Detail: e.Detail, Origin: wire.Origin_ORIGIN_SERVER}
		if s.finals++; s.finals > finalsMost {
			s.withdraw(now, SenderFailed, s.final)
			return
		}
		s.finalAt = now.Add(finalTime)
		s.offer(now)
	case LaneBroken, LaneNotThere, LaneConflict:
		if s.piece > 0 && e.End == LaneBroken {
			s.shrink()
		}
		s.later(now, SenderAskHead, 0)
	default:
		s.later(now, SenderAskHead, 0)
	}
}

// headSays goes on after an offset that leaves open whether the last byte is
// there: HEAD says at most size − 1 before the verdict.
func (s *Sender) headSays(now time.Time, offset int64, head bool) {
	switch {
	case !head && (offset >= s.cfg.Size-1 || s.confirmed == s.cfg.Size):
		// Everything was written and taken: the verdict comes.
	case offset == s.cfg.Size:
		s.move(SenderVerifying)
		s.whole()
	case head:
		s.open(now, offset)
	default:
		s.move(SenderInterrupted)
		s.later(now, SenderOpenLane, offset)
	}
}

// forgotten offers again what the server does not know.
func (s *Sender) forgotten(now time.Time) {
	s.accepted = false
	s.move(SenderOffered)
	s.asks = now
	if s.reasked++; s.reasked > askedMost {
		s.withdraw(now, SenderFailed, SenderResult{Code: wire.ConnectionLost, Detail: "forgotten again and again"})
		return
	}
	if s.reasked == 1 {
		s.offer(now)
		return
	}
	s.later(now, SenderSendOffer, 0)
}

func (s *Sender) unknown(now time.Time) {
	switch {
	case s.withdrawing:
		s.withdrawing = false
	case s.state.Ended():
	case s.cancelling:
		s.lost(now, SenderCancelled, SenderResult{Code: wire.Cancelled})
	default:
		s.endLane()
		s.forgotten(now)
	}
}

// lost ends a cancel of which nobody knows anything (any more).
func (s *Sender) lost(now time.Time, state SenderState, r SenderResult) {
	if s.reason != nil {
		state, r = SenderFailed, *s.reason
	}
	s.end(state, r)
}

func (s *Sender) verdict(now time.Time, e SenderVerdict) {
	if e.Transfer != "" {
		s.out = append(s.out, SenderAction{Do: SenderSendAck, Transfer: e.Transfer})
	}
	r := e.Result
	local := r.Origin != wire.Origin_ORIGIN_PEER // the server's own word
	if s.withdrawing {
		// Its offer may be refused while the cancel is on its way: also an end.
		s.withdrawing = false
		return
	}
	if s.state.Ended() {
		return
	}
	if local && (r.Code == wire.PeerOffline || r.Code == wire.ServiceFault) {
		s.offline(now, r)
		return
	}
	if s.cancelling && local && r.Code == wire.BadSendID {
		// The server knows nothing to cancel. If the receiver can have it all only
		// an offer finds out.
		if s.deliverable() {
			s.later(now, SenderSendOffer, 0)
			return
		}
		s.lost(now, SenderCancelled, SenderResult{Code: wire.Cancelled})
		return
	}
	switch {
	case r.Code == wire.OK:
		s.confirm(now, s.cfg.Size)
		s.end(SenderDone, r)
	case s.reason != nil && s.cancelling:
		s.end(SenderFailed, *s.reason)
	case r.Code == wire.Cancelled:
		s.end(SenderCancelled, r)
	case s.state == SenderOffered:
		s.end(SenderRefused, r)
	default:
		s.end(SenderFailed, r)
	}
}

// offline is the server's word that it could not pass the offer on.
func (s *Sender) offline(now time.Time, r SenderResult) {
	first := !s.everyone && s.asked <= 1
	if first {
		s.asked = 0 // this one has reached nobody
	}
	switch {
	case s.cancelling && !s.deliverable():
		s.lost(now, SenderCancelled, SenderResult{Code: wire.Cancelled})
	case s.cancelling:
		s.later(now, SenderSendOffer, 0)
	case r.Code == wire.ServiceFault && now.Sub(s.progress) < s.cfg.Window,
		first && now.Before(s.patience),
		!first && now.Sub(s.progress) < s.cfg.Window:
		if s.running { // a lane lives on by itself
			return
		}
		s.later(now, SenderSendOffer, 0)
		if first {
			s.next = now.Add(s.cfg.Jitter(peerRetry) + peerRetry/2)
			if s.cfg.PeerWait > 0 && r.Code == wire.PeerOffline && s.next.After(s.patience) {
				s.next = s.patience // the last try
			}
		}
	case s.everyone:
		s.end(SenderFailed, SenderResult{Code: wire.ConnectionLost, Detail: "the peer did not come back"})
	default:
		s.end(SenderRefused, r)
	}
}

// adapt changes the size of pieces by how long the last one took.
func (s *Sender) adapt(now time.Time) {
	if s.piece > 0 && now.Sub(s.pieceFrom) < pieceQuick {
		s.piece = min(2*s.piece, pieceMax)
	}
}

// shrink begins bounded mode, or makes its pieces smaller.
func (s *Sender) shrink() {
	if s.piece == 0 {
		s.piece, s.bounded = 2*pieceMin, 0
		s.relapses++
		return
	}
	s.piece = max(s.piece/2, pieceMin)
}

// stallAt is when the present lane has gone without progress for too long.
func (s *Sender) stallAt() time.Time {
	if !s.running || s.heading || s.stalled.IsZero() {
		return time.Time{}
	}
	if s.piece > 0 {
		return s.stalled.Add(pieceTime)
	}
	return s.stalled.Add(stallTime)
}

// deadline is when the task fails for want of progress, and how.
func (s *Sender) deadline() (time.Time, SenderResult) {
	if s.state == SenderOffered && s.up && s.nextDo != SenderSendOffer {
		wait := max(s.cfg.OfferWait, s.cfg.Window) + offerSlack
		return s.asks.Add(wait), SenderResult{Code: wire.PeerNoAnswer}
	}
	at := s.progress.Add(s.cfg.Window)
	if s.state == SenderOffered && s.nextDo == SenderSendOffer && s.patience.After(at) {
		at = s.patience.Add(peerRetry)
	}
	return at, SenderResult{Code: wire.ConnectionLost, Detail: "no progress within the resume window"}
}

// Wake returns when the next SenderTick is due, and false for never.
func (s *Sender) Wake() (time.Time, bool) {
	var at time.Time
	sooner := func(t time.Time) {
		if !t.IsZero() && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	switch {
	case s.withdrawing:
		sooner(s.until)
	case s.state.Ended():
	default:
		if s.cancelling {
			sooner(s.until)
		} else {
			d, _ := s.deadline()
			sooner(d)
		}
		sooner(s.next)
		sooner(s.stallAt())
		sooner(s.finalAt)
	}
	return at, !at.IsZero()
}

func due(at, now time.Time) bool { return !at.IsZero() && !now.Before(at) }

func (s *Sender) tick(now time.Time) {
	if s.withdrawing && due(s.until, now) {
		s.withdrawing = false
	}
	if s.state.Ended() {
		return
	}
	if s.cancelling && due(s.until, now) {
		if s.deliverable() && s.reason == nil {
			s.end(SenderFailed, SenderResult{Code: wire.ConnectionLost, Detail: "the fate of the cancel is unknown"})
		} else {
			s.lost(now, SenderCancelled, SenderResult{Code: wire.Cancelled})
		}
		return
	}
	if at, r := s.deadline(); !s.cancelling && due(at, now) {
		// The receiver keeps what it has: no cancel.
		s.end(SenderFailed, r)
		return
	}
	if due(s.finalAt, now) {
		s.finalAt = time.Time{}
		if !s.running && s.up && !s.cancelling {
			s.end(SenderFailed, s.final)
			return
		}
	}
	if due(s.stallAt(), now) && !s.cancelling {
		s.endLane()
		s.shrink()
		if s.state == SenderStreaming || s.state == SenderVerifying {
			s.move(SenderInterrupted)
		}
		s.later(now, SenderAskHead, 0)
	}
	if due(s.next, now) {
		do, at := s.nextDo, s.nextAt
		s.dropAll()
		switch do {
		case SenderSendOffer:
			s.offer(now)
			if s.cancelling && s.up {
				s.do(SenderSendCancel)
			}
		case SenderAskHead:
			s.head()
		case SenderOpenLane:
			s.open(now, at)
		}
	}
}
