package natsbus

import (
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	reconnectFirst = 100 * time.Millisecond
	reconnectMost  = 2 * time.Second
	// sayAgain is how often a log says that there is still no connection.
	sayAgain = time.Minute
)

// live is a connection that works.
type live struct {
	conn *nats.Conn
	lost chan struct{} // closed with it, by who takes it out of node.live
}

// reconnectDelay is how long to wait when all servers have been tried round times: from
// 0.1 s on twice as long each time, up to 2 s, of which up to a half is left away by
// chance, so that nodes do not all come at once.
func reconnectDelay(round int) time.Duration {
	d := min(reconnectFirst<<min(max(round, 1)-1, 10), reconnectMost)
	return d - rand.N(d/2)
}

// keep has a connection of nats.go until Close. nats.go comes back by itself when a
// connection breaks, except after an error of the server's that it does not know, such as
// a message that is too long since the server's limit has changed: then a new one is made.
func (n *node) keep() {
	for round := 1; ; round++ {
		ended := make(chan struct{})
		nc, err := n.connect(ended)
		if err != nil {
			n.failed("bus: NATS cannot be used", err, sayAgain)
		} else {
			select {
			case <-ended:
				n.forget(nc)
			case <-n.done:
				nc.Close()
				<-ended
				return
			}
			n.failed("bus: NATS has ended the connection", nc.LastError(), sayAgain)
		}
		select {
		case <-time.After(reconnectDelay(round)):
		case <-n.done:
			return
		}
	}
}

// connect makes a connection of nats.go, which need not be connected yet. The channel is
// closed after its last callback: they run one at a time, on a goroutine of nats.go's.
func (n *node) connect(ended chan struct{}) (*nats.Conn, error) {
	var made atomic.Pointer[nats.Conn] // nil until the first callback that has it
	o := n.options
	o.CustomReconnectDelayCB = func(round int) time.Duration {
		if nc := made.Load(); nc != nil {
			if err := nc.LastError(); err != nil { // a refused login is told nowhere else
				n.failed("bus: no connection to NATS", err, sayAgain)
			}
		}
		return reconnectDelay(round)
	}
	o.ConnectedCB = func(nc *nats.Conn) {
		made.Store(nc)
		n.connected(nc)
	}
	o.ReconnectedCB = n.connected
	o.DisconnectedErrCB = func(_ *nats.Conn, err error) {
		n.offline()
		n.failed("bus: connection to NATS lost", err, time.Second)
		n.put(n.down)
	}
	o.ReconnectErrCB = func(nc *nats.Conn, err error) {
		made.Store(nc)
		n.failed("bus: no connection to NATS", err, sayAgain)
	}
	o.AsyncErrorCB = func(_ *nats.Conn, sub *nats.Subscription, err error) {
		if errors.Is(err, nats.ErrSlowConsumer) && sub != nil {
			n.drops.begun(sub)
			return
		}
		n.failed("bus: NATS says", err, sayAgain)
	}
	o.ClosedCB = func(*nats.Conn) { close(ended) }
	return o.Connect()
}

// connected is called whenever a connection is there.
func (n *node) connected(nc *nats.Conn) {
	n.maxBytes.Store(nc.MaxPayload())
	if n.resume(nc) {
		n.put(n.up)
		n.journal.log.Info("bus: connected to NATS", "server", nc.ConnectedServerName())
	}
}

// offline keeps everybody from calling nats.go, and ends what is asked. It is called as
// soon as nats.go dials, with its lock held, and when it says that it has no connection.
func (n *node) offline() {
	if l := n.live.Swap(nil); l != nil {
		close(l.lost)
	}
}

// put tells the handler's goroutine of a change of state, behind all that has arrived.
func (n *node) put(state *nats.Msg) {
	select {
	case n.arrived <- state:
	case <-n.done:
	}
}

// failed logs a failure, unless it is Close that has made it.
func (n *node) failed(what string, err error, pause time.Duration) {
	n.mu.Lock()
	closed := n.closed
	n.mu.Unlock()
	if !closed {
		n.journal.failed(what, err, pause)
	}
}
