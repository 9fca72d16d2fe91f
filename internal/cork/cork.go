// Package cork is for the connection below a TLS connection. A tls.Conn writes and
// reads one record of 16 KiB at a time, a system call each, and wakes the other
// side for each. A cork.Conn gathers the records of one large write into few
// system calls, and reads ahead as much as has come.
//
// Both only while they are switched on: an idle connection holds no buffer.
package cork

import (
	"net"
	"sync"
	"sync/atomic"
)

// gatherBytes is what is gathered before a write, and read at once: with 64 KiB the
// processes of a transfer wake each other so often that it takes a fifth longer.
const gatherBytes = 256 << 10

var buffers = sync.Pool{New: func() any { return new([gatherBytes]byte) }}

// A Conn is a connection whose writes can be gathered and whose reads can run
// ahead. As with any net.Conn, its methods may be called by several goroutines.
type Conn struct {
	net.Conn

	writing sync.Mutex // guards what follows
	corked  bool
	out     *[gatherBytes]byte // nil while nothing is gathered
	held    int                // bytes in out
	failed  error              // of a write whose caller was told that it went well

	ahead atomic.Bool

	reading  sync.Mutex         // guards what follows
	in       *[gatherBytes]byte // nil while nothing is read ahead
	from, to int                // bytes in in
}

// New returns a Conn over c, neither corked nor reading ahead.
func New(c net.Conn) *Conn { return &Conn{Conn: c} }

// NetConn returns the connection below.
func (c *Conn) NetConn() net.Conn { return c.Conn }

// Cork begins to gather what is written. At 256 KiB it goes out all the same.
func (c *Conn) Cork() {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.corked = true
}

// Uncork writes what was gathered, and returns the error of that or of an earlier
// write of gathered bytes. From then on writes go straight through.
func (c *Conn) Uncork() error {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.corked = false
	c.flushLocked()
	if c.out != nil {
		buffers.Put(c.out)
		c.out = nil
	}
	return c.failed
}

// flushLocked writes what is held. What could not be written is lost, and so is
// the connection.
func (c *Conn) flushLocked() {
	if c.held > 0 && c.failed == nil {
		_, c.failed = c.Conn.Write(c.out[:c.held])
	}
	c.held = 0
}

// Write writes p, or gathers it. An error may be that of bytes gathered before.
func (c *Conn) Write(p []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	if c.held+len(p) > gatherBytes {
		c.flushLocked()
	}
	if c.failed != nil {
		return 0, c.failed
	}
	if !c.corked || len(p) > gatherBytes {
		c.flushLocked()
		if c.failed != nil {
			return 0, c.failed
		}
		return c.Conn.Write(p)
	}
	if c.out == nil {
		c.out = buffers.Get().(*[gatherBytes]byte)
	}
	c.held += copy(c.out[c.held:], p)
	return len(p), nil
}

// ReadAhead says whether reads may take more from the connection below than they
// were asked for.
func (c *Conn) ReadAhead(on bool) { c.ahead.Store(on) }

// Read reads what was read ahead, or from the connection below.
func (c *Conn) Read(p []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	if c.from == c.to {
		if !c.ahead.Load() || len(p) >= gatherBytes {
			return c.Conn.Read(p)
		}
		c.in = buffers.Get().(*[gatherBytes]byte)
		n, err := c.Conn.Read(c.in[:])
		c.from, c.to = 0, n
		if n == 0 {
			buffers.Put(c.in)
			c.in = nil
			return 0, err
		}
		// An error that came with bytes comes again without them.
	}
	n := copy(p, c.in[c.from:c.to])
	if c.from += n; c.from == c.to {
		buffers.Put(c.in)
		c.in = nil
	}
	return n, nil
}
