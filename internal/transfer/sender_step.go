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
			if s.state == SenderVerifying { // said again: the receiver is still at it
				s.progress = now
			}
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
	s.out = append(s.out, SenderAction{Do: SenderSendOffer, Resent: s.cfg.Reused || s.known()})
	s.asked++
	if !s.unanswered {
		s.unanswered, s.asks = true, now
	}
}

// known reports whether somebody may have got an offer of this task.
func (s *Sender) known() bool { return s.everyone || s.asked > 0 }

// deliverable reports whether the receiver may have it all, for all we know.
func (s *Sender) deliverable() bool {
	return s.finished || s.known() && s.cfg.Inlined || s.cfg.Reused && !s.everyone
}

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
	case !s.known() && !s.deliverable():
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

// forgotten offers again what the server does not know.
func (s *Sender) forgotten(now time.Time) {
	s.accepted = false
	s.move(SenderOffered)
	s.unanswered, s.asks = false, now
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
		// An offer that crossed this may be on its way to the receiver. The cancel
		// that went out behind it is always answered, and that is what counts.
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
	s.unanswered = false
	if local && (r.Code == wire.PeerOffline || r.Code == wire.ServiceFault) {
		s.offline(now, r)
		return
	}
	if s.cancelling && local && r.Code == wire.BadSendID && e.Transfer == "" {
		// The server knows nothing to cancel; of a transfer that it knew and ended, for
		// its receiver has gone elsewhere, nobody here will know more. If the receiver can have it all only
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
	if first && !(s.cancelling && r.Code == wire.ServiceFault) {
		s.asked = 0 // this one has reached nobody; after a cancel, 8 may be about that
	}
	// A server that stops says 8 of a peer who is there, and who comes back too.
	again := !first || s.held
	s.held = s.held || r.Code == wire.ServiceFault
	switch {
	case s.cancelling && !s.deliverable():
		s.lost(now, SenderCancelled, SenderResult{Code: wire.Cancelled})
	case s.cancelling:
		s.later(now, SenderSendOffer, 0)
	case r.Code == wire.ServiceFault && now.Sub(s.progress) < s.cfg.Window,
		first && now.Before(s.patience),
		again && now.Sub(s.progress) < s.cfg.Window:
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
