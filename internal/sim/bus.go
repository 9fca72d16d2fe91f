package sim

import (
	"errors"
	"time"

	nodes "github.com/dian-im/dian/internal/cluster"
)

// A bus is what the nodes talk over, as package bus promises it: lossy, in order between
// each two nodes, and without a word about what is lost.
type bus struct {
	w       *world
	latency time.Duration         // at most
	last    map[pair]time.Time    // when the last packet from one to the other arrives
	split   map[pair]bool         // two that do not hear each other
	odds    int                   // one packet in so many is lost; 0: none
	deaf    map[*server]time.Time // a slow consumer: loses everything until then
	shaken  map[*server]time.Time // of a node's last fault, for what is owed; see pendingCommand
}

type pair [2]int

// A packet is one message of the bus: package cluster's, without its bytes.
type packet struct {
	from     nodes.NodeID
	toAll    bool
	number   uint64
	messages []any
}

var (
	errBusDown = errors.New("no connection to the bus")
	errTimeout = errors.New("no answer")
)

func newBus(w *world, latency time.Duration) *bus {
	return &bus{
		w: w, latency: latency, last: map[pair]time.Time{}, split: map[pair]bool{},
		deaf: map[*server]time.Time{}, shaken: map[*server]time.Time{},
	}
}

// publish sends a packet to a node, or to all.
func (b *bus) publish(from *server, to nodes.NodeID, p packet) error {
	if !from.cluster.up {
		return errBusDown
	}
	for _, s := range b.w.nodes {
		if s != from && s.alive && (to == everybody || s.cluster.self == to) {
			b.send(from, s, func() { s.cluster.message(p) })
		}
	}
	return nil
}

// reaches reports whether what one publishes comes to the other.
func (b *bus) reaches(from, to *server) bool {
	return from.alive && to.alive && from.cluster.up && to.cluster.up && !b.split[pair{from.slot, to.slot}]
}

// send has fn done at a node, or not.
func (b *bus) send(from, to *server, fn func()) {
	if !b.reaches(from, to) {
		return
	}
	if b.odds > 0 && b.w.chance(b.odds) || b.w.now.Before(b.deaf[to]) {
		b.w.counts.Packets++
		b.w.note("bus: a packet from %v to %v is lost", from, to)
		b.shake(from, to)
		return
	}
	way := pair{from.slot, to.slot}
	at := maxTime(b.last[way], b.w.now.Add(b.w.upTo(b.latency)))
	b.last[way] = at
	here, there := from.cluster.conn, to.cluster.conn
	b.w.at(at, func() {
		if to.cluster.conn != there || !to.alive || from.alive && (from.cluster.conn != here || b.split[way]) {
			b.shake(from, to)
			return
		}
		to.do(fn)
	})
}

// shake notes that something between nodes goes wrong now.
func (b *bus) shake(all ...*server) {
	for _, s := range all {
		b.shaken[s] = b.w.now
	}
}

// quiet is how long nothing may go wrong between two nodes until each knows of what did
// before.
const quiet = nodes.SilentAfter + 3*nodes.BeatEvery + 2*time.Second

// calm reports whether nothing has gone wrong at two nodes for a while. One that is dead
// may be one of them.
func (b *bus) calm(x, y *server) bool {
	for _, s := range []*server{x, y} {
		if s.stopped || b.w.now.Sub(b.shaken[s]) < quiet {
			return false
		}
	}
	return !x.alive || !y.alive || b.reaches(x, y) && b.reaches(y, x)
}

// connect and cut are a node's connection to the bus.
func (b *bus) connect(s *server) {
	if s.alive && !s.cluster.up {
		s.cluster.up = true
		b.shake(s)
		s.do(s.cluster.beat)
	}
}

func (b *bus) cut(s *server) {
	if s.alive && s.cluster.up {
		s.cluster.up = false
		s.cluster.conn++
		b.shake(s)
	}
}

// part keeps two nodes from hearing each other for a while.
func (b *bus) part(x, y *server, d time.Duration) {
	for _, way := range []pair{{x.slot, y.slot}, {y.slot, x.slot}} {
		b.split[way] = true
		b.w.after(d, func() {
			delete(b.split, way)
			b.shake(b.w.nodes[way[0]], b.w.nodes[way[1]])
		})
	}
	b.shake(x, y)
}

// heal ends all faults.
func (b *bus) heal() {
	clear(b.split)
	clear(b.deaf)
	b.odds = 0
	b.shake(b.w.nodes...)
	for _, s := range b.w.nodes {
		b.connect(s)
	}
}

// ask asks who has bob's session, as Bus.Ask does: the first answer counts, nobody who
// listens is an answer too, and there may be none.
func (b *bus) ask(from *server, wait time.Duration, then func(id nodes.NodeID, u *nodes.User, err error)) {
	if !from.cluster.up {
		then(0, nil, errBusDown)
		return
	}
	over := false
	end := func(id nodes.NodeID, u *nodes.User, err error) {
		from.do(func() {
			if !over {
				over = true
				then(id, u, err)
			}
		})
	}
	nobody := true
	for _, s := range b.w.nodes {
		if s == from || !b.reaches(from, s) || !s.cluster.subs.subscribed() {
			continue
		}
		nobody = false
		b.send(from, s, func() {
			u := s.cluster.asked()
			b.w.after(b.w.upTo(b.latency), func() {
				if b.odds == 0 || !b.w.chance(b.odds) {
					end(s.cluster.self, u, nil)
				}
			})
		})
	}
	if nobody {
		b.w.after(b.w.upTo(b.latency), func() { end(0, nil, nil) })
		return
	}
	b.w.after(wait, func() { end(0, nil, errTimeout) })
}
