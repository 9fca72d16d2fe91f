package sim

import (
	"time"

	"github.com/dian-im/dian/internal/transfer"
)

// advance does for a transfer's lanes and open HEADs what their handlers do at each
// change: package server has a goroutine for each, which waits for changes.
func (r *relayed) advance() {
	if r.busy {
		r.again = true
		return
	}
	r.busy = true
	defer func() { r.busy = false }()
	for r.again = true; r.again; {
		r.again = false
		if r.up != nil && !r.up.dead {
			r.upload(r.up)
		}
		if d := r.down; d != nil {
			switch {
			case d.whole():
				r.downGone(d)
			case d.bounded && !d.sent && r.s.w.now.Sub(d.since) >= lanePatience:
				r.endDown(transfer.LaneNothing)
			}
		}
		r.answerHeads()
		var left []func() bool
		for _, answered := range r.posts {
			if !answered() {
				left = append(left, answered)
			}
		}
		r.posts = left
	}
}

func (r *relayed) upload(u *upLane) {
	w := r.s.w
	answer := func(e transfer.SenderLaneEnded) { u.finish(e) }
	if r.m.State().Ended() {
		answer(u.overOutcome())
		return
	}
	if u.p < u.end && u.p < r.size {
		join, d := r.m.Join(u.p), r.down
		switch {
		case join.Do == transfer.RelayConflict && d != nil:
			answer(transfer.SenderLaneEnded{End: transfer.LaneConflict})
		case join.Do == transfer.RelaySkip:
			if n := u.came - u.p; n > 0 {
				u.p += n
				w.after(0, u.write)
				r.again = true
			}
		case join.Do == transfer.RelayCopy && d != nil && !d.whole():
			u.waits, u.into = w.now, d
			if drop := min(join.Drop, u.came-u.p); drop > 0 {
				u.p += drop
				w.after(0, u.write)
				r.again = true
				return
			}
			if r.feed(u, d) {
				u.waits, r.again = w.now, true
			}
		case w.now.Sub(u.waits) >= lanePatience:
			answer(transfer.SenderLaneEnded{End: transfer.LaneNotThere})
		}
		return
	}
	// Everything of it is through: the receiver's word counts.
	last := u.p == r.size
	if !u.synced {
		u.synced, u.waits = true, w.now
		r.step(transfer.RelaySync{})
		r.again = true
		return
	}
	switch {
	case !last && r.m.Synced() >= u.p:
		answer(transfer.SenderLaneEnded{End: transfer.LaneConfirmed, Offset: r.m.Upload(u.p)})
		return
	case r.m.At() < u.p && r.m.State() != transfer.RelayVerifying:
		answer(transfer.SenderLaneEnded{End: transfer.LaneConflict})
		return
	}
	live := r.m.ReceiverLive()
	if !last && live && !r.m.Syncing() {
		r.step(transfer.RelaySync{})
		if r.m.Syncing() {
			r.again = true
			return
		}
	}
	if w.now.Sub(u.waits) >= lanePatience {
		if !live {
			answer(transfer.SenderLaneEnded{End: transfer.LaneNotThere})
			return
		}
		u.waits = w.now
	}
}

// A headWait is an open HEAD.
type headWait struct {
	t     *outTask
	lane  int
	since time.Time
	asked int64 // the offset that the receiver was asked about; -1: not yet

	answer func(transfer.SenderLaneEnded)
}

// head makes a HEAD's request of a node.
func (w *world) head(t *outTask, lane int, id, place string) {
	s := w.dial()
	broken := func() {
		w.after(w.delay(), func() { t.headEnded(transfer.SenderLaneEnded{Lane: lane, End: transfer.LaneBroken}) })
	}
	if !s.alive {
		broken()
		return
	}
	s.do(func() {
		s.handle(&request{
			id: id, over: func() bool { return t.head != lane }, serve: func(s *server) { s.head(t, lane, id, place) },
			broken: broken,
		})
	})
}

// head takes in a HEAD.
func (s *server) head(t *outTask, lane int, id, place string) {
	r := s.rebuild(id, t.id, place, t.size)
	if r == nil {
		s.w.after(s.w.delay(), func() { t.headEnded(transfer.SenderLaneEnded{Lane: lane, End: transfer.LaneGone}) })
		return
	}
	h := &headWait{t: t, lane: lane, since: s.w.now, asked: -1}
	h.answer = func(e transfer.SenderLaneEnded) { s.w.after(s.w.delay(), func() { t.headEnded(e) }) }
	r.heads = append(r.heads, h)
	r.advance()
}

func (r *relayed) answerHeads() {
	w := r.s.w
	var left []*headWait
	for _, h := range r.heads {
		e, ok := r.standing(h)
		if !ok && w.now.Sub(h.since) >= lanePatience {
			e, ok = transfer.SenderLaneEnded{End: transfer.LaneNotThere}, true
		}
		if !ok {
			left = append(left, h)
			continue
		}
		e.Lane = h.lane
		h.answer(e)
	}
	r.heads = left
}

// standing answers a HEAD, or does not yet.
func (r *relayed) standing(h *headWait) (transfer.SenderLaneEnded, bool) {
	state := r.m.State()
	if state.Ended() {
		if state == transfer.RelayDone {
			return transfer.SenderLaneEnded{End: transfer.LaneConfirmed, Offset: r.size}, true
		}
		return finalEnd(r.m.Verdict().Code), true
	}
	if state == transfer.RelayOffered || r.m.Asking() || !r.m.ReceiverLive() || r.m.ReceiverBack() {
		return transfer.SenderLaneEnded{}, false
	}
	if h.asked < 0 {
		r.step(transfer.RelaySync{})
		h.asked = r.m.At()
	}
	underWay := min(h.asked, r.m.At())
	if r.m.Synced() >= underWay || r.down == nil && state != transfer.RelayVerifying && !r.m.Syncing() {
		return transfer.SenderLaneEnded{End: transfer.LaneConfirmed, Offset: r.m.Upload(r.m.Synced())}, true
	}
	if !r.m.Syncing() {
		r.step(transfer.RelaySync{})
	}
	return transfer.SenderLaneEnded{}, false
}
