package server

import (
	"sync"

	nodes "github.com/dian-im/dian/internal/cluster"
	"github.com/dian-im/dian/internal/wire"
)

// pageUsers is how many users one message tells of.
const pageUsers = 256

// A herald tells the other nodes who is here. It says how a user is now, and not what
// has happened: so it does not matter in which order logins and logouts come to it.
type herald struct {
	c     *cluster
	wake  chan struct{}
	done  chan struct{}
	ended chan struct{}

	mu    sync.Mutex // guards what follows
	dirty map[place]struct{}

	tellMu sync.Mutex      // held while something is told, so that it is told in order
	here   map[place]*said // guarded by tellMu
}

// A said is what the others were told of a user.
type said struct {
	user   *nodes.User
	cancel func() // of the subscription to the user's subject
}

func newHerald(c *cluster) *herald {
	return &herald{
		c: c, wake: make(chan struct{}, 1), done: make(chan struct{}), ended: make(chan struct{}),
		dirty: map[place]struct{}{}, here: map[place]*said{},
	}
}

// tell has the others told how a user is. It does not wait.
func (h *herald) tell(p place) {
	h.mu.Lock()
	h.dirty[p] = struct{}{}
	h.mu.Unlock()
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// again tells everything once more.
func (h *herald) again() {
	h.tellMu.Lock()
	defer h.tellMu.Unlock()
	h.mu.Lock()
	for p := range h.here {
		h.dirty[p] = struct{}{}
	}
	h.mu.Unlock()
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// close ends it after what it has to tell now.
func (h *herald) close() {
	close(h.done)
	<-h.ended
}

func (h *herald) run() {
	defer close(h.ended)
	for {
		h.mu.Lock()
		dirty := h.dirty
		h.dirty = map[place]struct{}{}
		h.mu.Unlock()
		if len(dirty) > 0 {
			h.tellOf(dirty)
			continue
		}
		select {
		case <-h.wake:
		case <-h.done:
			return
		}
	}
}

func (h *herald) tellOf(dirty map[place]struct{}) {
	h.tellMu.Lock()
	defer h.tellMu.Unlock()
	var users []*nodes.User
	flush := func() {
		if len(users) > 0 {
			h.c.out.say(everybody, &nodes.Message{Body: &nodes.Message_Users{Users: &nodes.Users{Users: users}}}, true)
			users = nil
		}
	}
	for p := range dirty {
		if user := h.look(p); user != nil {
			if users = append(users, user); len(users) == pageUsers {
				flush()
			}
		}
	}
	flush()
}

// look finds out how a user is and returns what there is to tell, or nil.
func (h *herald) look(p place) *nodes.User {
	now, before := h.c.srv.listener(p.app, p.user), h.here[p]
	if now == nil {
		if before == nil {
			return nil
		}
		delete(h.here, p)
		before.cancel()
		return &nodes.User{App: p.app, User: p.user, Gone: true}
	}
	if before == nil {
		before = &said{cancel: func() {}}
		if cancel, err := h.c.bus.Subscribe(h.c.codec.User(p.there())); err == nil {
			before.cancel = cancel
		} else {
			h.c.srv.log.Error("no subscription for a user", "err", err)
		}
		h.here[p] = before
	}
	before.user = now.asUser()
	return before.user
}

// asUser is what other nodes are told of a session.
func (s *session) asUser() *nodes.User {
	v := s.status.Load()
	return &nodes.User{
		App: s.app, User: s.user, Instance: []byte(s.instance), Epoch: s.epoch,
		Busy: v>>32 != 0, DoNotDisturb: int32(uint32(v)),
	}
}

// tellAll tells a node, which has asked with a nonce, of everybody here.
func (h *herald) tellAll(to nodes.NodeID, nonce uint64) {
	h.tellMu.Lock()
	defer h.tellMu.Unlock()
	var pages []*nodes.Message
	page := &nodes.Users{Page: 1, Nonce: nonce}
	for _, s := range h.here {
		if len(page.Users) == pageUsers {
			pages = append(pages, &nodes.Message{Body: &nodes.Message_Users{Users: page}})
			page = &nodes.Users{Page: page.Page + 1, Nonce: nonce}
		}
		page.Users = append(page.Users, s.user)
	}
	page.Last = true
	pages = append(pages, &nodes.Message{Body: &nodes.Message_Users{Users: page}})
	h.c.out.pages(to, pages)
}

// tellCluster has the other nodes told how the session's user is.
func (s *session) tellCluster() {
	if c := s.srv.cluster; c != nil && s.role == wire.Role_ROLE_LISTEN {
		c.subs.tell(place{s.app, s.user})
	}
}
