package server

import (
	"net"
	"sync"

	"golang.org/x/sys/unix"
)

// unreadMost is what the kernel is asked to hold of a client that nobody reads yet,
// in bytes. It takes twice as much, for what it adds to each packet.
const unreadMost = 256 << 10

// boundUnread keeps the kernel from holding more than unreadMost bytes of a client.
// It would find by itself how much a fast client far away needs; but it finds that
// for one whose receiver does not read, too: five megabytes each, out of what all
// connections of the machine share (case 47). freeUnread lets it.
func boundUnread(conn *net.TCPConn) {
	if canFreeUnread(conn) {
		setUnread(conn, unix.SO_RCVBUF, unreadMost)
	}
}

func freeUnread(conn *net.TCPConn) { setUnread(conn, unix.SO_BUF_LOCK, 0) }

func setUnread(conn *net.TCPConn, option, value int) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { // a hint to the kernel
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, option, value)
	})
}

var unread struct {
	once sync.Once
	free bool
}

// canFreeUnread reports whether this kernel (Linux 5.14 and newer) takes a bound back:
// one for good would slow down who is far away.
func canFreeUnread(conn *net.TCPConn) bool {
	unread.once.Do(func() {
		raw, err := conn.SyscallConn()
		if err != nil {
			return
		}
		_ = raw.Control(func(fd uintptr) {
			_, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BUF_LOCK)
			unread.free = err == nil
		})
	})
	return unread.free
}
