// Package sim runs a sender, a relay and a receiver under one seeded scheduler, with
// a network, a disk and a clock that fail when told to, and checks what must hold
// whatever happens. The state machines are those of SDK and server (internal/transfer,
// internal/command) and the received files are in a real inbox on a disk in memory;
// what joins them here stands for the goroutines that do so in life.
//
// A seed is one world with one course of events: a seed that fails fails again.
package sim

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

// A Report is what a run came to.
type Report struct {
	Seed   uint64
	Failed error // nil: everything held
	Trace  []string
	Counts
}

// Counts add up what was done to a world and what came of it.
type Counts struct {
	Events    int           // scheduled and run
	Simulated time.Duration // from the first to the last

	Cuts, Kills, PowerLosses, Restarts, Moves, DiskFaults   int // injected
	Packets, Parts, Stops, Drains, Rivals, ShutOut, Carried int // in clusters: packets that were lost, parts of the bus, …
	Lanes, Bytes, Resent                                    int64
	Tasks                                                   int // transfers
	Results                                                 map[wire.Code]int
	Commands, Delivered, CommandsFailed                     int
}

// Add sums two counts.
func (c *Counts) Add(d Counts) {
	c.Events += d.Events
	c.Simulated += d.Simulated
	c.Cuts += d.Cuts
	c.Kills += d.Kills
	c.PowerLosses += d.PowerLosses
	c.Restarts += d.Restarts
	c.Moves += d.Moves
	c.DiskFaults += d.DiskFaults
	c.Packets += d.Packets
	c.Parts += d.Parts
	c.Stops += d.Stops
	c.Drains += d.Drains
	c.Rivals += d.Rivals
	c.ShutOut += d.ShutOut
	c.Carried += d.Carried
	c.Lanes += d.Lanes
	c.Bytes += d.Bytes
	c.Resent += d.Resent
	c.Tasks += d.Tasks
	if c.Results == nil {
		c.Results = map[wire.Code]int{}
	}
	for code, n := range d.Results {
		c.Results[code] += n
	}
	c.Commands += d.Commands
	c.Delivered += d.Delivered
	c.CommandsFailed += d.CommandsFailed
}

// A world is one run.
type world struct {
	random  *rand.Rand
	now     time.Time
	start   time.Time
	queue   schedule
	seq     int
	still   int // events since time went on
	tracing bool
	trace   []string
	failed  error
	counts  Counts

	latency time.Duration // at most, one way
	faulty  bool          // faults are being injected

	nodes    []*server       // the relay: one server, or the nodes of a cluster
	bus      *bus            // of the cluster; nil: there is one server
	makers   map[int]*server // of tickets
	wentOn   time.Time       // when a node that stood still last went on
	alice    *sender
	bob      *receiver
	rival    *receiver // another one of him, or nil
	plans    map[string]taskPlan
	contents map[string][]byte
	history  *history
}

// Run plays one seed. With trace every step is written down.
func Run(seed uint64, trace bool) (report Report) {
	w := &world{
		random: rand.New(rand.NewPCG(seed, 0x6469616e)), // "dian"
		start:  time.Unix(1_800_000_000, 0), tracing: trace, contents: map[string][]byte{}, makers: map[int]*server{},
	}
	w.now = w.start
	w.counts.Results = map[wire.Code]int{}
	defer func() {
		if bug := recover(); bug != nil {
			w.fail("panic: %v", bug)
		}
		w.counts.Simulated = w.now.Sub(w.start)
		report = Report{Seed: seed, Failed: w.failed, Trace: w.trace, Counts: w.counts}
	}()
	w.play(nodesOf(seed))
	return report
}

// fail notes the first thing that did not hold.
func (w *world) fail(format string, args ...any) {
	if w.failed == nil {
		w.failed = fmt.Errorf(format, args...)
		w.note("FAILED: %v", w.failed)
	}
}

func (w *world) note(format string, args ...any) {
	if w.tracing {
		w.trace = append(w.trace, fmt.Sprintf("%12v  ", w.now.Sub(w.start))+fmt.Sprintf(format, args...))
	}
}

// after schedules fn. Things of the same moment run in the order in which they were
// scheduled.
func (w *world) after(d time.Duration, fn func()) time.Time {
	at := w.now.Add(max(d, 0))
	w.at(at, fn)
	return at
}

func (w *world) at(at time.Time, fn func()) {
	w.seq++
	heap.Push(&w.queue, event{at, w.seq, fn})
}

// run plays what is scheduled until then, or until something fails or done says so.
func (w *world) run(until time.Time, done func() bool) {
	for len(w.queue) > 0 && w.failed == nil && !w.queue[0].at.After(until) {
		e := heap.Pop(&w.queue).(event)
		if w.still++; e.at.After(w.now) {
			w.still = 0
		}
		if w.still > 100_000 {
			w.fail("something happens again and again, and no time passes")
			return
		}
		w.now = e.at
		w.counts.Events++
		e.fn()
		if done != nil && done() {
			return
		}
	}
	if w.failed == nil && w.now.Before(until) {
		w.now = until
	}
}

// chance is true once in n.
func (w *world) chance(n int) bool { return w.random.IntN(n) == 0 }

// upTo returns a random time from 0 to d.
func (w *world) upTo(d time.Duration) time.Duration {
	return time.Duration(w.random.Int64N(int64(d) + 1))
}

// delay is how long something takes to the other end of the network.
func (w *world) delay() time.Duration { return w.upTo(w.latency) }

type event struct {
	at  time.Time
	seq int
	fn  func()
}

type schedule []event

func (s schedule) Len() int { return len(s) }
func (s schedule) Less(i, j int) bool {
	if s[i].at.Equal(s[j].at) {
		return s[i].seq < s[j].seq
	}
	return s[i].at.Before(s[j].at)
}
func (s schedule) Swap(i, j int) { s[i], s[j] = s[j], s[i] }
func (s *schedule) Push(x any)   { *s = append(*s, x.(event)) }
func (s *schedule) Pop() any {
	old := *s
	e := old[len(old)-1]
	old[len(old)-1] = event{}
	*s = old[:len(old)-1]
	return e
}
