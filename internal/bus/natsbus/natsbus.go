// Package natsbus is a bus.Bus on core NATS, and the only package that knows nats.go.
//
// Operators give the nodes an account of NATS, or permissions, for what is below the
// prefix of their subjects and for _INBOX.>, where answers go: both to publish and to
// subscribe. Nothing is stored, JetStream is not needed.
//
// Nothing here waits for the network: nats.go holds its one lock while it writes, and
// while it looks a name up, dials and logs in, for seconds if the other end says nothing.
// So connections write in a goroutine of their own (conn), and without a connection
// nats.go is not called at all (live).
package natsbus

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/dian-im/dian/internal/bus"
)

const (
	queueSize = 65_536 // messages that may wait for the handler
	drainWait = time.Second
	// maxBytesAtFirst is what NATS has by default, until a server has said its own.
	maxBytesAtFirst = 1 << 20
)

// A node is this process on the bus. Its goroutines are deliver, which calls the handler,
// keep, which has a connection of nats.go, and drops.watch; all run until Close.
type node struct {
	// Set by Open, then only read.
	options  nats.Options
	handler  bus.Handler
	journal  *journal
	drops    *drops
	asks     *asks
	dialer   *dialer
	arrived  chan *nats.Msg // never closed; all subscriptions of nats.go share it
	up, down *nats.Msg      // stand in arrived for a change of state
	done     chan struct{}  // closed by Close
	once     sync.Once      // for Close
	loops    sync.WaitGroup

	maxBytes atomic.Int64
	live     atomic.Pointer[live] // nil without a connection

	mu      sync.Mutex // guards the fields below
	closed  bool
	current *nats.Conn // the one that subscriptions are made on; nil until it has first connected
	subs    map[string]*subscription
	missing map[string]*subscription // of subs, those that current does not have yet
	gone    []*nats.Subscription     // cancelled while there was no connection
}

// Open returns a node, which begins to look for NATS. It fails only if Check does: as
// long as there is no connection it goes on trying, whatever the reason.
func Open(c Config, h bus.Handler) (bus.Bus, error) {
	options, err := c.options()
	if err != nil {
		return nil, err
	}
	n := &node{
		options: options,
		handler: h,
		journal: newJournal(c.Logger),
		drops:   newDrops(),
		asks:    newAsks(),
		arrived: make(chan *nats.Msg, queueSize),
		up:      new(nats.Msg),
		down:    new(nats.Msg),
		done:    make(chan struct{}),
		subs:    make(map[string]*subscription),
		missing: make(map[string]*subscription),
	}
	n.maxBytes.Store(maxBytesAtFirst)
	n.dialer = newDialer(n.offline)
	n.options.CustomDialer = n.dialer
	n.loops.Go(n.deliver)
	n.loops.Go(n.keep)
	n.loops.Go(func() {
		n.drops.watch(n.done, func() bool { return len(n.arrived) == cap(n.arrived) }, n.journal.log)
	})
	return n, nil
}

// deliver calls the handler, in the order of arrival, until Close.
func (n *node) deliver() {
	up := false
	turn := func(to bool) {
		if up != to {
			up = to
			n.handler.State(to)
		}
	}
	for {
		var m *nats.Msg
		select {
		case m = <-n.arrived:
		case <-n.done:
			return
		}
		switch {
		case m == n.up:
			turn(true)
		case m == n.down:
			turn(false)
		case n.wants(m):
			// nats.go reads a connection before it says that there is one. It has read
			// the old one to its end before it says that it is lost.
			turn(true)
			n.handler.Message(bus.Message{Subject: m.Subject, Reply: m.Reply, Data: m.Data})
		}
	}
}

// MaxBytes is bus.Bus's.
func (n *node) MaxBytes() int { return int(n.maxBytes.Load()) }

// Close is bus.Bus's. It must not be called by the handler.
func (n *node) Close() {
	n.once.Do(func() {
		n.mu.Lock()
		n.closed = true
		n.mu.Unlock()
		l := n.live.Swap(nil)
		flushed := make(chan struct{})
		go func() {
			defer close(flushed)
			if l != nil && l.conn.IsConnected() {
				l.conn.FlushTimeout(drainWait)
			}
		}()
		select {
		case <-flushed:
		case <-time.After(drainWait): // it may wait for the lock of nats.go
		}
		if l != nil {
			close(l.lost)
		}
		close(n.done)
		n.dialer.close()
		<-flushed
		n.loops.Wait()
	})
}
