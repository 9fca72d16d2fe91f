package transfer

import (
	"time"

	"github.com/dian-im/dian/internal/wire"
)

func (s *Sender) onAccepted(now time.Time, e SenderAccepted) {
	first := !s.accepted
	if !s.state.Ended() {
		s.asked, s.unanswered, s.accepted, s.everyone = 0, false, true, true
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
		// Everything was written and taken: the verdict comes, unless the server
		// has restarted and knows the lane, but not whom to tell: an offer asks.
		s.later(now, SenderSendOffer, 0)
	case offset == s.cfg.Size:
		// There is a verdict. It comes, or it went to nobody: an offer asks for it.
		s.move(SenderVerifying)
		s.later(now, SenderSendOffer, 0)
		s.whole()
	case head:
		s.open(now, offset)
	default:
		s.move(SenderInterrupted)
		s.later(now, SenderOpenLane, offset)
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
