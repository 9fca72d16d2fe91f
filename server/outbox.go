package server

import (
	"errors"
	"sync"

	"google.golang.org/protobuf/proto"

	nodes "github.com/dian-im/dian/internal/cluster"
)

const (
	// packetBytes is about how long a packet gets whose messages come together.
	packetBytes = 64 << 10
	// What waits for one node to be said. Over the first bound nothing is taken that can
	// be refused, over the second what is said to the node is lost, as on a broken line.
	outboxFull = 32 << 20
	outboxMost = 64 << 20
)

// everybody is the destination of what is said to all nodes.
const everybody nodes.NodeID = 0

// errOutboxFull means that too much waits to be said to a node.
var errOutboxFull = errors.New("too much waits for another node")

// An outbox is what this node says to the others. Whoever says something does not wait:
// one goroutine carries it to the bus, with all that has come together meanwhile in one
// packet for each node. What is said to one node arrives in order; what is said to all
// is in order with everything that was said before and after it.
type outbox struct {
	c     *cluster
	codec *nodes.Codec // owned by run
	wake  chan struct{}
	ended chan struct{}

	mu      sync.Mutex // guards what follows
	to      map[nodes.NodeID]*destination
	queue   []*packet
	free    []*packet
	closing bool
}

// A destination is a node that things are said to, or everybody.
type destination struct {
	subject string
	number  uint64
	line    uint64  // how often it was begun
	open    *packet // the last one, while messages may be added to it
	bytes   int
	lost    bool // something could not be said
	gone    bool
}

type packet struct {
	to   nodes.NodeID
	data []byte
}

func newOutbox(c *cluster) *outbox {
	return &outbox{
		c: c, codec: c.codec.Clone(), wake: make(chan struct{}, 1), ended: make(chan struct{}),
		to: map[nodes.NodeID]*destination{everybody: {subject: c.codec.All()}},
	}
}

// begin makes room for a node that has been heard, for the first time or again.
func (o *outbox) begin(id nodes.NodeID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	d := o.to[id]
	switch {
	case d == nil:
		o.to[id] = &destination{subject: o.c.codec.Node(id)}
	case d.gone:
		d.line++
		d.number, d.gone, d.lost = nodes.FirstNumber(d.line), false, false
	}
}

// forget notes that a node is gone. Its number is kept: should it come back it has to
// see that something is missing.
func (o *outbox) forget(id nodes.NodeID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if d := o.to[id]; d != nil {
		d.gone = true
		o.tidyLocked()
	}
}

// maxGone bounds the nodes that are remembered although they are gone.
const maxGone = 1024

func (o *outbox) tidyLocked() {
	if len(o.to) <= maxGone {
		return
	}
	for id, d := range o.to {
		if d.gone {
			delete(o.to, id)
		}
	}
}

// say queues a message. An error means that it is not said: there is no such node, or,
// without must, too much waits for it.
func (o *outbox) say(id nodes.NodeID, m *nodes.Message, must bool) error {
	return o.sayBy(id, must, func(dst []byte) ([]byte, error) { return nodes.Append(dst, m) })
}

// sayBy is say for a message that write appends.
func (o *outbox) sayBy(id nodes.NodeID, must bool, write func(dst []byte) ([]byte, error)) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	d := o.to[id]
	switch {
	case d == nil || d.gone || o.closing:
		return errNoNode
	case !must && d.bytes > outboxFull:
		return errOutboxFull
	case d.bytes > outboxMost:
		d.lost = true // run tells both sides
		o.wakeLocked()
		return errOutboxFull
	}
	if id == everybody {
		o.barrierLocked()
	}
	p := d.open
	if p == nil {
		p = o.packetLocked(id)
		d.open = p
		o.queue = append(o.queue, p)
	}
	before := len(p.data)
	data, err := write(p.data)
	if err != nil {
		o.c.srv.log.Error("not said to a node", "err", err)
		return err
	}
	p.data = data
	d.bytes += len(data) - before
	if len(data) > packetBytes {
		d.open = nil
	}
	o.c.stats.messagesOut.Inc()
	o.wakeLocked()
	return nil
}

var errNoNode = errors.New("there is no such node")

// pages says several messages to a node, in order with what is said to everybody.
func (o *outbox) pages(id nodes.NodeID, all []*nodes.Message) {
	o.barrier()
	for _, m := range all {
		if o.say(id, m, true) != nil {
			return
		}
	}
	o.barrier()
}

// barrier keeps what is said from here on behind all that was said before.
func (o *outbox) barrier() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.barrierLocked()
}

func (o *outbox) barrierLocked() {
	for _, d := range o.to {
		d.open = nil
	}
}

func (o *outbox) packetLocked(id nodes.NodeID) *packet {
	if n := len(o.free); n > 0 {
		p := o.free[n-1]
		o.free = o.free[:n-1]
		p.to, p.data = id, nodes.Begin(p.data[:0])
		return p
	}
	return &packet{to: id, data: nodes.Begin(nil)}
}

func (o *outbox) wakeLocked() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// beat says to everybody that this node is there, and how far it has got with each of
// them: so they notice a loss that nothing follows on.
func (o *outbox) beat(b *nodes.Beat) {
	b = &nodes.Beat{Url: b.Url, Name: b.Name, Version: b.Version}
	o.mu.Lock()
	for id, d := range o.to {
		if id != everybody && !d.gone && d.number > nodes.FirstNumber(d.line) {
			b.Lines = append(b.Lines, &nodes.Line{Node: uint64(id), Number: d.number})
		}
	}
	o.mu.Unlock()
	o.say(everybody, &nodes.Message{Body: &nodes.Message_Beat{Beat: b}}, true)
}

// close lets run end when everything has been said.
func (o *outbox) close() {
	o.mu.Lock()
	o.closing = true
	o.wakeLocked()
	o.mu.Unlock()
	<-o.ended
}

// run carries what was said to the bus.
func (o *outbox) run() {
	defer close(o.ended)
	var batch []*packet
	for {
		o.mu.Lock()
		clear(batch)
		batch, o.queue = o.queue, batch[:0]
		closing := o.closing
		o.barrierLocked() // nothing is added to what goes out now
		var lost []nodes.NodeID
		for id, d := range o.to {
			if d.lost && !d.gone {
				d.lost = false
				d.number++ // the other side sees that something is missing
				lost = append(lost, id)
			}
		}
		o.mu.Unlock()
		for _, id := range lost {
			o.c.broken(id)
		}
		if len(batch) == 0 {
			if closing {
				return
			}
			<-o.wake
			continue
		}
		for _, p := range batch {
			o.publish(p)
		}
		o.recycle(batch)
	}
}

// publish puts the next number on a packet and gives it to the bus. One that cannot go
// out is missed by its number.
func (o *outbox) publish(p *packet) {
	o.mu.Lock()
	d := o.to[p.to]
	if d == nil {
		o.mu.Unlock()
		return
	}
	d.number++
	number, subject := d.number, d.subject
	d.bytes -= len(p.data) - nodes.HeadBytes
	o.mu.Unlock()
	o.codec.Seal(p.data, subject, o.c.self, number)
	if err := o.c.bus.Publish(subject, p.data); err != nil {
		o.c.stats.unsent.Inc()
		if p.to != everybody {
			o.c.broken(p.to)
		}
		return
	}
	o.c.stats.packetsOut.Inc()
	o.c.stats.bytesOut.Add(float64(len(p.data)))
}

// keptPackets is how many buffers are used again; longer ones are not.
const keptPackets = 64

func (o *outbox) recycle(batch []*packet) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, p := range batch {
		if len(o.free) < keptPackets && cap(p.data) <= 2*packetBytes {
			o.free = append(o.free, p)
		}
	}
}

// sealed makes a packet of one message that is not counted: a question or an answer.
func sealed(codec *nodes.Codec, self nodes.NodeID, subject string, m proto.Message) ([]byte, error) {
	data, err := nodes.Append(nodes.Begin(nil), m)
	if err != nil {
		return nil, err
	}
	codec.Seal(data, subject, self, 0)
	return data, nil
}
