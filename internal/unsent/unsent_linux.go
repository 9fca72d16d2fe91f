package unsent

import (
	"net"

	"golang.org/x/sys/unix"
)

// Bound keeps the kernel from taking more than Most bytes of conn that it cannot send
// yet, if conn is TCP's.
func Bound(conn net.Conn) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { // a hint to the kernel
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, Most)
	})
}
