package link

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// calmBytes is how much may be on its way to a peer that its kernel has not yet
// acknowledged, for a write of as much to be sure not to wait: far less than the smallest
// send buffer, with all that the kernel adds to each piece. With a send buffer of
// roomyBuffer, which the kernel may make smaller when it runs out of memory, the write
// may be as large as nowBytes.
const (
	calmBytes   = 4 << 10
	roomyBuffer = 64 << 10
)

// A calm tells whether a small write on a connection is sure not to wait. It is used
// by one goroutine at a time.
type calm struct {
	raw    syscall.RawConn // nil: it cannot be known
	look   func(fd uintptr)
	large  bool // asked: whether it may be more than calmBytes
	unsent int
	buffer int
}

func calmOf(conn net.Conn) *calm {
	c := new(calm)
	if tcp, ok := conn.(*net.TCPConn); ok {
		if raw, err := tcp.SyscallConn(); err == nil {
			c.raw = raw
		}
	}
	c.look = func(fd uintptr) {
		var err error
		if c.unsent, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ); err != nil {
			c.unsent = calmBytes + 1
		}
		if c.large {
			if c.buffer, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF); err != nil {
				c.buffer = 0
			}
		}
	}
	return c
}

// room returns how large a write is sure not to wait, 0 if none is, for who wants to
// write n bytes.
func (c *calm) room(n int) int {
	if c.raw == nil || n > nowBytes {
		return 0
	}
	c.unsent, c.buffer = calmBytes+1, 0 // for a connection that is closed
	c.large = n > calmBytes
	switch err := c.raw.Control(c.look); {
	case err != nil || c.unsent > calmBytes:
		return 0
	case c.buffer >= roomyBuffer:
		return nowBytes
	}
	return calmBytes
}
