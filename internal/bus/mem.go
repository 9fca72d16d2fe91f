package bus

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

const (
	memBytes = 1 << 20 // of a message, as NATS has it by default
	memQueue = 65_536  // messages that may wait for one node's handler
)

// Mem is a bus in the memory of one process, for tests, with faults on demand: those of
// memfault.go may be set at any time by any goroutine, for names that are not open yet
// too. It waits on channels and timers alone, so that it works inside a testing/synctest
// bubble, to which it then belongs. Its goroutines are one for each open node, which
// ends with the node's Close.
//
// As on NATS, a node that does not take its messages loses them when 65,536 wait.
type Mem struct {
	mu    sync.Mutex // guards the fields below and those that nodes say it guards
	nodes []*memNode // that are open, in the order of Open
	cut   map[string]bool
	split map[pair]bool
	joins map[pair]time.Time // when their last split ended
	drop  func(from, to, subject string) bool
	delay time.Duration
	lag   time.Duration
	lost  map[string]int // messages, by the name of the node whose queue was full
	asked uint64         // numbers the subjects that answers go to
	asks  map[string]*memAsk
}

// A pair is two names, the smaller one first.
type pair [2]string

func pairOf(a, b string) pair { return pair{min(a, b), max(a, b)} }

// NewMem returns a bus without nodes and faults.
func NewMem() *Mem {
	return &Mem{
		cut:   make(map[string]bool),
		split: make(map[pair]bool),
		joins: make(map[pair]time.Time),
		lost:  make(map[string]int),
		asks:  make(map[string]*memAsk),
	}
}

// Open returns a node, which has a connection at once unless its name is cut: its
// handler is told of it soon. A name may be open once at a time.
func (m *Mem) Open(name string, h Handler) Bus {
	n := &memNode{
		hub: m, name: name, handler: h,
		wake: make(chan struct{}, 1), done: make(chan struct{}), ended: make(chan struct{}),
		subs: make(map[string]*memSub),
	}
	m.mu.Lock()
	if slices.ContainsFunc(m.nodes, func(o *memNode) bool { return o.name == name }) {
		m.mu.Unlock()
		panic(fmt.Sprintf("bus: node %q is open already", name))
	}
	m.nodes = append(m.nodes, n)
	if !m.cut[name] {
		n.stateLocked(true)
	}
	m.mu.Unlock()
	go n.run()
	return n
}

// Dropped returns how many messages a node has lost because too many waited for its
// handler. It goes on counting when the name is opened again.
func (m *Mem) Dropped(name string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lost[name]
}

// A memTarget is where a message goes: to a subscription or to who has asked.
type memTarget struct {
	node *memNode
	sub  *memSub // nil: answers
}

// targetsLocked returns who gets what a node publishes, as far as that is known now.
func (m *Mem) targetsLocked(from *memNode, subject string) []memTarget {
	if a := m.asks[subject]; a != nil {
		if a.node == from || !m.reachesLocked(from, a.node) {
			return nil
		}
		return []memTarget{{node: a.node}}
	}
	var targets []memTarget
	for _, to := range m.nodes {
		if sub := to.subs[subject]; sub != nil && to != from && m.reachesLocked(from, to) && m.knownLocked(from, to, sub) {
			targets = append(targets, memTarget{to, sub})
		}
	}
	return targets
}

func (m *Mem) reachesLocked(from, to *memNode) bool {
	return !from.closed && !to.closed && !m.cut[from.name] && !m.cut[to.name] && !m.split[pairOf(from.name, to.name)]
}

// knownLocked says whether from's side knows a subscription of to: the lag begins when
// it is made, and again when a fault between the two has ended.
func (m *Mem) knownLocked(from, to *memNode, sub *memSub) bool {
	since := sub.since
	for _, t := range []time.Time{to.connected, m.joins[pairOf(from.name, to.name)]} {
		if t.After(since) {
			since = t
		}
	}
	return time.Since(since) >= m.lag
}

// deliver brings a message to a target, or loses it.
func (m *Mem) deliver(from *memNode, to memTarget, message Message) {
	m.mu.Lock()
	drop := m.drop
	m.mu.Unlock()
	if drop != nil && drop(from.name, to.node.name, message.Subject) {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.reachesLocked(from, to.node) {
		return
	}
	due := time.Now().Add(m.delay)
	if to.sub != nil {
		to.node.messageLocked(memEvent{from: from, sub: to.sub, message: message, due: due})
		return
	}
	if a := m.asks[message.Subject]; a != nil && !a.answered {
		a.answered = true // the first answer counts
		a.answer <- memAnswer{message.Data, due}
	}
}
