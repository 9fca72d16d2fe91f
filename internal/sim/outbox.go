package sim

import (
	"errors"
	"time"

	nodes "github.com/dian-im/dian/internal/cluster"
)

// everybody is the destination of what is said to all nodes.
const everybody nodes.NodeID = 0

var (
	errNoNode     = errors.New("there is no such node")
	errOutboxFull = errors.New("too much waits for another node")
)

// packetMost is how many messages come together in a packet here; package server counts
// bytes.
const packetMost = 4

// An outbox is what a node says to the others (server/outbox.go): its goroutine is an
// event that comes a little later.
type outbox struct {
	c       *cluster
	to      map[nodes.NodeID]*destination
	ids     []nodes.NodeID // of to, without everybody: so that a seed has one course
	queue   []*outgoing
	running bool
}

// A destination is a node that things are said to, or everybody.
type destination struct {
	number uint64
	line   uint64
	open   *outgoing // the last one, while messages may be added to it
	lost   bool      // something could not be said
	gone   bool
}

type outgoing struct {
	to       nodes.NodeID
	messages []any
}

func newOutbox(c *cluster) *outbox {
	return &outbox{c: c, to: map[nodes.NodeID]*destination{everybody: {}}}
}

// begin makes room for a node that has been heard, for the first time or again.
func (o *outbox) begin(id nodes.NodeID) {
	d := o.to[id]
	switch {
	case d == nil:
		o.to[id] = &destination{}
		o.ids = append(o.ids, id)
	case d.gone:
		d.line++
		d.number, d.gone, d.lost = nodes.FirstNumber(d.line), false, false
	}
}

// forget notes that a node is gone.
func (o *outbox) forget(id nodes.NodeID) {
	if d := o.to[id]; d != nil {
		d.gone = true
	}
}

// say queues a message.
func (o *outbox) say(id nodes.NodeID, m any, must bool) error {
	d, w := o.to[id], o.c.s.w
	switch {
	case d == nil || d.gone:
		return errNoNode
	case !must && w.faulty && w.chance(40):
		return errOutboxFull
	case d.lost:
		return errOutboxFull // run tells both sides
	}
	if id == everybody {
		o.barrier()
	}
	p := d.open
	if p == nil {
		p = &outgoing{to: id}
		d.open = p
		o.queue = append(o.queue, p)
	}
	if p.messages = append(p.messages, m); len(p.messages) == packetMost {
		d.open = nil
	}
	o.wake()
	return nil
}

// pages says several messages to a node, in order with what is said to everybody.
func (o *outbox) pages(id nodes.NodeID, all []any) {
	o.barrier()
	for _, m := range all {
		if o.say(id, m, true) != nil {
			return
		}
	}
	o.barrier()
}

// overflow has something that is to be said to a node be too much.
func (o *outbox) overflow(id nodes.NodeID) {
	if d := o.to[id]; d != nil {
		d.lost = true
		o.wake()
	}
}

// barrier keeps what is said from here on behind all that was said before.
func (o *outbox) barrier() {
	for _, d := range o.to {
		d.open = nil
	}
}

// beat says to everybody that this node is there, and how far it has got with each.
func (o *outbox) beat() {
	b := &nodes.Beat{}
	for _, id := range o.ids {
		if d := o.to[id]; !d.gone && d.number > nodes.FirstNumber(d.line) {
			b.Lines = append(b.Lines, &nodes.Line{Node: uint64(id), Number: d.number})
		}
	}
	o.say(everybody, b, true)
}

func (o *outbox) wake() {
	if !o.running {
		o.running = true
		o.c.s.after(o.c.s.w.upTo(time.Millisecond), o.run)
	}
}

// run carries what was said to the bus.
func (o *outbox) run() {
	o.running = false
	batch := o.queue
	o.queue = nil
	o.barrier()
	for _, id := range o.ids {
		if d := o.to[id]; d.lost && !d.gone {
			d.lost = false
			d.number++ // the other side sees that something is missing
			o.c.broken(id)
		}
	}
	for _, p := range batch {
		o.publish(p)
	}
}

// publish puts the next number on a packet and gives it to the bus.
func (o *outbox) publish(p *outgoing) {
	d := o.to[p.to]
	d.number++
	err := o.c.s.w.bus.publish(o.c.s, p.to, packet{o.c.self, p.to == everybody, d.number, p.messages})
	if err != nil && p.to != everybody {
		o.c.broken(p.to)
	}
}
