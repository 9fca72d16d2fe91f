package sim

import (
	nodes "github.com/dian-im/dian/internal/cluster"
	"github.com/dian-im/dian/internal/wire"
)

// A far is what makes a line the stand-in of a session at another node (server/far.go).
type far struct {
	c     *cluster
	node  nodes.NodeID
	route uint64 // of bob: what his commands' results name
	there int    // of alice: the session's number at its node
}

// reach returns the line that commands for bob go to (Server.reach).
func (s *server) reach() *line {
	if here := s.listener(); here != nil || s.cluster == nil {
		return here
	}
	return s.cluster.standIn()
}

// standIn returns the stand-in of bob at another node, or nil (cluster.listener).
func (c *cluster) standIn() *line {
	node, there := c.view.Find(bobsPlace)
	if node == nil {
		return nil
	}
	l := c.listener
	if l != nil && l.far.node == node.ID && l.epoch == there.Epoch {
		return l
	}
	c.lastRoute++
	fresh := &line{
		w: c.s.w, srv: c.s, upThere: true, place: there.Instance, epoch: there.Epoch,
		far: &far{c: c, node: node.ID, route: c.lastRoute},
	}
	c.listener, c.routes[c.lastRoute] = fresh, fresh
	if l != nil {
		delete(c.routes, l.far.route)
		c.retire(l)
	}
	return fresh
}

// retireListener takes bob's stand-in out of service if he is not where he was any more.
func (c *cluster) retireListener() {
	l := c.listener
	if l == nil {
		return
	}
	if node, there := c.view.Find(bobsPlace); node != nil && node.ID == l.far.node && there.Epoch == l.epoch {
		return
	}
	c.listener = nil
	delete(c.routes, l.far.route)
	c.retire(l)
}

// tidyListener takes bob's stand-in out of service if nothing is on its way to him
// (cluster.tidyListeners).
func (c *cluster) tidyListener() {
	l := c.listener
	if l == nil {
		return
	}
	for _, p := range c.s.pending {
		if p.to == l {
			return
		}
	}
	for _, o := range c.s.lines {
		if o.upThere && o.target == l {
			return
		}
	}
	c.listener = nil
	delete(c.routes, l.far.route)
	c.retire(l)
}

// here takes bob's stand-in out of service, who has come here (cluster.here).
func (c *cluster) here() {
	c.awayMoved(0)
	if l := c.listener; l != nil {
		c.listener = nil
		delete(c.routes, l.far.route)
		c.retire(l)
	}
}

// retire ends a stand-in of bob (session.retire).
func (c *cluster) retire(l *line) {
	l.upThere = false
	c.s.commandsLost(l)
}

// tell says a frame to a sender's session at its node.
func (f *far) tell(t told) { f.c.out.say(f.node, toldTo{f.there, t, f.c.s.w.now}, true) }

// deliver says a command to the node of bob's session (far.deliver).
func (f *far) deliver(to *line, c *wire.Command) error {
	return f.c.out.say(f.node, deliver{to.epoch, f.route, c}, false)
}

// A farCommand is the source of a command that came from another node.
type farCommand struct {
	c          *cluster
	node       nodes.NodeID
	route, ref uint64 // of the other node
}

func (f *farCommand) commandDone(r *wire.CommandResult) {
	f.c.out.say(f.node, delivered{f.route, f.ref, r}, true)
}

// deliver passes a command of another node's on (cluster.deliver).
func (c *cluster) deliver(from nodes.NodeID, d deliver) {
	source := &farCommand{c, from, d.route, d.command.Ref}
	to := c.s.listener()
	if to == nil || to.epoch != d.epoch {
		source.commandDone(lost(d.command.Id))
		return
	}
	if code := c.s.pass(d.command, source, to); code != wire.OK {
		source.commandDone(refused(d.command.Id, code))
	}
}

// delivered takes in what became of a command at another node (cluster.delivered).
func (c *cluster) delivered(from nodes.NodeID, d delivered) {
	to := c.routes[d.route]
	if to == nil || to.far.node != from {
		return
	}
	if p := c.s.take(d.ref, to, d.result.Id); p != nil {
		p.from.commandDone(d.result)
	}
}

// farRef names a command of another node.
type farRef struct {
	node nodes.NodeID
	ref  uint64
}

// owes wants the node at which a command is to have its result soon: who waits for one
// in vain was not told that something was lost.
func (c *cluster) owes(p *pendingCommand, ref uint64) {
	w := c.s.w
	there := w.nodeOf(p.to.far.node)
	if there == nil || !w.bus.calm(c.s, there) {
		return
	}
	if there.alive {
		for _, o := range there.pending {
			if f, is := o.from.(*farCommand); is && f.ref == ref && f.node == c.self {
				return
			}
		}
		if at, done := there.cluster.settled[farRef{c.self, ref}]; done && w.now.Sub(at) < quiet {
			return
		}
	}
	w.fail("%s waits at %v for a result that no node owes", p.id, c.s)
}
