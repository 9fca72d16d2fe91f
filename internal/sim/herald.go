package sim

import (
	"time"

	nodes "github.com/dian-im/dian/internal/cluster"
)

const (
	askAgain = 150 * time.Millisecond
	askWait  = 500 * time.Millisecond
	// busLag is how long it may take until a subscription is known everywhere.
	busLag = 100 * time.Millisecond
)

// A herald tells the other nodes whether bob is here (server/herald.go): how it is now,
// and not what has happened.
type herald struct {
	c       *cluster
	dirty   bool
	running bool
	here    *nodes.User // what the others were told; nil: that he is not
	changed time.Time   // when that last changed
	known   time.Time   // when the subscription to his subject is
}

// tell has the others told, a little later.
func (h *herald) tell() {
	h.dirty = true
	if !h.running {
		h.running = true
		h.c.s.after(h.c.s.w.upTo(2*time.Millisecond), h.run)
	}
}

// again tells everything once more.
func (h *herald) again() {
	if h.here != nil {
		h.tell()
	}
}

func (h *herald) run() {
	h.running = false
	if !h.dirty {
		return
	}
	h.dirty = false
	w := h.c.s.w
	h.changed = w.now
	now := h.c.s.listener()
	switch {
	case now == nil && h.here == nil:
		return
	case now == nil:
		h.here = nil
		h.say(&nodes.User{App: bobsPlace.App, User: bobsPlace.User, Gone: true})
		return
	case h.here == nil:
		h.known = w.now.Add(w.upTo(busLag))
	}
	h.here = now.asUser()
	h.say(h.here)
}

func (h *herald) say(u *nodes.User) {
	h.c.s.w.note("%v tells everybody: %v", h.c.s, u)
	h.c.out.say(everybody, &nodes.Users{Users: []*nodes.User{u}}, true)
}

// asUser is what other nodes are told of a session.
func (l *line) asUser() *nodes.User {
	return &nodes.User{App: bobsPlace.App, User: bobsPlace.User, Instance: []byte(l.place), Epoch: l.epoch}
}

// tellAll answers a resync: what was told, in order with what will be.
func (h *herald) tellAll(to nodes.NodeID, nonce uint64) {
	page := &nodes.Users{Page: 1, Last: true, Nonce: nonce}
	if h.here != nil {
		page.Users = []*nodes.User{h.here}
	}
	h.c.out.pages(to, []any{page})
}

// subscribed reports whether a question about bob comes here.
func (h *herald) subscribed() bool { return h.here != nil && !h.c.s.w.now.Before(h.known) }

// asked answers a question about bob (cluster.asked).
func (c *cluster) asked() *nodes.User {
	if l := c.s.listener(); l != nil {
		return l.asUser()
	}
	return nil
}

// A seek is a search for bob, of whom this node does not know where he is
// (server/seek.go).
type seek struct {
	seen    bool // a node has said that it has him
	found   func()
	waiting []func()
}

// seek looks for bob and then calls then. It reports false if nobody can be asked.
func (c *cluster) seek(then func()) bool {
	if !c.up {
		return false
	}
	if k := c.seeking; k != nil {
		k.waiting = append(k.waiting, then)
		return true
	}
	k := &seek{waiting: []func(){then}}
	c.seeking = k
	end := func() {
		c.seeking = nil
		for _, then := range k.waiting {
			then()
		}
	}
	c.s.after(0, func() {
		c.search(func(there bool) {
			if there {
				end()
				return
			}
			over := false
			k.found = func() {
				if !over {
					over = true
					c.s.after(0, end)
				}
			}
			if k.seen {
				k.found()
				return
			}
			c.s.after(askAgain, func() {
				if !over {
					over = true
					c.search(func(bool) { end() })
				}
			})
		})
	})
	return true
}

// search asks once, and takes note of the answer (cluster.search, cluster.learn).
func (c *cluster) search(then func(found bool)) {
	c.s.w.bus.ask(c.s, askWait, func(id nodes.NodeID, u *nodes.User, err error) {
		if err == nil && u != nil {
			c.s.w.note("%v is answered by node %x: %v", c.s, uint64(id)>>48, u)
			var e nodes.Effects
			c.s.heard(u)
			c.view.Learn(c.s.clock(), id, u, &e)
			c.effects(&e)
			then(c.elsewhere() || c.s.listener() != nil)
			return
		}
		then(false)
	})
}

// found ends a search for bob, who has been heard of (seeks.found).
func (c *cluster) found() {
	if k := c.seeking; k != nil && !k.seen {
		k.seen = true
		if k.found != nil {
			k.found()
		}
	}
}

// incumbent finds out who has bob's place at another node (cluster.incumbent).
func (c *cluster) incumbent(then func(u *nodes.User)) {
	decide := func(u *nodes.User) {
		node, s := c.view.Find(bobsPlace)
		if node == nil || u != nil && u.Epoch >= s.Epoch {
			then(u)
			return
		}
		then(&nodes.User{Instance: []byte(s.Instance), Epoch: s.Epoch})
	}
	c.s.w.bus.ask(c.s, askWait, func(_ nodes.NodeID, u *nodes.User, err error) {
		if err != nil && c.up {
			c.s.w.bus.ask(c.s, askWait, func(_ nodes.NodeID, u *nodes.User, _ error) { decide(u) })
			return
		}
		decide(u)
	})
}
