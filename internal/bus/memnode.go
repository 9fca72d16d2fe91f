package bus

import (
	"bytes"
	"fmt"
	"slices"
	"time"
)

// A memNode is one node's side of a Mem.
type memNode struct {
	// Set by Open, then only read.
	hub     *Mem
	name    string
	handler Handler
	wake    chan struct{} // has one in it if the queue has become longer
	done    chan struct{} // closed by Close
	ended   chan struct{} // closed when run has returned

	// Guarded by hub.mu.
	subs      map[string]*memSub
	queue     []memEvent // in the order of arrival
	waiting   int        // of them, messages
	connected time.Time  // since when, if its name is not cut
	closed    bool
}

// A memSub is one subscription; its address tells it from a later one to the subject.
type memSub struct{ since time.Time }

// A memEvent is what the handler is to be told.
type memEvent struct {
	sub     *memSub // nil: the state has changed
	up      bool
	from    *memNode
	message Message
	due     time.Time // when it arrives
}

// run calls the handler until Close.
func (n *memNode) run() {
	defer close(n.ended)
	for {
		e, ok, wait := n.next()
		switch {
		case ok && e.sub == nil:
			n.handler.State(e.up)
			continue
		case ok:
			n.handler.Message(e.message)
			continue
		}
		var due <-chan time.Time
		if wait > 0 {
			due = time.After(wait)
		}
		select {
		case <-n.wake:
		case <-due:
		case <-n.done:
			return
		}
	}
}

// next takes the first event that has arrived, or says how long one is still under way.
func (n *memNode) next() (e memEvent, ok bool, wait time.Duration) {
	n.hub.mu.Lock()
	defer n.hub.mu.Unlock()
	for !n.closed && len(n.queue) > 0 {
		if wait := time.Until(n.queue[0].due); wait > 0 {
			return memEvent{}, false, wait
		}
		e, n.queue[0] = n.queue[0], memEvent{}
		n.queue = n.queue[1:]
		if e.sub == nil {
			return e, true, 0
		}
		n.waiting--
		if n.subs[e.message.Subject] == e.sub {
			return e, true, 0
		}
	}
	return memEvent{}, false, 0
}

// stateLocked tells the handler of a change, behind what has arrived before.
func (n *memNode) stateLocked(up bool) {
	if up {
		n.connected = time.Now()
	}
	n.queue = append(n.queue, memEvent{up: up})
	n.wakeUp()
}

func (n *memNode) messageLocked(e memEvent) {
	if n.waiting == memQueue {
		n.hub.lost[n.name]++
		return
	}
	n.waiting++
	n.queue = append(n.queue, e)
	n.wakeUp()
}

func (n *memNode) wakeUp() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// Subscribe is Bus's. Without a connection the subscription counts from the next one on.
func (n *memNode) Subscribe(subject string) (cancel func(), err error) {
	if err := CheckSubject(subject); err != nil {
		return nil, err
	}
	n.hub.mu.Lock()
	defer n.hub.mu.Unlock()
	if n.closed {
		return nil, ErrDown
	}
	if n.subs[subject] != nil {
		return nil, fmt.Errorf("bus: %s is subscribed already", subject)
	}
	sub := &memSub{time.Now()}
	n.subs[subject] = sub
	return func() {
		n.hub.mu.Lock()
		defer n.hub.mu.Unlock()
		if n.subs[subject] == sub {
			delete(n.subs, subject)
		}
	}, nil
}

// Publish is Bus's.
func (n *memNode) Publish(subject string, data []byte) error {
	_, err := n.publish(subject, "", data)
	return err
}

// publish returns to how many a message was sent, lost ones too.
func (n *memNode) publish(subject, reply string, data []byte) (int, error) {
	if err := CheckMessage(subject, data, memBytes); err != nil {
		return 0, err
	}
	n.hub.mu.Lock()
	if n.closed || n.hub.cut[n.name] {
		n.hub.mu.Unlock()
		return 0, ErrDown
	}
	targets := n.hub.targetsLocked(n, subject)
	n.hub.mu.Unlock()
	for _, to := range targets {
		n.hub.deliver(n, to, Message{Subject: subject, Reply: reply, Data: bytes.Clone(data)})
	}
	return len(targets), nil
}

// MaxBytes is Bus's.
func (n *memNode) MaxBytes() int { return memBytes }

// Close is Bus's. What was published is in the others' queues already.
func (n *memNode) Close() {
	n.hub.mu.Lock()
	if !n.closed {
		n.closed = true
		n.downLocked()
		n.hub.nodes = slices.DeleteFunc(n.hub.nodes, func(o *memNode) bool { return o == n })
		close(n.done)
	}
	n.hub.mu.Unlock()
	<-n.ended
}
