package sim

import "time"

// checkCluster is for the end: one session of bob's, and every node knows where.
func (w *world) checkCluster() {
	if w.bus == nil {
		return
	}
	if w.rival != nil && !w.rival.off {
		w.fail("bob is there twice in the end")
	}
	var at *server
	for _, s := range w.nodes {
		l := s.listener()
		switch {
		case l == nil:
		case at != nil:
			w.fail("bob has a session at %v and at %v", at, s)
		case w.bob.line != l:
			w.fail("bob's session at %v is not the one that he has", s)
		default:
			at = s
		}
	}
	if at == nil {
		w.fail("bob has no session in the end")
		return
	}
	for _, s := range w.nodes {
		s.cluster.check(at)
	}
}

// check wants a node to know where bob is, and nothing of what is over.
func (c *cluster) check(at *server) {
	w := c.s.w
	if len(c.view.Nodes()) != len(w.nodes)-1 {
		w.fail("%v knows %d other nodes", c.s, len(c.view.Nodes()))
	}
	for _, n := range c.view.Nodes() {
		if n.ID != at.cluster.self && n.Users() > 0 {
			w.fail("%v believes that bob is at %v", c.s, w.nodeOf(n.ID))
		}
	}
	if n, s := c.view.Find(bobsPlace); c.s != at && (n == nil || s.Epoch != at.bob.epoch || s.Instance != at.bob.place) {
		w.fail("%v does not know that bob is at %v", c.s, at)
	}
	for _, l := range c.routes {
		if l != c.listener || !l.upThere {
			w.fail("%v has a route to bob that is over", c.s)
		}
	}
	if c.s == at && c.listener != nil {
		w.fail("%v has a stand-in of bob, who is there", c.s)
	}
	for _, l := range c.away {
		if l != w.alice.line {
			w.fail("%v has something away of a session that is over", c.s)
		}
		for sendID := range l.away {
			w.fail("%v has %s away, after everything", c.s, sendID)
		}
	}
	for key := range c.senders {
		if l := w.alice.line; l == nil || l.number != key.session || l.srv.cluster.self != key.node {
			w.fail("%v has the stand-in of a session of alice's that is over", c.s)
		}
	}
	if len(c.s.pending) > 0 {
		w.fail("%v has commands that wait, after everything", c.s)
	}
}

// agrees wants a node to know of another one what that has said, as soon as nothing has
// gone wrong between the two for a while.
func (c *cluster) agrees() {
	w := c.s.w
	for _, n := range c.view.Nodes() {
		at := w.nodeOf(n.ID)
		if at == nil || !w.bus.calm(c.s, at) || !c.up {
			continue
		}
		h := at.cluster.subs
		switch {
		case !at.alive:
			w.fail("%v still knows %v, which is dead", c.s, at)
		case w.now.Sub(h.changed) > 2*time.Second+w.bus.latency && (n.Users() > 0) != (h.here != nil):
			w.fail("%v believes that bob is at %v: %v", c.s, at, n.Users() > 0)
		}
	}
}

// calm reports whether alice has a session and nothing has gone wrong for a while between
// her node and the others.
func (w *world) calm() bool {
	if w.alice.line == nil {
		return false
	}
	for _, s := range w.nodes {
		if !w.bus.calm(w.alice.line.srv, s) {
			return false
		}
	}
	return true
}

// longWell reports whether nothing has gone wrong for a minute, and alice and the only
// bob had their sessions all the time: whoever waits has been told what he waits for.
func (w *world) longWell() bool {
	long := func(since time.Time) bool { return w.now.Sub(since) > time.Minute }
	a, b := w.alice, w.bob
	if w.bus == nil || a.line == nil || !long(a.heard) || b.line == nil || !long(b.history.heard) ||
		len(w.places()) > 1 || !b.history.faultUp.IsZero() ||
		!b.history.lost.IsZero() && w.now.Sub(b.history.lost) < 5*time.Minute { // bytes come again, and are no progress
		return false
	}
	for _, s := range w.nodes {
		if !s.alive || !long(w.bus.shaken[s]) {
			return false
		}
	}
	return w.calm()
}
