package sim

import (
	"time"

	"github.com/dian-im/dian/internal/transfer"
)

// longThought is the longest that an application thinks about an offer.
const longThought = 3 * time.Minute

// A taskPlan is what the people at both ends will do about a task.
type taskPlan struct {
	begins  time.Duration // after the start
	waits   time.Duration // for a receiver who is offline
	cancels time.Duration // after that the sender cancels it; 0: never
	thinks  time.Duration // at most, the receiver's application about the offer
	refuses bool
	stops   time.Duration // at most after that it cancels what it has accepted; 0: never
}

// play is a world's whole course.
func (w *world) play(nodes int) {
	w.latency = []time.Duration{time.Millisecond, 30 * time.Millisecond, 300 * time.Millisecond, 2 * time.Second}[w.random.IntN(4)]
	w.alice = &sender{w: w, buffer: []int64{64, 1 << 10, 16 << 10}[w.random.IntN(3)]}
	w.bob = w.newReceiver("bob")
	w.history = w.bob.history
	w.alice.commands = newCommandSide(w)
	w.bob.acks, w.bob.slow = w.chance(2), []time.Duration{0, 20 * time.Millisecond, time.Second}[w.random.IntN(3)]
	w.plans = map[string]taskPlan{}
	for i := range 1 + w.random.IntN(3) {
		w.addTask(i)
	}
	w.beginNodes(nodes)
	w.bob.boot()
	w.alice.boot()
	for _, t := range w.alice.tasks {
		w.planTask(t)
	}
	length := 5*time.Second + w.upTo([]time.Duration{20 * time.Second, 2 * time.Minute, 6 * time.Minute}[w.random.IntN(3)])
	w.planCommands(length)
	w.faulty = true
	for range w.random.IntN(9) {
		at := w.upTo(length)
		if w.chance(2) { // most things happen early
			at = w.upTo(10 * time.Second)
		}
		w.after(at, w.fault)
	}
	w.run(w.start.Add(length), nil)
	w.heal()
	w.run(w.now.Add(time.Hour), w.settled)
	if w.failed == nil && !w.settled() {
		w.stuck()
		return
	}
	w.run(w.now.Add(longThought+2*resumeWindow+2*idleSlack), nil)
	w.check()
}

func (w *world) addTask(i int) {
	size := []int64{0, 1, 700, 5_000, 40_000, 150_000}[w.random.IntN(6)]
	if size > 1 {
		size += w.random.Int64N(size)
	}
	size = min(size, 80*w.alice.buffer) // keeps the number of events within bounds
	t := &outTask{s: w.alice, id: taskID(i), key: w.random.Uint64(), size: size, inlined: size < 2_000 && w.chance(2)}
	if w.chance(4) {
		t.inlined, t.http = false, &tusClient{}
		if w.chance(2) {
			t.piece = 1 + size/3
		}
	}
	t.content = contentOf(t.key, size, 0)
	t.digest = digestOf(t.content)
	w.alice.tasks = append(w.alice.tasks, t)
	w.contents[t.id] = t.content
	w.counts.Tasks++
}

func (w *world) planTask(t *outTask) {
	p := taskPlan{begins: w.upTo(15 * time.Second), thinks: w.upTo(50 * time.Millisecond)}
	if !w.chance(3) {
		p.waits = 5 * time.Minute
	}
	switch w.random.IntN(12) {
	case 0:
		p.cancels = time.Millisecond + w.upTo(5*time.Second)
	case 1:
		p.cancels = time.Millisecond + w.upTo(2*time.Minute)
	case 2:
		p.stops = time.Millisecond + w.upTo(5*time.Second)
	case 3:
		p.refuses = true
	case 4:
		p.thinks = longThought
	}
	w.plans[t.id] = p
	w.after(p.begins, func() { w.begin(t) })
	if p.cancels > 0 {
		w.after(p.begins+p.cancels, func() {
			if len(t.results) > 0 || !w.alice.alive {
				return
			}
			w.note("alice cancels %s", t.id)
			if t.http != nil {
				t.http.cancel()
			} else {
				t.step(transfer.SenderCancel{})
			}
		})
	}
}

// planCommands has alice send commands in bursts.
func (w *world) planCommands(length time.Duration) {
	for range w.random.IntN(6) {
		var wait time.Duration
		if w.chance(2) {
			wait = time.Minute
		}
		at, n := w.upTo(length), 1+w.random.IntN(8)
		w.after(at, func() {
			for range n {
				w.alice.commands.send(wait)
			}
		})
	}
}

func (w *world) begin(t *outTask) {
	if !w.alice.alive {
		w.after(time.Second, func() { w.begin(t) })
		return
	}
	if !t.begun {
		t.begin(false)
	}
}

func (w *world) plan(sendID string) taskPlan { return w.plans[sendID] }

func (w *world) content(sendID string) []byte { return w.contents[sendID] }

// fault does one bad thing.
func (w *world) fault() {
	if !w.faulty {
		return
	}
	if w.chance(3) { // bad things come together
		w.after(w.upTo(3*time.Second), w.fault)
	}
	if w.bus != nil && w.chance(2) {
		w.nodeFault()
		return
	}
	switch w.random.IntN(16) {
	case 0, 1:
		if l := w.alice.line; l != nil {
			w.counts.Cuts++
			l.breakOff()
		}
	case 2, 3:
		if l := w.bob.line; l != nil {
			w.counts.Cuts++
			l.breakOff()
		}
	case 4, 5:
		if u := w.anyLane(); u != nil {
			w.counts.Cuts++
			u.breakOff()
		}
	case 6, 7:
		if d := w.anyDownLane(); d != nil {
			w.counts.Cuts++
			d.breakOff()
		}
	case 8, 9:
		w.restartServer(w.anyNode())
	case 10:
		w.restartAlice()
	case 11:
		w.bob.kill(false)
	case 12:
		w.bob.kill(true)
	case 13, 14:
		if w.bob.living() && w.bob.crashIn == 0 {
			w.bob.crashIn, w.bob.power = 1+w.random.IntN(30), w.chance(2)
		}
	case 15:
		switch {
		case w.chance(8):
			w.counts.Moves++
			w.bob.moveAway()
		default:
			w.counts.DiskFaults++
			f := brokenDisk{
				op:    []string{"create", "write", "sync", "syncDir", "rename", "move"}[w.random.IntN(6)],
				err:   diskErrors[w.random.IntN(len(diskErrors))],
				until: w.now.Add(w.upTo(20 * time.Second)),
			}
			w.note("the disk is about to fail: %s %v", f.op, f.err)
			w.bob.broken = append(w.bob.broken, f)
			w.bob.history.diskFails(f.until)
		}
	}
}

func (w *world) restartServer(s *server) {
	if !s.alive {
		return
	}
	w.counts.Restarts++
	s.kill()
	w.bootLater(s)
}

// bootLater begins the next life of a node that has ended.
func (w *world) bootLater(s *server) {
	down := w.upTo(5 * time.Second)
	if w.chance(4) {
		down = w.upTo(4 * time.Minute)
	}
	w.after(down, func() {
		if !w.nodes[s.slot].alive {
			w.boot(s.slot)
		}
	})
}

func (w *world) restartAlice() {
	if !w.alice.alive {
		return
	}
	w.counts.Restarts++
	w.alice.kill()
	down := w.upTo(10 * time.Second)
	if w.chance(4) {
		down = w.upTo(6 * time.Minute)
	}
	w.after(down, func() {
		if !w.alice.alive {
			w.alice.boot()
		}
	})
}

func (w *world) anyLane() *upLane {
	for _, t := range w.alice.tasks {
		if t.lane != nil && w.chance(2) {
			return t.lane
		}
	}
	return nil
}

func (w *world) anyDownLane() *downLane {
	for _, t := range w.alice.tasks {
		if x := w.bob.all[t.id]; x != nil && x.lane != nil && w.chance(2) {
			return x.lane
		}
	}
	return nil
}

// heal ends all faults: from here on everything has to come to its end.
func (w *world) heal() {
	w.note("--- no more faults")
	w.faulty = false
	w.bob.crashIn = 0
	w.bob.broken = nil
	for slot, s := range w.nodes {
		if s.goOn(); !s.alive {
			w.boot(slot)
		}
	}
	if w.bus != nil {
		w.bus.heal()
	}
	if !w.alice.alive {
		w.alice.boot()
	}
	if !w.bob.alive && !w.bob.off {
		w.bob.boot()
	}
}

// settled reports whether every task has its result.
func (w *world) settled() bool {
	for _, t := range w.alice.tasks {
		if !t.begun || len(t.results) == 0 {
			return false
		}
	}
	return true
}

func (w *world) stuck() {
	for _, t := range w.alice.tasks {
		if len(t.results) == 0 {
			state := "no machine"
			if t.m != nil {
				state = t.m.State().String()
			}
			w.fail("%s has no result an hour after the last fault: %s, confirmed %d of %d", t.id, state, t.shown, t.size)
		}
	}
}
