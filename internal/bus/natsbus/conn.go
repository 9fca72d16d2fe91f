package natsbus

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

const (
	// maxWaiting bounds what waits in a conn. It is what a server of NATS keeps for a
	// client by default, and room for the subscriptions of a million users, which are
	// all sent at once when a connection comes back.
	maxWaiting = 64 << 20
	// keepBuffer is how large a buffer may be that is kept for the next messages.
	keepBuffer = 1 << 20
	// lookupWait lets a resolver go on to its second name server.
	lookupWait = 10 * time.Second
)

var errBehind = errors.New("NATS does not take what is sent to it")

// A conn is a connection whose Write does not wait: a goroutine of its own writes on.
// nats.go writes while it holds the lock that Publish needs, and its ping timer too, so
// that a server which has stopped to read would stop the node for as long as TCP likes.
// When too much waits, the connection is closed.
type conn struct {
	net.Conn
	wake  chan struct{} // has one in it if something waits
	done  chan struct{} // closed with the connection
	ended chan struct{} // closed when write has returned

	mu      sync.Mutex // guards the fields below
	waiting []byte
	err     error // why nothing more can be written
}

func newConn(below net.Conn) *conn {
	c := &conn{Conn: below, wake: make(chan struct{}, 1), done: make(chan struct{}), ended: make(chan struct{})}
	go c.write()
	return c
}

// Write takes a copy of p. An error says that nothing of it is sent.
func (c *conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	err := c.err
	behind := err == nil && len(c.waiting)+len(p) > maxWaiting
	if err == nil && !behind {
		c.waiting = append(c.waiting, p...)
	}
	c.mu.Unlock()
	if behind {
		return 0, c.fail(errBehind)
	}
	if err != nil {
		return 0, err
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
	return len(p), nil
}

// write sends what waits until the connection fails or is closed.
func (c *conn) write() {
	defer close(c.ended)
	var out []byte
	for {
		c.mu.Lock()
		out, c.waiting = c.waiting, out[:0]
		c.mu.Unlock()
		if len(out) == 0 {
			select {
			case <-c.wake:
				continue
			case <-c.done:
				return
			}
		}
		if _, err := c.Conn.Write(out); err != nil {
			c.fail(err)
			return
		}
		if cap(out) > keepBuffer {
			out = nil
		}
	}
}

// fail ends the connection, which its reader notices, and returns why it has ended.
func (c *conn) fail(err error) error {
	c.mu.Lock()
	if c.err == nil {
		c.err = err
		close(c.done)
	}
	err = c.err
	c.waiting = nil
	c.mu.Unlock()
	c.Conn.Close()
	return err
}

// Close closes the connection. What waits is not sent any more.
func (c *conn) Close() error {
	c.fail(net.ErrClosed)
	<-c.ended
	return nil
}

// SetDeadline is for reads alone: writes do not wait.
func (c *conn) SetDeadline(t time.Time) error { return c.Conn.SetReadDeadline(t) }

// SetWriteDeadline does nothing.
func (c *conn) SetWriteDeadline(time.Time) error { return nil }

// A dialer makes the connections of nats.go, one at a time, and ends them with the node.
type dialer struct {
	// Set by newDialer, then only read.
	dials func() // called before every connection
	ctx   context.Context
	end   context.CancelFunc

	mu   sync.Mutex // guards last
	last *conn
}

func newDialer(dials func()) *dialer {
	d := &dialer{dials: dials}
	d.ctx, d.end = context.WithCancel(context.Background())
	return d
}

// Dial is nats.CustomDialer's. nats.go calls it with its lock held, and then reads the
// server's first words with it held: all that takes that lock waits until a connection
// is made or refused. It leaves a connection open whose login has failed; so the last
// one is closed first.
func (d *dialer) Dial(network, address string) (net.Conn, error) {
	d.dials()
	d.replace(nil)
	c, err := d.dial(network, address)
	if err != nil {
		return nil, err
	}
	made := newConn(c)
	d.replace(made)
	if d.ctx.Err() != nil { // close may not have seen it
		made.Close()
		return nil, net.ErrClosed
	}
	return made, nil
}

// dial does what nats.go does with a name of several addresses, but close ends it.
func (d *dialer) dial(network, address string) (net.Conn, error) {
	name, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(d.ctx, lookupWait)
	defer cancel()
	hosts, err := net.DefaultResolver.LookupHost(ctx, name)
	if err != nil {
		return nil, err
	}
	rand.Shuffle(len(hosts), func(i, j int) { hosts[i], hosts[j] = hosts[j], hosts[i] })
	one := net.Dialer{Timeout: dialWait / time.Duration(len(hosts))}
	for _, host := range hosts {
		var c net.Conn
		if c, err = one.DialContext(d.ctx, network, net.JoinHostPort(host, port)); err == nil {
			return c, nil
		}
	}
	return nil, err
}

func (d *dialer) replace(c *conn) {
	d.mu.Lock()
	last := d.last
	d.last = c
	d.mu.Unlock()
	if last != nil {
		last.Close()
	}
}

// close ends what is being dialled and the connection, so that nobody waits for them.
func (d *dialer) close() {
	d.end()
	d.replace(nil)
}
