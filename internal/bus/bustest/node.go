package bustest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/dian-im/dian/internal/bus"
)

// patience bounds the wait for what must happen; it says nothing about speed.
const patience = time.Minute

// A probe is answered by every Node that gets it, before its test sees it.
const probe = "is anybody here?"

// A Node is one side of a bus and what it was told.
type Node struct {
	bus.Bus
	Told chan Told // every call of its handler, except for probes

	t    *testing.T
	seen int // how often SeenBy was called
}

// Told is one call of the handler: a message, or a state.
type Told struct {
	Subject, Reply, Data string
	State                string // "up" or "down"
}

// Join opens a node and closes it with the test. What it is told goes to first, if that
// is not nil, and then to Told.
func Join(t *testing.T, open func(h bus.Handler) bus.Bus, first func(*Node, bus.Message)) *Node {
	n := &Node{t: t, Told: make(chan Told, 10_000)}
	ready := make(chan struct{}) // closed when n.Bus is set
	n.Bus = open(bus.Handler{
		Message: func(m bus.Message) {
			<-ready
			if string(m.Data) == probe {
				n.Publish(m.Reply, []byte("yes"))
				return
			}
			if first != nil {
				first(n, m)
			}
			n.Told <- Told{Subject: m.Subject, Reply: m.Reply, Data: string(m.Data)}
		},
		State: func(up bool) {
			state := "down"
			if up {
				state = "up"
			}
			n.Told <- Told{State: state}
		},
	})
	close(ready)
	t.Cleanup(n.Close)
	return n
}

// Next waits for the next call of the handler.
func (n *Node) Next() Told {
	n.t.Helper()
	select {
	case got := <-n.Told:
		return got
	case <-time.After(patience):
		n.t.Fatal("the handler is told nothing")
		return Told{}
	}
}

// Expect waits for the next call of the handler, which must be this one.
func (n *Node) Expect(want Told) {
	n.t.Helper()
	if got := n.Next(); got != want {
		n.t.Errorf("the handler is told %+v, want %+v", got, want)
	}
}

// MustSubscribe is Subscribe, which must not fail.
func (n *Node) MustSubscribe(subject string) (cancel func()) {
	n.t.Helper()
	cancel, err := n.Subscribe(subject)
	if err != nil {
		n.t.Fatalf("Subscribe(%q): %v", subject, err)
	}
	return cancel
}

// MustPublish is Publish, which must not fail.
func (n *Node) MustPublish(subject, data string) {
	n.t.Helper()
	if err := n.Publish(subject, []byte(data)); err != nil {
		n.t.Fatalf("Publish(%q): %v", subject, err)
	}
}

// Knows waits until a Node answers a probe to the subject, which needs as long as a
// subscription needs to be known. A probe is lost that comes to one just being cancelled.
func (n *Node) Knows(subject string) {
	n.t.Helper()
	Eventually(n.t, "nobody is known to subscribe "+subject, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := n.Ask(ctx, subject, []byte(probe))
		return err == nil
	})
}

// SeenBy waits until others know of all that n has subscribed so far.
func (n *Node) SeenBy(others ...*Node) {
	n.t.Helper()
	n.seen++
	subject := fmt.Sprintf("seen.%p.%d", n, n.seen)
	n.MustSubscribe(subject)
	for _, other := range others {
		other.Knows(subject)
	}
}

// Forgets waits until nobody is known to subscribe.
func (n *Node) Forgets(subject string) {
	n.t.Helper()
	Eventually(n.t, subject+" is still subscribed", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		defer cancel()
		_, err := n.Ask(ctx, subject, []byte("forgotten?"))
		return err == bus.ErrNobody
	})
}

// Eventually waits until ok, or fails the test.
func Eventually(t *testing.T, not string, ok func() bool) {
	t.Helper()
	end := time.After(patience)
	for !ok() {
		select {
		case <-time.After(time.Millisecond):
		case <-end:
			t.Fatal(not)
		}
	}
}

// open opens a node and waits until it has a connection.
func open(t *testing.T, c Cluster) *Node {
	t.Helper()
	n := Join(t, c.Open, nil)
	n.Expect(Told{State: "up"})
	return n
}

// together runs f n times at once and waits for all.
func together(n int, f func(i int)) {
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { f(i) })
	}
	all.Wait()
}

func text(i int) string { return fmt.Sprintf("message %d", i) }
