package natsbus

import (
	"context"
	"errors"
	"strconv"
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/dian-im/dian/internal/bus"
)

// Publish is bus.Bus's.
func (n *node) Publish(subject string, data []byte) error {
	if err := bus.CheckMessage(subject, data, n.MaxBytes()); err != nil {
		return err
	}
	l := n.live.Load()
	if l == nil {
		return bus.ErrDown
	}
	return busError(l.conn.Publish(subject, data))
}

// busError is what a failed Publish means: all but one say that there is no connection.
func busError(err error) error {
	if err == nil || errors.Is(err, nats.ErrMaxPayload) {
		return err
	}
	return bus.ErrDown
}

// asks are the questions that wait for an answer. It does what nats.go's Request does,
// with one subscription for all answers, which cannot be used: it takes the lock of
// nats.go when the context ends, so that it outlasts it by seconds while a server that is
// gone is being dialled; it goes on waiting when the connection is lost; and a question
// that could not be sent stays in its memory.
type asks struct {
	inbox string // begins the subjects of answers

	mu      sync.Mutex // guards the fields below
	last    uint64
	waiting map[string]chan *nats.Msg // by subject
}

func newAsks() *asks {
	return &asks{inbox: nats.NewInbox() + ".", waiting: make(map[string]chan *nats.Msg)}
}

// open returns the subject for the answer to a new question, and where it comes.
func (a *asks) open() (reply string, answer chan *nats.Msg) {
	answer = make(chan *nats.Msg, 1)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last++
	reply = a.inbox + strconv.FormatUint(a.last, 36)
	a.waiting[reply] = answer
	return reply, answer
}

func (a *asks) close(reply string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.waiting, reply)
}

// answered is called by nats.go. The first answer counts.
func (a *asks) answered(m *nats.Msg) {
	a.mu.Lock()
	answer := a.waiting[m.Subject]
	delete(a.waiting, m.Subject)
	a.mu.Unlock()
	if answer != nil {
		answer <- m
	}
}

// Ask is bus.Bus's.
func (n *node) Ask(ctx context.Context, subject string, data []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := bus.CheckMessage(subject, data, n.MaxBytes()); err != nil {
		return nil, err
	}
	l := n.live.Load()
	if l == nil {
		return nil, bus.ErrDown
	}
	reply, answer := n.asks.open()
	defer n.asks.close(reply)
	if err := l.conn.PublishRequest(subject, reply, data); err != nil {
		return nil, busError(err)
	}
	select {
	case m := <-answer:
		if len(m.Data) == 0 && m.Header.Get("Status") == "503" { // the server's own answer
			return nil, bus.ErrNobody
		}
		return m.Data, nil
	case <-l.lost:
		return nil, bus.ErrDown
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
