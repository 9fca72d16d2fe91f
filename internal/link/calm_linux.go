package link

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// calmBytes is how much may be on its way to a peer that its kernel has not yet
// acknowledged, for a small write to be sure not to wait: far less than the smallest
// send buffer, with all that the kernel adds to each piece.
const calmBytes = 4 << 10

// A calm tells whether a small write on a connection is sure not to wait. It is used
// by one goroutine at a time.
type calm struct {
	raw    syscall.RawConn // nil: it cannot be known
	look   func(fd uintptr)
	unsent int
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
	}
	return c
}

func (c *calm) is() bool {
	if c.raw == nil {
		return false
	}
	c.unsent = calmBytes + 1 // for a connection that is closed
	return c.raw.Control(c.look) == nil && c.unsent <= calmBytes
}
