package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"time"

	"github.com/dian-im/dian/internal/bus"
	nodes "github.com/dian-im/dian/internal/cluster"
)

const (
	// A fresh subscription needs some time to be known everywhere: that nobody listens
	// is believed when it is said twice, so long after each other.
	askAgain = 150 * time.Millisecond
	// askWait is how long an answer is waited for that has to come.
	askWait = 500 * time.Millisecond
)

// answerSubject is what the MAC of an answer is made for: its real subject is the
// bus's. The question's nonce is in it.
const answerSubject = "answer"

// ask asks where a user is. The answer is nil if nobody has it.
func (c *cluster) ask(ctx context.Context, p place) (nodes.NodeID, *nodes.Answer, error) {
	if !c.up.Load() {
		return 0, nil, bus.ErrDown
	}
	codec := c.codec.Clone()
	at := p.there()
	nonce := make([]byte, 16)
	rand.Read(nonce) // never fails
	subject := codec.User(at)
	question, err := sealed(codec, c.self, subject, &nodes.Ask{Nonce: nonce, App: p.app, User: p.user})
	if err != nil {
		return 0, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	data, err := c.bus.Ask(ctx, subject, question)
	if errors.Is(err, bus.ErrNobody) {
		return 0, nil, nil
	}
	if err != nil {
		return 0, nil, err
	}
	node, _, messages, err := codec.Open(data, answerSubject)
	if err != nil {
		c.stats.refused(c, err)
		return 0, nil, err
	}
	a := &nodes.Answer{}
	if _, err := nodes.Next(messages, a); err != nil || !bytes.Equal(a.Nonce, nonce) {
		return 0, nil, nodes.ErrPacket
	}
	if a.User == nil || len(checkedUsers(&nodes.Users{Users: []*nodes.User{a.User}}).Users) == 0 ||
		a.User.App != p.app || a.User.User != p.user || a.User.Gone {
		return 0, nil, nil
	}
	return node, a, nil
}

// asked answers a question about a user who is, or was, here.
func (c *cluster) asked(m bus.Message) {
	_, _, messages, err := c.open.Open(m.Data, m.Subject)
	var q nodes.Ask
	if err == nil {
		_, err = nodes.Next(messages, &q)
	}
	if err != nil {
		c.stats.refused(c, err)
		return
	}
	if m.Reply == "" || len(q.Nonce) != 16 {
		return
	}
	a := &nodes.Answer{Nonce: q.Nonce}
	if s := c.srv.listener(q.App, q.User); s != nil {
		a.User, a.Kicks = s.asUser(), c.srv.dir.kicksLeft(s)
	}
	if data, err := sealed(c.open, c.self, answerSubject, a); err == nil {
		_ = c.bus.Publish(m.Reply, data) // who asks has a timeout
	}
}

// seeks are the users that are looked for, so that many commands to one of them cost
// one question.
type seeks struct {
	mu sync.Mutex
	by map[place]*seek // guarded by mu
}

type seek struct {
	found   chan struct{} // closed when a node says that it has the user
	seen    bool
	waiting []func()
}

// found ends a search whose user has been heard of.
func (k *seeks) found(p place) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if s := k.by[p]; s != nil && !s.seen {
		s.seen = true
		close(s.found)
	}
}

// seek looks for a user of whom this node does not know where it is, and then calls
// then, on another goroutine. It reports false if that makes no sense: nobody can be
// asked.
func (c *cluster) seek(p place, then func()) bool {
	if c == nil || !c.up.Load() {
		return false
	}
	c.seeks.mu.Lock()
	defer c.seeks.mu.Unlock()
	if s := c.seeks.by[p]; s != nil {
		s.waiting = append(s.waiting, then)
		return true
	}
	s := &seek{found: make(chan struct{}), waiting: []func(){then}}
	started := c.srv.start("seek", func() {
		c.search(p, s)
		c.seeks.mu.Lock()
		waiting := s.waiting
		delete(c.seeks.by, p)
		c.seeks.mu.Unlock()
		for _, then := range waiting {
			then()
		}
	})
	if started {
		c.seeks.by[p] = s
	}
	return started
}

// search asks twice for a user, and takes note of the answer.
func (c *cluster) search(p place, s *seek) {
	for again := range 2 {
		if again > 0 {
			wait := time.NewTimer(askAgain)
			defer wait.Stop()
			select {
			case <-s.found:
				return
			case <-wait.C:
			case <-c.srv.ctx.Done():
				return
			}
		}
		id, a, err := c.ask(c.srv.ctx, p)
		if err == nil && a != nil && c.learn(id, a.User) {
			return
		}
	}
}

// learn takes note of a user before its node's announcement has come, and reports whether
// it is known where the user is now.
func (c *cluster) learn(id nodes.NodeID, u *nodes.User) bool {
	var e nodes.Effects
	c.srv.dir.clock.heard(u.Epoch)
	c.mu.Lock()
	c.view.Learn(time.Now(), id, u, &e)
	c.mu.Unlock()
	c.effects(&e)
	_, _, there := c.carrier(u.App, u.User)
	return there || c.srv.listener(u.App, u.User) != nil
}

// locate looks for a user as a request does, which can wait.
func (c *cluster) locate(ctx context.Context, p place) {
	done := make(chan struct{})
	if !c.seek(p, func() { close(done) }) {
		return
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// incumbent returns who has a user's place at another node, for a login here: the
// highest epoch that is known, and nil if there is nobody.
func (c *cluster) incumbent(ctx context.Context, p place) *nodes.Answer {
	if c == nil {
		return nil
	}
	_, a, err := c.ask(ctx, p)
	if err != nil && c.up.Load() {
		_, a, _ = c.ask(ctx, p) // a lost question costs a second one
	}
	c.mu.RLock()
	node, s := c.view.Find(p.there())
	c.mu.RUnlock()
	if node == nil || a != nil && a.User.Epoch >= s.Epoch {
		return a
	}
	return &nodes.Answer{User: &nodes.User{Instance: []byte(s.Instance), Epoch: s.Epoch}, Kicks: kicksAtOnce}
}
