package server

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestMeterIsABucket(t *testing.T) {
	const second = int64(time.Second)
	var m meter
	r := perSecond(10)
	taken := func(now int64) (n int) {
		for m.take(now, r, 1) {
			n++
		}
		return n
	}
	if n := taken(7 * second); n != 50 {
		t.Errorf("a burst is %d, want 5 s of 10", n)
	}
	if m.take(7*second+second/10-1, r, 1) {
		t.Error("there is one before its time")
	}
	if n := taken(7*second + second/10); n != 1 {
		t.Errorf("after a tenth of a second there are %d, want 1", n)
	}
	if n := taken(9 * second); n != 19 {
		t.Errorf("two seconds later there are %d, want 19 more", n)
	}
	if m.isFull(14*second-1) || !m.isFull(14*second) {
		t.Error("it is full after 5 s, and not before")
	}
	if n := taken(1000 * second); n != 50 {
		t.Errorf("it holds %d after a long time, want 50", n)
	}
	m.give(r, 3)
	if n := taken(1000 * second); n != 3 {
		t.Errorf("%d are there, want the 3 that were given back", n)
	}
	if m.take(1000*second+second, r, 11) || !m.take(1000*second+second, r, 10) {
		t.Error("all or nothing is taken")
	}
}

func TestMeterTakesOnDebt(t *testing.T) {
	const second = int64(time.Second)
	var m meter
	r := perSecond(10)
	if wait := m.charge(0, r, 50); wait != 0 {
		t.Errorf("wait %v for what is there", wait)
	}
	if wait := m.charge(0, r, 10); wait != time.Second {
		t.Errorf("wait %v for ten more, want 1s", wait)
	}
	if m.take(second, r, 1) || !m.take(second+second/10, r, 1) {
		t.Error("the debt is paid first")
	}
	for range 1000 {
		m.charge(0, r, 10)
	}
	if m.isFull(10*second-1) || !m.isFull(10*second+second/10) {
		t.Error("a debt is more than a burst")
	}
	if !m.spare(second*20, r) {
		t.Error("a full meter has nothing to spare")
	}
	m.charge(20*second, r, 38)
	if m.spare(20*second, r) || m.spare(20*second+second/10, r) == false {
		t.Errorf("a quarter is 12.5 of 50")
	}
}

// A rate of one a second and less of a burst than one does not exist; the largest
// rates do not overflow.
func TestMetersOfExtremeRates(t *testing.T) {
	for _, n := range []int64{1, 3, largest[cellCommands], devRate} {
		var m meter
		r := perSecond(n)
		taken := int64(0)
		for taken < 20 && m.take(0, r, 1) {
			taken++
		}
		if want := min(5*n, 20); taken != want {
			t.Errorf("%d a second: %d at once, want %d", n, taken, want)
		}
		if m.charge(1<<62, r, question) < 0 {
			t.Errorf("%d a second: a negative wait", n)
		}
	}
}

func TestMeterUnderContention(t *testing.T) {
	var m meter
	var taken atomic.Int64
	var all sync.WaitGroup
	r := perSecond(100)
	for range 8 {
		all.Go(func() {
			for range 200 {
				if m.take(1, r, 1) {
					taken.Add(1)
				}
			}
		})
	}
	all.Wait()
	if taken.Load() != 500 {
		t.Errorf("%d were taken of 500", taken.Load())
	}
}
