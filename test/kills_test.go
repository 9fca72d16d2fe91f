package test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// number reads a whole number from the environment.
func number(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s=%q is not a number", name, text)
	}
	return n
}

// seedOf returns the run's seed, DIAN_SEED or a new one, and says which it is.
func seedOf(t *testing.T) uint64 {
	t.Helper()
	seed := rand.Uint64N(1 << 32)
	if text := os.Getenv("DIAN_SEED"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("DIAN_SEED=%q is not a number", text)
		}
		seed = n
	}
	t.Logf("DIAN_SEED=%d", seed)
	return seed
}

// figures are what kill storms came to.
type figures struct {
	mu                sync.Mutex
	kills             map[string]int
	stops, outages    int
	files             int
	bytes, sent       int64
	results           map[int64]int
	commands, arrived int
	codes             map[int64]int
	retold            int // events of the receiver that came again
}

func newFigures() *figures {
	return &figures{kills: map[string]int{}, results: map[int64]int{}, codes: map[int64]int{}}
}

func (f *figures) total() (n int) {
	for _, kills := range f.kills {
		n += kills
	}
	return n
}

func (f *figures) String() string {
	resent := f.sent - f.bytes
	return fmt.Sprintf("kills %v, stops %d, outages of the bus %d; %d files, %d bytes, %d resent (%d a kill); results%s; receiver told %d again; "+
		"%d commands with a result:%s, %d delivered", f.kills, f.stops, f.outages, f.files, f.bytes,
		resent, resent/int64(max(f.total(), 1)), counts(f.results), f.retold, f.commands, counts(f.codes), f.arrived)
}

func (f *figures) add(w *storm) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range w.seats() {
		f.kills[s.role] += s.kills
		f.stops += s.stops
	}
	f.outages += w.outages
	f.files += len(w.parcels)
	f.bytes += w.bytes
	f.sent += w.way.up.Load()
	for code, n := range w.results {
		f.results[code] += n
	}
	for code, n := range w.codes {
		f.codes[code] += n
	}
	f.commands += len(w.commands)
	f.arrived += len(w.seen)
	for _, p := range w.parcels {
		for _, n := range p.told {
			f.retold += n - 1
		}
	}
}

func counts(m map[int64]int) string {
	var b strings.Builder
	for _, code := range slices.Sorted(maps.Keys(m)) {
		fmt.Fprintf(&b, " %d×%d", m[code], code)
	}
	return b.String()
}

const (
	// A kill of the listener loses what it has not journalled, at most a second or
	// 64 MiB of each lane, and with it or the relay goes what is in their buffers and
	// the kernel's. Of a storm's lanes at most eight run, most of the time two.
	killStep   = 2 * rate
	killWindow = 2 << 20
)

// TestKillStorm kills and stops relay, listener and senders at random moments, with
// files of all sizes and commands in flight, and wants everything to converge: each
// file once and whole, commands in order and once, nothing left over (cases 78, 84
// and, as far as processes show it, 85). DIAN_KILLS says how often each role is
// killed at least; DIAN_LANES how many worlds go at the same time; DIAN_NODES how many
// relays each of them has.
func TestKillStorm(t *testing.T) { killStorm(t, 16, number(t, "DIAN_NODES", 1)) }

// TestClusterKillStorm is a short TestKillStorm with three relays, and a bus that has
// outages.
func TestClusterKillStorm(t *testing.T) { killStorm(t, 8, 3) }

func killStorm(t *testing.T, kills, nodes int) {
	kills, lanes := number(t, "DIAN_KILLS", kills), number(t, "DIAN_LANES", 2)
	seed := seedOf(t)
	const each = 8 // kills of a role in one world, then its folder is looked at
	sum := newFigures()
	began := time.Now()
	worlds := (kills + each - 1) / each
	t.Run("worlds", func(t *testing.T) {
		places := make(chan struct{}, lanes)
		for i := range worlds {
			t.Run(strconv.Itoa(i), func(t *testing.T) {
				t.Parallel()
				places <- struct{}{}
				defer func() { <-places }()
				w := newStorm(t, seed+uint64(i), nodes)
				w.begin()
				w.rage(each)
				w.settle()
				sum.add(w)
				if t.Failed() {
					t.Logf("again: DIAN_SEED=%d DIAN_KILLS=%d DIAN_NODES=%d with TestKillStorm", w.seed, each, nodes)
				}
			})
		}
	})
	resent, total := sum.sent-sum.bytes, sum.total()
	t.Logf("%d worlds in %v: %v", worlds, time.Since(began).Round(time.Second), sum)
	if most := int64(total) * (killWindow + killStep); resent > most {
		t.Errorf("%d bytes were sent again after %d kills, want at most %d", resent, total, most)
	}
}
