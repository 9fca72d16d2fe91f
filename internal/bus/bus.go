// Package bus is how the nodes of a cluster talk: an interface that package natsbus
// has on NATS, and Mem in the memory of one process, with faults on demand, for tests.
//
// A bus is lossy. What is published may be lost, and everything that was under way is
// when the connection to it breaks; nothing is repeated and nothing comes out of order
// between one publisher and one subscriber. Whoever needs more has acks of its own.
package bus

import (
	"context"
	"errors"
)

// ErrNobody says that nobody subscribes to the subject that was asked.
var ErrNobody = errors.New("bus: nobody listens to this subject")

// ErrDown says that there is no connection to the bus now.
var ErrDown = errors.New("bus: no connection")

// A Message is what has arrived. Data is good until the handler returns.
type Message struct {
	Subject string
	Reply   string // the subject that an answer goes to; "" if none is wanted
	Data    []byte
}

// A Handler is told of what comes. Its functions are called one at a time, messages in
// the order of their arrival whatever their subjects, and must not block.
type Handler struct {
	Message func(Message)
	// State says whether there is a connection, whenever that changes; at first there
	// is none. What was published before may be lost when it comes back.
	State func(up bool)
}

// A Bus carries messages between nodes. Its methods may be called at any time on many
// goroutines. A node never gets its own messages.
type Bus interface {
	// Subscribe lets messages to a subject come to the handler until cancel is called.
	// Others may need some time to know of a new subscription: see Ask. A second
	// subscription to the same subject is an error.
	Subscribe(subject string) (cancel func(), err error)
	// Publish sends data to all who subscribe to the subject. It keeps nothing of data,
	// and returns before it has arrived: an error says that it certainly does not.
	Publish(subject string, data []byte) error
	// Ask publishes data and waits for the first answer, which its holder publishes to
	// Message.Reply. The error is ErrNobody as soon as that is known, ErrDown, or the
	// context's.
	Ask(ctx context.Context, subject string, data []byte) ([]byte, error)
	// MaxBytes is how long a message may be. It may change with a reconnect.
	MaxBytes() int
	// Close ends it, after what was published has gone out or a second has passed. No
	// function of the handler runs any more when it returns.
	Close()
}
