package server

import (
	"sync/atomic"
	"time"
)

// burst is how much of a rate may come at once: so many seconds' worth.
const burst = 5 * time.Second

// A rate is how fast a meter fills up again.
type rate struct {
	interval int64 // nanoseconds for one
	burst    int64 // nanoseconds for all that fits
}

func perSecond(n int64) rate {
	if n <= 0 { // a row that has no such cell is never asked for it
		return rate{}
	}
	interval := max(int64(time.Second)/n, 1)
	return rate{interval, max(int64(burst), interval)}
}

// A meter is a token bucket in one word: when it will be full again (GCRA), on a
// clock that starts with the server. The zero value is full. Its methods may be
// called by anybody at any time and never wait; the rate is given at each call, so
// that a Reload needs to touch no meter.
type meter struct{ full atomic.Int64 }

// take takes n out, or nothing and reports false.
func (m *meter) take(now int64, r rate, n int64) bool {
	for {
		was := m.full.Load()
		next := max(was, now) + n*r.interval
		if next-now > r.burst {
			return false
		}
		if m.full.CompareAndSwap(was, next) {
			return true
		}
	}
}

// charge takes n out even if it was not there, and returns how long it takes until
// it will have been. The debt is at most a burst, so that nobody pays for ever.
func (m *meter) charge(now int64, r rate, n int64) time.Duration {
	for {
		was := m.full.Load()
		next := min(max(was, now)+n*r.interval, max(was, now+2*r.burst))
		if m.full.CompareAndSwap(was, next) {
			return time.Duration(max(0, next-now-r.burst))
		}
	}
}

// give puts n back that take has taken.
func (m *meter) give(r rate, n int64) { m.full.Add(-n * r.interval) }

// spare reports whether at least a quarter is there.
func (m *meter) spare(now int64, r rate) bool { return m.full.Load()-now <= r.burst/4*3 }

// isFull reports whether there is nothing to remember.
func (m *meter) isFull(now int64) bool { return m.full.Load() <= now }
