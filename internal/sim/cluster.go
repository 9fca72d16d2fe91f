package sim

import (
	"slices"
	"time"

	nodes "github.com/dian-im/dian/internal/cluster"
	"github.com/dian-im/dian/internal/wire"
)

// tidyTicks is how often, in beats, a stand-in is taken out that nobody needs.
const tidyTicks = 30

// bobsPlace is the one place of this world: alice only sends.
var bobsPlace = nodes.Place{App: "app", User: "bob"}

// A cluster is the other nodes as one knows them: what package server has of that name
// (server/cluster.go), around the real nodes.View. Its goroutines are events here.
type cluster struct {
	s    *server
	self nodes.NodeID
	view *nodes.View
	out  *outbox
	subs *herald

	up   bool // there is a connection to the bus
	conn int  // counts those that have ended

	ticks int

	seeking   *seek
	listener  *line            // stand-in of bob at another node, or nil
	routes    map[uint64]*line // the same, by its route
	lastRoute uint64
	senders   map[farSender]*line // stand-ins of alice's sessions at other nodes
	away      []*line             // sessions of hers here that send to other nodes

	settled map[farRef]time.Time       // of commands of other nodes that have their results
	breaks  map[nodes.NodeID]time.Time // when the line to a node last broke
}

// What the nodes say to each other beside nodes.Beat and nodes.Users.
type (
	leaving struct{}
	resync  struct{ nonce uint64 }
	broken  struct{}
	deliver struct {
		epoch, route uint64
		command      *wire.Command
	}
	delivered struct {
		route, ref uint64
		result     *wire.CommandResult
	}
	sending struct {
		session int
		frame   senderFrame
	}
	toldTo struct {
		session int
		told
		said time.Time
	}
	senderGone struct {
		session int
		kicked  bool
	}
)

// join makes a node of the cluster of the server.
func (s *server) join() {
	w := s.w
	s.offset = w.upTo(10*time.Minute) - 5*time.Minute
	c := &cluster{
		s: s, self: nodes.NodeID(w.random.Uint64() | 1),
		routes: map[uint64]*line{}, senders: map[farSender]*line{}, settled: map[farRef]time.Time{}, breaks: map[nodes.NodeID]time.Time{},
	}
	s.cluster = c
	c.view = nodes.NewView(c.self, s.clock())
	c.out = newOutbox(c)
	c.subs = &herald{c: c}
	w.after(w.upTo(w.bus.latency), func() { w.bus.connect(s) })
	s.after(w.upTo(nodes.BeatEvery), c.tick)
}

// leave says goodbye (cluster.leave).
func (c *cluster) leave() {
	c.subs.run()
	c.out.say(everybody, leaving{}, true)
	c.out.run()
}

func (c *cluster) beat() { c.out.beat() }

// tick is the clock (cluster.tick).
func (c *cluster) tick() {
	c.s.after(nodes.BeatEvery, c.tick)
	if c.ticks++; c.ticks%tidyTicks == 0 {
		c.tidyListener()
	}
	c.look()
	c.agrees()
}

func (c *cluster) look() {
	var e nodes.Effects
	paused := c.view.Tick(c.s.clock(), &e)
	c.beat()
	if paused {
		c.subs.again()
	}
	c.effects(&e)
}

// message takes in what comes from the bus (cluster.message).
func (c *cluster) message(p packet) {
	var e nodes.Effects
	counts := c.view.Heard(c.s.clock(), p.from, p.toAll, p.number, &e)
	c.effects(&e)
	if !counts {
		return
	}
	for _, m := range p.messages {
		if c.unproven(p.from, m) {
			continue
		}
		var e nodes.Effects
		switch m := m.(type) {
		case *nodes.Beat:
			c.view.Beat(p.from, p.toAll, m, &e)
		case *nodes.Users:
			c.s.w.note("%v hears of users at node %x: %v", c.s, uint64(p.from)>>48, m)
			c.s.heard(m.Users...)
			c.view.Users(p.from, m, &e)
		case leaving:
			c.view.Leave(p.from, &e)
		case resync:
			c.out.say(p.from, &nodes.Beat{}, true) // where it is, before who is there
			c.subs.tellAll(p.from, m.nonce)
		case broken:
			c.broken(p.from)
		case deliver:
			c.deliver(p.from, m)
		case delivered:
			c.delivered(p.from, m)
		case sending:
			c.sending(p.from, m)
		case toldTo:
			c.told(p.from, m)
		case senderGone:
			c.senderGone(p.from, m)
		}
		c.effects(&e)
	}
}

// unproven reports whether a message counts only of a node that has shown that it lives
// (cluster.unproven).
func (c *cluster) unproven(from nodes.NodeID, m any) bool {
	switch m.(type) {
	case *nodes.Beat, *nodes.Users, resync, broken, leaving:
		return false
	}
	if c.view.Proven(from) {
		return false
	}
	c.out.say(from, broken{}, true)
	return true
}

// effects tells those whom a change concerns (cluster.effects).
func (c *cluster) effects(e *nodes.Effects) {
	for _, id := range e.New {
		c.out.begin(id)
	}
	for _, id := range e.Lost {
		c.s.w.note("%v gives node %x up", c.s, uint64(id)>>48)
		c.broken(id)
		c.out.forget(id)
	}
	for _, id := range e.Broken {
		c.s.w.note("%v has lost something of node %x", c.s, uint64(id)>>48)
		c.out.say(id, broken{}, true)
		c.broken(id)
	}
	for _, id := range e.Resync {
		c.out.say(id, resync{c.view.Asked(id)}, true)
	}
	for range e.Changed {
		c.retireListener()
	}
	for range e.Came {
		c.came()
	}
	for range e.Changed {
		c.found()
	}
}

// came looks what it means here that bob is at another node (cluster.came).
func (c *cluster) came() {
	node, there := c.view.Find(bobsPlace)
	if node == nil {
		return
	}
	if here := c.s.listener(); here != nil {
		if nodes.Newer(here.epoch, c.self, there.Epoch, node.ID) {
			c.subs.tell() // it may not have heard of ours
			return
		}
		c.s.giveWay(here, there.Instance)
	}
	c.awayMoved(node.ID)
	c.s.moved(there.Instance)
}

// broken ends what this node and another have under way with each other
// (cluster.broken).
func (c *cluster) broken(id nodes.NodeID) {
	c.breaks[id] = c.s.w.now
	var gone []*line
	receiver := c.listener
	if receiver != nil && receiver.far.node == id {
		c.listener = nil
		delete(c.routes, receiver.far.route)
	} else {
		receiver = nil
	}
	for key, l := range c.senders {
		if key.node == id {
			delete(c.senders, key)
			gone = append(gone, l)
		}
	}
	slices.SortFunc(gone, func(a, b *line) int { return a.far.there - b.far.there })
	if receiver != nil {
		c.retire(receiver)
	}
	for _, l := range gone {
		c.endSender(l, false)
	}
	for _, l := range slices.Clone(c.away) {
		c.awayBroken(l, id)
	}
}

// carrier returns where bob is, if that is another node (cluster.carrier).
func (c *cluster) carrier() (nodes.NodeID, bool) {
	node, _ := c.view.Find(bobsPlace)
	if node == nil {
		return 0, false
	}
	return node.ID, true
}

func (c *cluster) elsewhere() bool {
	_, there := c.carrier()
	return there
}

// nodeOf returns the node of an id, dead or alive.
func (w *world) nodeOf(id nodes.NodeID) *server {
	for _, s := range w.nodes {
		if s.cluster.self == id {
			return s
		}
	}
	return nil
}
