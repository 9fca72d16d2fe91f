package link

import (
	"bytes"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/dian-im/dian/internal/wire"
)

// message is one binary message of f in n fragments, the last of them empty or not.
func message(t testing.TB, f *wire.Frame, n int) []byte {
	t.Helper()
	content := encoded(t, f)
	var out []byte
	for i := range n {
		part := content[:min(1, len(content))]
		if i == n-1 {
			part = content
		}
		content = content[len(part):]
		first := byte(0)
		if i == 0 {
			first = 2
		}
		if i == n-1 {
			first |= 0x80
		}
		out = append(out, raw(first, len(part), part)...)
	}
	return out
}

func TestGateRefusesWhatGorillaLetsPass(t *testing.T) {
	ping := raw(0x89, 0, nil)
	empty := raw(0x00, 0, nil)
	long := make([]byte, 1<<16-1)
	content := encoded(t, received(1))
	pinged := raw(0x02, len(content), content)
	for i := range maxFragments - 2 {
		pinged = append(pinged, empty...)
		if i%8 == 0 {
			pinged = append(pinged, ping...)
		}
	}
	tests := []struct {
		name    string
		sent    []byte
		status  int // 0: none, the link stays
		handled int
	}{ // cases 1, 4, 6
		{"one fragment", message(t, received(1), 1), 0, 1},
		{"as many fragments as may be", message(t, received(1), maxFragments), 0, 1},
		{"one fragment more", message(t, received(1), maxFragments+1), 1008, 0},
		{"empty fragments", append(raw(0x02, 0, nil), bytes.Repeat(empty, maxFragments)...), 1008, 0},
		{"the count begins anew", bytes.Repeat(message(t, received(1), maxFragments), 3), 0, 3},
		{"pings between do not count", append(pinged, raw(0x80, 0, nil)...), 0, 1},
		{"length 0 in 2 bytes", []byte{0x82, 0xfe, 0, 0, 0, 0, 0, 0}, 1002, 0},
		{"length 125 in 2 bytes", append([]byte{0x82, 0xfe, 0, 125, 0, 0, 0, 0}, make([]byte, 125)...), 1002, 0},
		{"length 126 in 2 bytes", append([]byte{0x82, 0xfe, 0, 126, 0, 0, 0, 0}, make([]byte, 126)...), 1007, 0},
		{"length 1 in 8 bytes", []byte{0x82, 0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0}, 1002, 0},
		{"length 65535 in 8 bytes", slices.Concat([]byte{0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0}, long), 1002, 0},
		{"length 65536 in 8 bytes", slices.Concat([]byte{0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0}, long, []byte{0}), 1007, 0},
		{"length 2^63-1", append([]byte{0x82, 0xff, 0x7f}, bytes.Repeat([]byte{0xff}, 11)...), 1009, 0},
		{"length 2^63", []byte{0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 1002, 0},
		{"length 2^64-1", append([]byte{0x82, 0xff}, bytes.Repeat([]byte{0xff}, 12)...), 1002, 0},
		{"a close of one byte", raw(0x88, 1, []byte{3}), 1002, 0},
		{"a close of one byte in a message", append(raw(0x02, 0, nil), raw(0x88, 1, []byte{3})...), 1002, 0},
		{"good frames before a bad one count", append(message(t, received(1), 2), 0x82, 0xfe, 0, 0, 0, 0, 0, 0), 1002, 1},
	}
	for _, tt := range tests {
		for _, slice := range []int{1, 7, 1 << 20} { // bytes in a write
			synctest.Test(t, func(t *testing.T) {
				far, near, below := memPair(t)
				handled := 0
				l := New(near, Config{Handle: func(*wire.Frame) error { handled++; return nil }})
				ended := run(t, l)
				go func() {
					for part := range slices.Chunk(tt.sent, slice) {
						if _, err := below.Write(part); err != nil {
							return
						}
						if slice == 1 && len(tt.sent) < 1000 {
							synctest.Wait() // so that the reader sees every boundary
						}
					}
				}()
				if tt.status == 0 {
					time.Sleep(time.Second)
					if err := l.Err(); err != nil {
						t.Errorf("%s, %d at once: %v", tt.name, slice, err)
					}
					far.Close()
					if <-ended; handled != tt.handled {
						t.Errorf("%s, %d at once: %d frames handled, want %d", tt.name, slice, handled, tt.handled)
					}
					return
				}
				_, _, err := far.ReadMessage()
				for err == nil {
					_, _, err = far.ReadMessage()
				}
				if !websocket.IsCloseError(err, tt.status) {
					t.Errorf("%s, %d at once: peer got %v, want close %d", tt.name, slice, err, tt.status)
				}
				far.Close()
				if err := <-ended; !errors.Is(err, ErrProtocol) || handled != tt.handled {
					t.Errorf("%s, %d at once: Run = %v, %d frames handled, want ErrProtocol and %d", tt.name, slice, err, handled, tt.handled)
				}
			})
		}
	}
}

// A gate holds a buffer only as long as there is something in it.
func TestGateReadsAheadWhileMuchComes(t *testing.T) {
	content := make([]byte, 3*aheadBytes+100)
	for i := range content {
		content[i] = byte(i * 7)
	}
	below := &countedConn{rest: raw(0x82, len(content), content)}
	whole := bytes.Clone(below.rest)
	g := &gate{noticed: noticed{Conn: below, asks: func() {}}}
	var got []byte
	p := make([]byte, 512)
	for {
		n, err := g.Read(p)
		got = append(got, p[:n]...)
		if err == io.EOF {
			break
		}
		if err != nil || n == 0 {
			t.Fatalf("Read = %d, %v", n, err)
		}
		if (g.ahead == nil) != (g.from == g.to) {
			t.Fatal("a buffer with nothing in it")
		}
	}
	if !bytes.Equal(got, whole) {
		t.Error("other bytes were read")
	}
	if below.reads > 8 { // 512 bytes, three or four times 16 KiB, the rest, the end
		t.Errorf("%d reads below", below.reads)
	}
	if g.ahead != nil {
		t.Error("a buffer is kept at the end")
	}
}

// A countedConn has something to read and counts who reads it.
type countedConn struct {
	net.Conn
	rest  []byte
	reads int
}

func (c *countedConn) Read(p []byte) (int, error) {
	c.reads++
	if len(c.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// Before Welcome a client may ping a little and not flood.
func TestFloodBeforeTheFirstFrameIsClosed(t *testing.T) {
	hello := &wire.Frame{Body: &wire.Frame_Hello{Hello: &wire.Hello{Token: "t"}}}
	for _, tt := range []struct {
		name  string
		flood []byte
		good  bool
	}{ // cases 7, 10
		{"as many pings as may be", bytes.Repeat(raw(0x89, 2, []byte("hi")), firstControls), true},
		{"one ping more", bytes.Repeat(raw(0x89, 2, []byte("hi")), firstControls+1), false},
		{"pongs", bytes.Repeat(raw(0x8a, 0, nil), firstControls+1), false},
		{"fragments", append(raw(0x02, 0, nil), bytes.Repeat(raw(0x00, 0, nil), maxFragments)...), false},
	} {
		synctest.Test(t, func(t *testing.T) {
			far, near, below := memPair(t)
			content := encoded(t, hello)
			below.Write(append(tt.flood, raw(0x82, len(content), content)...))
			pongs := 0
			far.SetPongHandler(func(string) error { pongs++; return nil })
			read := make(chan error, 1)
			go func() {
				_, _, err := far.ReadMessage()
				read <- err
			}()
			f, err := ReadFirst(near, false, wire.LoginBytes, 10*time.Second)
			if (err == nil) != tt.good || tt.good && f.GetHello().GetToken() != "t" {
				t.Errorf("%s: ReadFirst = %v, %v", tt.name, f, err)
			}
			Refuse(near, false, nil, websocket.ClosePolicyViolation)
			if err := <-read; !websocket.IsCloseError(err, websocket.ClosePolicyViolation) {
				t.Errorf("%s: peer got %v, want close 1008", tt.name, err)
			}
			if strings.Contains(tt.name, "ping") && pongs != firstControls {
				t.Errorf("%s: %d pongs, want %d", tt.name, pongs, firstControls)
			}
		})
	}
}
