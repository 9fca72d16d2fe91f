package server

import (
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

// manyAddresses is a loopback listener whose clients seem to come from one address
// in a thousand each.
type manyAddresses struct {
	loopback
	accepted atomic.Int64
}

func (l *manyAddresses) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	n := l.accepted.Add(1)
	return fromConn{conn, &net.TCPAddr{IP: net.IPv4(10, 0, byte(n/25), 1), Port: int(1024 + n)}}, nil
}

type fromConn struct {
	net.Conn
	from net.Addr
}

func (c fromConn) RemoteAddr() net.Addr { return c.from }
func (c fromConn) NetConn() net.Conn    { return c.Conn }

// crowdRelay starts a relay on loopback that many may come to.
func crowdRelay(t testing.TB, change ...func(*Config)) *testRelay {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return startRelay(t, &manyAddresses{loopback: loopback{ln}}, change...)
}

// heldBytes is what the program holds on its heap and its stacks.
func heldBytes() int64 {
	runtime.GC()
	runtime.GC() // what finalizers and pools have let go
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

func TestConnectionsBeforeLoginHoldLittle(t *testing.T) { // cases 10 and 53
	const connections = 2000
	for _, kind := range []struct {
		name string
		sent []byte // behind the handshake
		most int64  // bytes for each, of both ends together
	}{
		{"silent", nil, 16 << 10},
		{"an endless message that has begun", wsFrame{op: opBinary, more: true}.bytes(), 16 << 10},
		{"most of a Hello", wsFrame{op: opBinary, data: make([]byte, 16<<10)}.bytes()[:15<<10], 32 << 10},
	} {
		t.Run(kind.name, func(t *testing.T) {
			r := crowdRelay(t, fastRates, func(c *Config) { c.LoginWait = time.Minute }) // however slow the machine
			base := newBaseline(r)
			before := heldBytes()
			conns := make([]net.Conn, connections)
			answer := make([]byte, len("HTTP/1.1 101 "))
			for i := range conns {
				conn, err := r.ln.DialContext(t.Context(), "tcp", "")
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				conns[i] = conn
				conn.Write(upgradeRequest(wire.ProtoSubprotocol))
				if _, err := conn.Read(answer); err != nil || string(answer) != "HTTP/1.1 101 " {
					t.Fatalf("%q, %v", answer, err)
				}
				conn.Write(kind.sent)
			}
			base.command(t, kind.name) // beside all of them
			held := (heldBytes() - before) / connections
			if n := r.srv.quota.all.used[countEntering].Load(); n != connections {
				t.Fatalf("%d are not logged in, want %d", n, connections)
			}
			t.Logf("%d bytes for each", held)
			if most := int64(stackFactor * float64(kind.most)); held > most {
				t.Errorf("%d bytes are held for each, want at most %d", held, most)
			}
			for _, conn := range conns {
				conn.Close()
			}
			base.check(t, "afterwards")
		})
	}
}
