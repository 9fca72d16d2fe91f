package memnet

import (
	"syscall"
	"time"
)

// The faults may be set at any time, by any goroutine, on either end.

// Cut breaks the connection as a reset does: reads and writes of both ends fail
// with ECONNRESET, what was under way is lost.
func (c *Conn) Cut() { c.cut(false) }

// cutInWrite is the end of CutAfter.
func (c *Conn) cutInWrite() { c.cut(true) }

func (c *Conn) cut(keepWritten bool) {
	c.out.breakOff(syscall.ECONNRESET, keepWritten)
	c.in.breakOff(syscall.ECONNRESET, false)
	c.ended()
	c.other.ended()
}

// CutAfter lets this end write n more bytes, which the other end can still read,
// and then cuts the connection in the middle of what is being written.
func (c *Conn) CutAfter(n int64) {
	c.out.mu.Lock()
	c.out.budget = max(n, 0)
	c.out.mu.Unlock()
}

// Stall holds back what either end writes, its close too, as a network does that
// has stopped to move: writers fill the buffer and then wait. Resume lets it go on.
func (c *Conn) Stall() { c.fault(func(s *stream) { s.stalled = true }, c.in, c.out) }

// Resume ends a Stall.
func (c *Conn) Resume() { c.fault(func(s *stream) { s.stalled = false }, c.in, c.out) }

// StallReads is Stall for what this end reads alone.
func (c *Conn) StallReads() { c.fault(func(s *stream) { s.stalled = true }, c.in) }

// Blackhole loses what either end writes from now on, its close too. Nobody is
// told, and writers never wait.
func (c *Conn) Blackhole() {
	c.fault(func(s *stream) { s.lost, s.chunks, s.held = true, nil, 0 }, c.in, c.out)
}

// BlackholeWrites is Blackhole for what this end writes alone: a one-way
// partition.
func (c *Conn) BlackholeWrites() {
	c.fault(func(s *stream) { s.lost, s.chunks, s.held = true, nil, 0 }, c.out)
}

// Delay makes what either end writes from now on arrive d later. The buffer is
// full all the while, so it bounds what is under way.
func (c *Conn) Delay(d time.Duration) { c.fault(func(s *stream) { s.delay = d }, c.in, c.out) }

func (c *Conn) fault(set func(*stream), streams ...*stream) {
	for _, s := range streams {
		s.mu.Lock()
		set(s)
		s.changedLocked()
		s.mu.Unlock()
	}
}
