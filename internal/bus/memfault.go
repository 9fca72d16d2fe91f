package bus

import (
	"slices"
	"time"
)

// Cut takes a node's connection away: its Publish and Ask give ErrDown, what is under
// way to it is lost, what has arrived is not. Its subscriptions stay and count again
// after Heal.
func (m *Mem) Cut(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cut[name] {
		return
	}
	m.cut[name] = true
	for _, n := range m.nodes {
		if n.name == name {
			n.loseLocked(func(*memNode) bool { return true })
			n.downLocked()
			n.stateLocked(false)
		}
	}
}

// Heal ends Cut.
func (m *Mem) Heal(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.cut[name] {
		return
	}
	delete(m.cut, name)
	for _, n := range m.nodes {
		if n.name == name {
			n.stateLocked(true)
		}
	}
}

// Split keeps two nodes from reaching each other while both have their connection, as
// between servers of NATS that have lost each other: what one publishes does not come to
// the other, what is under way is lost (answers are not), and what one alone subscribes
// has nobody for the other to ask. Nobody is told.
func (m *Mem) Split(a, b string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.split[pairOf(a, b)] = true
	for _, n := range m.nodes {
		if n.name == a || n.name == b {
			n.loseLocked(func(from *memNode) bool { return pairOf(n.name, from.name) == pairOf(a, b) })
		}
	}
}

// Join ends Split.
func (m *Mem) Join(a, b string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := pairOf(a, b); m.split[p] {
		delete(m.split, p)
		m.joins[p] = time.Now()
	}
}

// Drop has lost say which messages are lost, answers among them. It is asked in the
// goroutine of Publish and Ask, once for each node that a message goes to; nil ends it.
// Who has asked is not told that nobody listens: the question was sent.
func (m *Mem) Drop(lost func(from, to, subject string) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.drop = lost
}

// Delay makes what is published from now on arrive d later. Nothing overtakes what was
// published before, so that a shorter delay counts when that has arrived.
func (m *Mem) Delay(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.delay = d
}

// Lag makes it take d before other nodes know of a subscription that is new, or was out
// of their reach until Heal or Join: till then nothing that they publish comes to it,
// and who asks is told ErrNobody.
func (m *Mem) Lag(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lag = d
}

// loseLocked takes messages out of the queue that are under way from those who are lost.
func (n *memNode) loseLocked(lost func(from *memNode) bool) {
	now := time.Now()
	n.queue = slices.DeleteFunc(n.queue, func(e memEvent) bool {
		if e.sub == nil || !e.due.After(now) || !lost(e.from) {
			return false
		}
		n.waiting--
		return true
	})
}
