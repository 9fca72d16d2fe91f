package server

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// userTimeout is how long a session's peer may leave sent bytes unacknowledged.
const userTimeout = 15 * time.Second

// setUserTimeout lets the kernel end a session whose peer has vanished (case 88).
// Never on a lane: Linux also aborts a live peer that merely reads slowly.
func setUserTimeout(conn net.Conn) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	// Without it the heartbeat finds out, a little later.
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds()))
	})
}
