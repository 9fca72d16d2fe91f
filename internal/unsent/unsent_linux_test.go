package unsent

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Of what is written to a peer that does not read, the kernel takes little more than
// Most beyond what it can send.
func TestBoundConnectionTakesLittle(t *testing.T) {
	const write = 64 << 10
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	left := func(bound bool) int {
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if bound {
			Bound(conn)
		}
		for err == nil {
			conn.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
			_, err = conn.Write(make([]byte, write))
		}
		raw, err := conn.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var n int
		if failed := raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQNSD) }); failed != nil || err != nil {
			t.Fatal(failed, err)
		}
		return n
	}
	if n := left(true); n > Most+write {
		t.Errorf("the kernel has taken %d bytes that it cannot send, want %d", n, Most)
	}
	if n := left(false); n < 2*Most {
		t.Errorf("without the bound it takes %d bytes: nothing is seen here", n)
	}
}

// What is no TCP connection is left alone.
func TestBoundOfAnotherConnection(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	Bound(a)
}
