package server

import (
	"net"

	"golang.org/x/sys/unix"
)

// unsentMost is what the kernel takes for a peer and cannot send yet, in bytes.
const unsentMost = 256 << 10

// boundUnsent keeps the kernel from taking more than unsentMost bytes that it cannot
// send yet. What is under way to a fast peer far away is not bounded by it, but of a
// peer that does not read the kernel would otherwise hold megabytes, out of what all
// connections of the machine share: a thousand such peers slow down everybody (case
// 47).
func boundUnsent(conn *net.TCPConn) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { // a hint to the kernel
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsentMost)
	})
}
