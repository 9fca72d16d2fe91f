package unsent

import (
	"net"
	"testing"
	"time"
)

// Of what is written to a peer that does not read, the kernel takes little more than
// Most beyond what the peer's kernel takes.
func TestBoundConnectionTakesLittle(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	takes := func(bound bool) (n int) {
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if bound {
			Bound(conn)
		}
		for err == nil {
			var m int
			conn.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
			m, err = conn.Write(make([]byte, 64<<10))
			n += m
		}
		return n
	}
	with, without := takes(true), takes(false)
	if with < Most || with > Most+1<<20 {
		t.Errorf("the kernel takes %d bytes, want %d and what the peer's takes", with, Most)
	}
	if without < 2*with {
		t.Errorf("without the bound it takes %d bytes, with it %d: nothing is seen here", without, with)
	}
}

// What is no TCP connection is left alone.
func TestBoundOfAnotherConnection(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	Bound(a)
}
