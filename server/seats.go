package server

import (
	"sync"
	"sync/atomic"
	"time"
)

// stalledAfter is how long nothing may have passed for a pair of lanes to lose its
// seats to another one.
const stalledAfter = 10 * time.Second

// seats are for pairs of lanes that have more memory than others: so many at once. A
// pair that stands still does not keep one from those that move: its down-lane is
// ended, as if the line had broken, and who still wants the content goes on with
// another.
type seats struct {
	most int

	mu    sync.Mutex // guards taken; no transfer's is taken with it
	taken map[*pace]struct{}
}

// A pace is a pair of lanes, and when it has moved last.
type pace struct {
	t    *transfer
	d    *downLane
	last atomic.Int64 // in nanoseconds since the server's birth
}

func newSeats(most int) *seats { return &seats{most: most, taken: map[*pace]struct{}{}} }

// take gives p a seat, if one is free or somebody stands still on his.
func (s *seats) take(p *pace, now int64) bool {
	p.last.Store(now)
	s.mu.Lock()
	var still *pace
	if len(s.taken) >= s.most {
		for other := range s.taken {
			if now-other.last.Load() > int64(stalledAfter) && (still == nil || other.last.Load() < still.last.Load()) {
				still = other
			}
		}
		if still == nil {
			s.mu.Unlock()
			return false
		}
		delete(s.taken, still)
	}
	s.taken[p] = struct{}{}
	s.mu.Unlock()
	if still != nil {
		still.t.mu.Lock()
		still.d.endLocked(laneBroken)
		still.t.mu.Unlock()
	}
	return true
}

// give gives p's seat back, if it has one.
func (s *seats) give(p *pace) {
	s.mu.Lock()
	delete(s.taken, p)
	s.mu.Unlock()
}
