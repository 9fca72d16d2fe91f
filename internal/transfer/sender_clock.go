package transfer

import (
	"time"

	"github.com/dian-im/dian/internal/wire"
)

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

// deadline is when the task fails for want of progress, and how.
func (s *Sender) deadline() (time.Time, SenderResult) {
	wait := max(s.cfg.OfferWait, s.cfg.Window) + offerSlack
	if s.state == SenderOffered && s.up && s.nextDo != SenderSendOffer {
		return s.asks.Add(wait), SenderResult{Code: wire.PeerNoAnswer}
	}
	at := s.progress.Add(s.cfg.Window)
	if most := s.asks.Add(wait + s.cfg.Window); s.unanswered && most.Before(at) {
		at = most // a line that comes and goes is no progress
	}
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
			sooner(s.stallAt()) // a cancel ends the lane, or lets it end
		}
		sooner(s.next)
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
	if !s.cancelling && due(s.stallAt(), now) {
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
