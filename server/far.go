package server

import (
	"maps"
	"net/netip"
	"slices"

	nodes "github.com/dian-im/dian/internal/cluster"
	"github.com/dian-im/dian/internal/link"
	"github.com/dian-im/dian/internal/wire"
)

// A far is what makes a session the stand-in of one at another node: of a listener, to
// whom commands go, or of a sender, whose transfers live here. It has no link; what is
// sent to it is said to its node.
type far struct {
	c     *cluster
	node  nodes.NodeID
	route uint64 // of a listener: what its commands' results name
	there uint64 // of a sender: the session's number at its node
}

// newFar makes the stand-in of a session of another node. It is live at once and is on
// none of the lists of sessions.
func (c *cluster) newFar(node nodes.NodeID, p place, role wire.Role, instance string, address netip.Addr) *session {
	s := &session{
		srv: c.srv, ctx: c.srv.ctx, stop: func() {}, app: p.app, user: p.user, role: role,
		instance: instance, party: c.srv.quota.party(p.app, p.user, address), address: addressText(address),
		peer: &wire.Peer{User: p.user, Instance: []byte(instance)},
		far:  &far{c: c, node: node},
	}
	s.claims.Store(&claims{App: p.app, User: p.user, address: s.address, elsewhere: true})
	s.pending.wait, s.pending.expired = c.srv.cfg.CommandWait, s.commandExpired
	s.state.Store(sessionLive)
	return s
}

// reach returns the session that a user's commands go to: the listening one here, or
// the stand-in of that at another node, or nil.
func (s *Server) reach(app, user string) *session {
	if here := s.listener(app, user); here != nil {
		return here
	}
	return s.cluster.listener(place{app, user})
}

// listener returns the stand-in of a user at another node, or nil.
func (c *cluster) listener(p place) *session {
	if c == nil {
		return nil
	}
	c.mu.RLock()
	node, there := c.view.Find(p.there())
	s := c.listeners[p]
	c.mu.RUnlock()
	if node == nil {
		return nil
	}
	if s != nil && s.far.node == node.ID && s.epoch == there.Epoch {
		return s
	}
	fresh := c.newFar(node.ID, p, wire.Role_ROLE_LISTEN, there.Instance, netip.Addr{})
	c.srv.quota.releaseAddress(fresh.party.address) // its own node counts its address
	fresh.party.address = nil
	fresh.epoch = there.Epoch
	c.mu.Lock()
	if now := c.listeners[p]; now != s { // somebody else was faster
		c.mu.Unlock()
		fresh.party.release()
		return now
	}
	c.lastRoute++
	fresh.far.route = c.lastRoute
	c.listeners[p], c.routes[c.lastRoute] = fresh, fresh
	if s != nil {
		delete(c.routes, s.far.route)
	}
	c.mu.Unlock()
	if s != nil {
		s.retire()
	}
	return fresh
}

// dropListener takes a user's stand-in out of service, if there is one that fits.
func (c *cluster) dropListener(p place, fits func(*session) bool) {
	c.mu.Lock()
	s := c.listeners[p]
	if s == nil || fits != nil && !fits(s) {
		c.mu.Unlock()
		return
	}
	delete(c.listeners, p)
	delete(c.routes, s.far.route)
	c.mu.Unlock()
	s.retire()
}

// retireListener takes a user's stand-in out of service if the user is not where it
// was any more.
func (c *cluster) retireListener(p place) {
	c.dropListener(p, func(s *session) bool { // holds c.mu
		node, there := c.view.Find(p.there())
		return node == nil || node.ID != s.far.node || there.Epoch != s.epoch
	})
}

// here takes a user's stand-in out of service whose user has come here, and has what
// senders here send to it offered again.
func (c *cluster) here(p place) {
	if c == nil {
		return
	}
	for _, s := range c.index.of(p) {
		s.away.moved(s, p.user, 0)
	}
	c.dropListener(p, nil)
}

// tidyListeners takes the stand-ins out of service that no session sends to and no
// command waits for.
func (c *cluster) tidyListeners() {
	c.mu.RLock()
	all := slices.Collect(maps.Keys(c.listeners))
	c.mu.RUnlock()
	for _, p := range all {
		c.dropListener(p, func(s *session) bool { return s.shares.none() })
	}
}

// retire ends a listener's stand-in: nobody knows what became of the commands that
// were on their way.
func (s *session) retire() {
	s.state.Store(sessionGone)
	s.commandsLost()
	s.party.release()
}

// tell says a frame to a sender's session at its node. The errors are those of
// link.SendBy.
func (f *far) tell(frame *wire.Frame) error {
	return asLink(f.c.out.say(f.node, &nodes.Message{Body: &nodes.Message_Told{Told: &nodes.Told{
		Session: f.there, Frame: frame,
	}}}, true))
}

func asLink(err error) error {
	switch err {
	case nil:
		return nil
	case errOutboxFull:
		return link.ErrFull
	}
	return link.ErrClosed
}
