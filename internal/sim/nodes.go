package sim

import (
	"math/rand/v2"
	"time"

	"github.com/dian-im/dian/internal/memdisk"
)

// nodesOf returns how many nodes a seed's relay has.
func nodesOf(seed uint64) int {
	return []int{1, 1, 2, 2, 3, 4}[rand.New(rand.NewPCG(seed, 0x6e6f6465)).IntN(6)] // "node"
}

// beginNodes boots the relay.
func (w *world) beginNodes(n int) {
	w.nodes = make([]*server, n)
	if n > 1 {
		latency := []time.Duration{time.Millisecond, 20 * time.Millisecond, 200 * time.Millisecond}[w.random.IntN(3)]
		w.bus = newBus(w, latency)
	}
	for slot := range w.nodes {
		w.boot(slot)
	}
}

func (w *world) anyNode() *server {
	if w.bus == nil {
		return w.nodes[0]
	}
	return w.nodes[w.random.IntN(len(w.nodes))]
}

// receivers returns who has bob's place, and who may want it.
func (w *world) receivers() []*receiver {
	if w.rival == nil {
		return []*receiver{w.bob}
	}
	return []*receiver{w.bob, w.rival}
}

// places returns all disks that bob has ever received to.
func (w *world) places() []*memdisk.Disk {
	if w.rival == nil {
		return w.bob.places
	}
	return append(append([]*memdisk.Disk(nil), w.bob.places...), w.rival.places...)
}

// steady reports whether the relay and alice were there all the time.
func (w *world) steady() bool { return w.bus == nil && w.nodes[0].life == 1 && w.alice.life == 1 }

// newReceiver makes a process of bob's on a machine of its own.
func (w *world) newReceiver(name string) *receiver {
	b := &receiver{w: w, who: name, history: newHistory(w), disk: memdisk.New(func() time.Time { return w.now })}
	b.places = []*memdisk.Disk{b.disk}
	return b
}

// beginRival has bob come up a second time, on another machine, while two nodes do not
// hear each other: for a while both of him may have a session.
func (w *world) beginRival() {
	if w.rival != nil || w.bob.off {
		return
	}
	w.rival = w.newReceiver("bob's rival")
	w.rival.life = 1000 // its lives are not bob's
	w.rival.acks, w.rival.slow = w.bob.acks, w.bob.slow
	w.rival.boot()
}

// lineOff ends bob's process for good: another one of him has his place. Who is left is
// bob from here on.
func (b *receiver) lineOff(l *line) {
	w := b.w
	if b.line != nil && b.line != l {
		return
	}
	w.note("%s is off", b.who)
	if len(w.places()) == 1 {
		w.fail("bob is shut out, and nobody else ever had his place")
	}
	b.off = true
	b.kill(false)
	switch {
	case w.rival == nil:
		w.after(w.upTo(time.Minute), b.startAgain)
	case b == w.bob && !w.rival.off:
		w.bob, w.rival = w.rival, w.bob
	case w.rival.off && w.bob.off:
		w.after(w.upTo(time.Minute), w.bob.startAgain)
	}
}

// startAgain is what a person does who is told that another one has his place, and knows
// better: that was himself, at a place that he has left.
func (b *receiver) startAgain() {
	if b.off {
		b.off = false
		b.w.counts.ShutOut++
		b.boot()
	}
}
