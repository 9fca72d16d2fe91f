package memnet

import (
	"io"
	"net"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// A Conn is one end of a connection. It is a net.Conn, with the faults of
// fault.go.
type Conn struct {
	local, remote Addr
	in, out       *stream
	other         *Conn

	once  sync.Once
	onEnd func(*Conn)
}

// Pipe returns the two ends of a connection that no Listener knows.
func Pipe() (client, server *Conn) { return newPair(DefaultBuffer, 0) }

func newPair(size, number int) (client, server *Conn) {
	up, down := newStream(size), newStream(size)
	from := Addr("10.0.0.1:" + strconv.Itoa(1024+number))
	client = &Conn{local: from, remote: "relay.mem:443", in: down, out: up}
	server = &Conn{local: "relay.mem:443", remote: from, in: up, out: down}
	client.other, server.other = server, client
	up.cut, down.cut = client.cutInWrite, server.cutInWrite
	return client, server
}

// Read reads what the other end has written. It returns io.EOF when the other
// end has closed or half-closed and everything is read.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.in.read(p)
	if err != nil && err != io.EOF {
		err = c.opError("read", err)
	}
	return n, err
}

// Write writes p, waiting for room in the buffer as long as it has to.
func (c *Conn) Write(p []byte) (int, error) {
	n, err := c.out.write(p)
	if err != nil {
		err = c.opError("write", err)
	}
	return n, err
}

// Close closes both directions. What was written can still be read by the other
// end; its own writes fail from now on.
func (c *Conn) Close() error {
	c.ended()
	fresh := c.out.finish(net.ErrClosed)
	c.in.abandon()
	if !fresh {
		return c.opError("close", net.ErrClosed)
	}
	return nil
}

// CloseWrite closes the writing direction alone: the other end reads io.EOF
// behind what was written.
func (c *Conn) CloseWrite() error {
	c.out.finish(syscall.EPIPE)
	return nil
}

func (c *Conn) ended() {
	c.once.Do(func() {
		if c.onEnd != nil {
			c.onEnd(c)
		}
	})
}

// LocalAddr returns this end's address.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns the other end's address.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// SetReadDeadline bounds reads, running ones too.
func (c *Conn) SetReadDeadline(t time.Time) error {
	if !c.in.setDeadline(&c.in.readBy, t) {
		return c.opError("set", net.ErrClosed)
	}
	return nil
}

// SetWriteDeadline bounds writes, running ones too.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	if !c.out.setDeadline(&c.out.writeBy, t) {
		return c.opError("set", net.ErrClosed)
	}
	return nil
}

func (c *Conn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "mem", Source: c.local, Addr: c.remote, Err: err}
}
