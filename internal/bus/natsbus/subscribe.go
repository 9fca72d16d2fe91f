package natsbus

import (
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/dian-im/dian/internal/bus"
)

// A subscription is what Subscribe has made; its address tells it from a later one to the
// same subject. It has no goroutine: all share the channel arrived, which nats.go never
// closes, and into which it writes nothing more for one that is cancelled.
type subscription struct {
	on *nats.Subscription // guarded by node.mu; nil while it is missing or being made
}

// Subscribe is bus.Bus's. Without a connection the subscription is made with the next.
func (n *node) Subscribe(subject string) (cancel func(), err error) {
	if err := bus.CheckSubject(subject); err != nil {
		return nil, err
	}
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return nil, bus.ErrDown
	}
	if n.subs[subject] != nil {
		n.mu.Unlock()
		return nil, fmt.Errorf("bus: %s is subscribed already", subject)
	}
	s := new(subscription)
	n.subs[subject] = s
	l := n.live.Load()
	if l == nil {
		n.missing[subject] = s
	}
	n.mu.Unlock()
	if l != nil {
		n.subscribeOn(l.conn, subject, s)
	}
	return func() { n.cancel(subject, s) }, nil
}

// subscribeOn makes s on a connection, or on its successor if it is closed for good. The
// caller has seen to it that s is in missing no more.
func (n *node) subscribeOn(nc *nats.Conn, subject string, s *subscription) {
	for {
		on, err := nc.ChanSubscribe(subject, n.arrived)
		n.mu.Lock()
		made := err == nil && nc == n.current
		switch {
		case n.subs[subject] != s || made && s.on != nil: // cancelled, or made twice
			n.mu.Unlock()
			if err == nil {
				on.Unsubscribe()
			}
			return
		case made:
			s.on = on
			n.mu.Unlock()
			return
		case s.on != nil: // by the successor
			n.mu.Unlock()
			return
		}
		n.missing[subject] = s
		l := n.live.Load()
		if l == nil || l.conn == nc { // the successor finds it in missing
			n.mu.Unlock()
			return
		}
		delete(n.missing, subject)
		n.mu.Unlock()
		nc = l.conn
	}
}

// cancel ends s. Without a connection NATS is told when there is one.
func (n *node) cancel(subject string, s *subscription) {
	n.mu.Lock()
	if n.closed || n.subs[subject] != s {
		n.mu.Unlock()
		return
	}
	delete(n.subs, subject)
	delete(n.missing, subject)
	on := s.on
	if on != nil && n.live.Load() == nil {
		n.gone = append(n.gone, on)
		on = nil
	}
	n.mu.Unlock()
	if on != nil {
		on.Unsubscribe()
	}
}

// resume tells NATS what was subscribed and cancelled while there was no connection, and
// then lets everybody use it. It reports whether it has.
func (n *node) resume(nc *nats.Conn) bool {
	n.mu.Lock()
	fresh := nc != n.current
	n.current = nc
	n.mu.Unlock()
	if fresh {
		if _, err := nc.Subscribe(n.asks.inbox+"*", n.asks.answered); err != nil {
			return false
		}
	}
	for !nc.IsClosed() {
		n.mu.Lock()
		if n.closed {
			n.mu.Unlock()
			return false
		}
		if len(n.missing) == 0 && len(n.gone) == 0 {
			old := n.live.Swap(&live{nc, make(chan struct{})})
			n.mu.Unlock()
			if old != nil {
				close(old.lost)
			}
			return true
		}
		missing, gone := n.missing, n.gone
		n.missing, n.gone = make(map[string]*subscription), nil
		n.mu.Unlock()
		for _, on := range gone {
			on.Unsubscribe()
		}
		for subject, s := range missing {
			n.subscribeOn(nc, subject, s)
		}
	}
	return false
}

// forget takes note that a connection of nats.go is closed for good: all subscriptions
// are missing on the next.
func (n *node) forget(nc *nats.Conn) {
	n.mu.Lock()
	if n.current == nc {
		n.current = nil
	}
	n.gone = nil
	for subject, s := range n.subs {
		s.on = nil
		n.missing[subject] = s
	}
	n.mu.Unlock()
	n.offline()
	n.put(n.down)
}

// wants says whether a message is for a subscription that still is.
func (n *node) wants(m *nats.Msg) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.subs[m.Subject]
	return s != nil && (s.on == nil || s.on == m.Sub)
}
