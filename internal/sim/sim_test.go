package sim

import (
	"flag"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

var (
	seeds = flag.Uint64("sim.seeds", 3000, "how many seeds TestSeeds plays")
	first = flag.Uint64("sim.first", 1, "the first of them")
)

// TestSeeds plays worlds and wants everything that history knows to hold in each.
func TestSeeds(t *testing.T) {
	var next atomic.Uint64
	next.Store(*first)
	var mu sync.Mutex
	var counts Counts
	var bad []Report
	var players sync.WaitGroup
	for range 2 {
		players.Go(func() {
			var mine Counts
			for {
				seed := next.Add(1) - 1
				if seed >= *first+*seeds {
					break
				}
				r := Run(seed, false)
				mine.Add(r.Counts)
				if r.Failed != nil {
					mu.Lock()
					bad = append(bad, r)
					enough := len(bad) >= 5
					mu.Unlock()
					if enough {
						next.Store(*first + *seeds)
					}
				}
			}
			mu.Lock()
			counts.Add(mine)
			mu.Unlock()
		})
	}
	players.Wait()
	t.Logf("%d seeds: %+v", *seeds, counts)
	for i, r := range bad {
		t.Errorf("seed %d: %v (again: go test ./internal/sim -run TestSeeds -sim.first=%d -sim.seeds=1)", r.Seed, r.Failed, r.Seed)
		if i == 0 {
			again := Run(r.Seed, true)
			if again.Failed == nil || again.Failed.Error() != r.Failed.Error() {
				t.Errorf("seed %d is not the same again: %v", r.Seed, again.Failed)
			}
			trace := strings.Join(again.Trace, "\n")
			name := os.TempDir() + "/dian-sim-trace.txt"
			if err := os.WriteFile(name, []byte(trace+"\n"), 0o600); err != nil {
				t.Error(err)
			}
			t.Logf("its trace is in %s; the end of it:\n%s", name, trace[max(0, len(trace)-6000):])
		}
	}
}
