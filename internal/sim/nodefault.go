package sim

import "time"

// nodeFault does one bad thing to the nodes or to what is between them.
func (w *world) nodeFault() {
	b, s := w.bus, w.anyNode()
	span := []time.Duration{w.upTo(time.Second), w.upTo(8 * time.Second), w.upTo(time.Minute)}[w.random.IntN(3)]
	switch w.random.IntN(13) {
	case 0, 1:
		w.restartServer(s)
	case 2, 3:
		w.counts.Parts++
		b.odds = []int{2, 10, 50}[w.random.IntN(3)]
		w.note("bus: one packet in %d is lost", b.odds)
		w.after(span, func() { b.odds = 0 })
	case 4:
		w.part(s, span)
	case 5:
		w.counts.Parts++
		w.note("bus: %v is cut off for %v", s, span)
		b.cut(s)
		w.after(span, func() { b.connect(s) })
	case 6:
		w.counts.Parts++
		w.note("bus: it begins again")
		for _, s := range w.nodes {
			b.cut(s)
			w.after(w.upTo(3*time.Second), func() { b.connect(s) })
		}
	case 7:
		w.counts.Parts++
		w.note("bus: %v takes nothing for %v", s, span)
		b.deaf[s] = w.now.Add(span)
	case 8, 9:
		if s.alive && !s.stopped {
			w.counts.Stops++
			s.stop(min(span, 50*time.Second) + w.upTo(20*time.Second))
		}
	case 10:
		if s.alive && !s.stopped && !s.ending {
			w.counts.Drains++
			s.drain()
		}
	case 11:
		if w.chance(3) {
			w.counts.Rivals++
			w.part(s, span)
			w.beginRival()
		}
	case 12:
		o := w.anyNode()
		if s.alive && !s.stopped && o != s {
			w.note("%v cannot say something to %v", s, o)
			s.cluster.out.overflow(o.cluster.self)
		}
	}
}

// part keeps a node and another one from hearing each other.
func (w *world) part(s *server, span time.Duration) {
	if o := w.anyNode(); o != s {
		w.counts.Parts++
		w.note("bus: %v and %v do not hear each other for %v", s, o, span)
		w.bus.part(s, o, span)
		if w.chance(4) { // one way alone
			delete(w.bus.split, pair{o.slot, s.slot})
		}
	}
}
