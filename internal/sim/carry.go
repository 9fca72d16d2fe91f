package sim

import (
	"slices"
	"time"

	nodes "github.com/dian-im/dian/internal/cluster"
)

// placeWait is how long a request waits for a receiver of whom nobody knows where he is.
const placeWait = 3 * time.Second

// A request is one that is made of a node, and may be carried to another one, once
// (server/clusterlane.go).
type request struct {
	id      string        // of the transfer; "" if it is about bob alone
	carried bool          // to where it is served
	from    *server       // by which node
	over    func() bool   // nobody waits for the answer any more; nil: somebody does
	serve   func(*server) // where it belongs
	broken  func()        // the node where it belongs cannot be reached
}

// handle sends it on to bob's node if that is another one, or serves it here
// (cluster.carryTransfer, cluster.carry).
func (s *server) handle(q *request) {
	c := s.cluster
	if c == nil || q.carried || s.listener() != nil {
		q.serve(s)
		return
	}
	if to, there := c.carrier(); there {
		c.forward(to, q)
		return
	}
	begun := s.w.now
	var again func()
	look := func() {
		to, there := c.carrier()
		switch {
		case there && s.listener() == nil:
			c.forward(to, q)
		case q.id == "" || s.listener() != nil || !c.up:
			q.serve(s)
		default:
			again()
		}
	}
	again = func() {
		if q.id != "" && (s.ids[q.id] != nil || s.w.now.Sub(begun) >= placeWait || q.over != nil && q.over()) || !c.seek(look) {
			q.serve(s)
		}
	}
	again()
}

// forward carries it to a node.
func (c *cluster) forward(id nodes.NodeID, q *request) {
	w := c.s.w
	if q.carried {
		w.fail("a request is carried twice")
		return
	}
	q.carried, q.from = true, c.s
	w.counts.Carried++
	to := w.nodeOf(id)
	w.after(w.upTo(w.bus.latency), func() {
		if to == nil || !to.alive || w.faulty && w.chance(40) {
			c.s.do(q.broken)
			return
		}
		to.arrived = append(to.arrived, q)
		to.do(func() {
			to.arrived = slices.DeleteFunc(to.arrived, func(o *request) bool { return o == q })
			to.handle(q)
		})
	})
}
