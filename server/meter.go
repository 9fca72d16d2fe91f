package server

import (
	"math"
	"time"
)

// meterTime is over how long a meter averages, about.
const meterTime = 2 * time.Second

// A meter tells how fast something is at the moment. Its owner guards it.
type meter struct {
	rate float64 // a second, at the moment at
	at   time.Time
}

// add counts n more.
func (m *meter) add(now time.Time, n int64) {
	m.rate = m.value(now) + float64(n)/meterTime.Seconds()
	m.at = now
}

// value returns the rate a second: an average that weighs what is longer ago less.
func (m *meter) value(now time.Time) float64 {
	if m.rate == 0 {
		return 0
	}
	return m.rate * math.Exp(-now.Sub(m.at).Seconds()/meterTime.Seconds())
}
