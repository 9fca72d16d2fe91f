package memnet

import (
	"context"
	"net"
	"sync"
	"syscall"
)

// DefaultBuffer is what one direction of a connection holds, like a socket.
const DefaultBuffer = 64 << 10

// backlog is how many dialled connections may wait for Accept.
const backlog = 1024

// A Listener hands out the server's ends of connections whose other end Dial
// has returned. It is a net.Listener.
type Listener struct {
	// Set before the first Dial, then only read.

	// Buffer is the size of each direction's buffer; 0 means DefaultBuffer.
	Buffer int
	// OnDial, if not nil, is called for every new connection before either side
	// sees it, to set its faults. An error refuses the connection.
	OnDial func(client, server *Conn) error

	queue chan *Conn
	done  chan struct{}

	mu     sync.Mutex
	closed bool
	number int
	conns  map[*Conn]struct{} // the server's ends that are still open
}

// Listen returns a new Listener.
func Listen() *Listener {
	return &Listener{
		queue: make(chan *Conn, backlog),
		done:  make(chan struct{}),
		conns: make(map[*Conn]struct{}),
	}
}

// Accept waits for a connection and returns the server's end.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case <-l.done:
		return nil, opError("accept", net.ErrClosed)
	default:
	}
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.done:
		return nil, opError("accept", net.ErrClosed)
	}
}

// Close ends Accept and Dial. Connections that were accepted live on; those
// that were not are reset.
func (l *Listener) Close() error {
	l.mu.Lock()
	was := l.closed
	l.closed = true
	l.mu.Unlock()
	if was {
		return opError("close", net.ErrClosed)
	}
	close(l.done)
	for {
		select {
		case c := <-l.queue:
			c.Cut()
		default:
			return nil
		}
	}
}

// Addr returns the listener's address, "relay.mem:443" of network "mem".
func (l *Listener) Addr() net.Addr { return Addr("relay.mem:443") }

// Dial connects and returns the client's end.
func (l *Listener) Dial(ctx context.Context) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, opError("dial", err)
	}
	client, server := l.pair()
	if l.OnDial != nil {
		if err := l.OnDial(client, server); err != nil {
			server.Cut()
			return nil, opError("dial", err)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		select {
		case l.queue <- server:
			return client, nil
		default:
		}
	}
	delete(l.conns, server)
	return nil, opError("dial", syscall.ECONNREFUSED)
}

// DialContext is Dial in the form that http.Transport and websocket.Dialer ask
// for. Whatever the address, it connects to l.
func (l *Listener) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return l.Dial(ctx)
}

// Conns returns the server's ends of the connections that it has not closed and
// that were not cut, in no order.
func (l *Listener) Conns() []*Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := make([]*Conn, 0, len(l.conns))
	for c := range l.conns {
		list = append(list, c)
	}
	return list
}

// CutAll cuts all of Conns and returns how many these were.
func (l *Listener) CutAll() int {
	list := l.Conns()
	for _, c := range list {
		c.Cut()
	}
	return len(list)
}

// pair makes a connection that is already among conns.
func (l *Listener) pair() (client, server *Conn) {
	size := l.Buffer
	if size <= 0 {
		size = DefaultBuffer
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.number++
	client, server = newPair(size, l.number)
	server.onEnd = l.forget
	l.conns[server] = struct{}{}
	return client, server
}

func (l *Listener) forget(c *Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
}

// Addr is the address of a listener or of a connection's end.
type Addr string

// Network returns "mem".
func (Addr) Network() string { return "mem" }

func (a Addr) String() string { return string(a) }

// opError is what the net package would return: errors.Is finds the cause, and
// net.Error's Timeout is right.
func opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "mem", Addr: Addr("relay.mem:443"), Err: err}
}
