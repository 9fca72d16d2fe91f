package server

import (
	"context"
	"net"
	"net/http"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// keptListener remembers the connections that it accepts.
type keptListener struct {
	net.Listener
	conns chan *net.TCPConn
}

func (l keptListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if tcp, ok := conn.(*net.TCPConn); ok {
		l.conns <- tcp
	}
	return conn, err
}

// bounded reports whether the kernel holds no more of a client than it was told.
func bounded(t *testing.T, conn *net.TCPConn) bool {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var locks, size int
	_ = raw.Control(func(fd uintptr) {
		if locks, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BUF_LOCK); err == nil {
			size, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF)
		}
	})
	if err != nil {
		t.Fatalf("this kernel cannot say: %v", err)
	}
	const receive = 2 // SOCK_RCVBUF_LOCK
	if locks&receive != 0 && size > 2*unreadMost {
		t.Errorf("bound to %d bytes, want %d at most", size, 2*unreadMost)
	}
	return locks&receive != 0
}

// Of what nobody reads the kernel holds little, out of what all connections share. It
// may hold more of lanes of which something has passed; there are so many at once, and
// each gives its place back.
func TestUnreadContentIsBounded(t *testing.T) { // case 47
	srv, err := New(DevConfig())
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	kept := keptListener{ln, make(chan *net.TCPConn, 10)}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ctx, kept) }()
	defer func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	lane := func() (*upLane, *net.TCPConn) {
		client, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { client.Close() })
		if _, err := client.Write([]byte("GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
		if _, err := client.Read(make([]byte, 1)); err != nil { // it is being served
			t.Fatal(err)
		}
		conn := <-kept.conns
		r := (&http.Request{ProtoMajor: 1}).WithContext(withDoor(context.Background(), &doorConn{Conn: conn}))
		return &upLane{r: r}, conn
	}
	ts := &transfers{born: time.Now(), warm: newSeats(1), wide: newSeats(1)}
	at := []*pace{{t: &transfer{ts: ts}}, {t: &transfer{ts: ts}}}
	first, firstConn := lane()
	second, secondConn := lane()
	want := func(when string, a, b bool) {
		t.Helper()
		if x, y := bounded(t, firstConn), bounded(t, secondConn); x != a || y != b {
			t.Errorf("%s: bounded %t and %t, want %t and %t", when, x, y, a, b)
		}
	}
	want("at first", true, true)
	first.pass(at[0], wideBytes-1)
	want("a byte too early", true, true)
	first.pass(at[0], 1)
	second.pass(at[1], wideBytes)
	want("with one place", false, true)
	first.over(ts)
	want("after the first", true, true)
	second.pass(at[1], wideBytes)
	want("with the place of the first", true, false)
	second.over(ts)
	if len(ts.wide.taken) != 0 {
		t.Error("a place was not given back")
	}
}
