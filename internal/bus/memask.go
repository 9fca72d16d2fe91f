package bus

import (
	"context"
	"strconv"
	"time"
)

// A memAsk waits for an answer.
type memAsk struct {
	node     *memNode
	answer   chan memAnswer // has room for the only one that is sent
	down     chan struct{}  // closed when the node has lost its connection
	answered bool           // guarded by hub.mu
}

type memAnswer struct {
	data []byte
	due  time.Time
}

// Ask is Bus's.
func (n *memNode) Ask(ctx context.Context, subject string, data []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	a := &memAsk{node: n, answer: make(chan memAnswer, 1), down: make(chan struct{})}
	n.hub.mu.Lock()
	n.hub.asked++
	reply := "_INBOX." + strconv.FormatUint(n.hub.asked, 10)
	n.hub.asks[reply] = a
	n.hub.mu.Unlock()
	defer func() {
		n.hub.mu.Lock()
		delete(n.hub.asks, reply)
		n.hub.mu.Unlock()
	}()
	switch asked, err := n.publish(subject, reply, data); {
	case err != nil:
		return nil, err
	case asked == 0:
		return nil, ErrNobody
	}
	var answer memAnswer
	var due <-chan time.Time
	for {
		select {
		case answer = <-a.answer:
			wait := time.Until(answer.due)
			if wait <= 0 {
				return answer.data, nil
			}
			due = time.After(wait)
		case <-due:
			return answer.data, nil
		case <-a.down:
			return nil, ErrDown
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// downLocked ends what the node has asked, when it has no connection any more. An answer
// that is under way is lost with it.
func (n *memNode) downLocked() {
	for reply, a := range n.hub.asks {
		if a.node == n {
			close(a.down)
			delete(n.hub.asks, reply)
		}
	}
}
