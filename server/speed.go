package server

import (
	"math"
	"time"
)

// speedTime is over how long a speed averages, about.
const speedTime = 2 * time.Second

// A speed tells how fast something is at the moment. Its owner guards it.
type speed struct {
	rate float64 // a second, at the moment at
	at   time.Time
}

// add counts n more.
func (s *speed) add(now time.Time, n int64) {
	s.rate = s.value(now) + float64(n)/speedTime.Seconds()
	s.at = now
}

// value returns the rate a second: an average that weighs what is longer ago less.
func (s *speed) value(now time.Time) float64 {
	if s.rate == 0 {
		return 0
	}
	return s.rate * math.Exp(-now.Sub(s.at).Seconds()/speedTime.Seconds())
}
