package link

import (
	"bufio"
	"encoding/binary"
	"errors"
	"net"
	"net/http"
	"sync"

	"github.com/gorilla/websocket"
)

// maxFragments is how many WebSocket frames one message may come in (case 4). The
// largest message in frames of a kilobyte is within it; a frame costs more to read
// than the byte, or none, that it may hold.
const maxFragments = 320

var (
	errFragments = errors.New("a message in too many fragments")
	errLength    = errors.New("a length that is not minimal, or over 63 bits")
	errCloseBody = errors.New("a close with half a status")
)

// Guarded returns w for websocket.Upgrader.Upgrade. The connection that is taken
// over from it ends with status 1008 for a message in more than 320 fragments
// and with 1002 for what RFC 6455 forbids and gorilla passes over: a length not in
// its shortest form (§5.2) and a close whose body is one byte (§5.5.1).
func Guarded(w http.ResponseWriter) http.ResponseWriter { return guarded{w} }

type guarded struct{ http.ResponseWriter }

// Unwrap is for http.ResponseController.
func (g guarded) Unwrap() http.ResponseWriter { return g.ResponseWriter }

// Hijack takes the connection over behind a gate.
func (g guarded) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(g.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	return &gate{noticed: noticed{Conn: conn}}, buffered, nil
}

// A gate looks at the head of each WebSocket frame that a client sends, before
// gorilla does, which has no hook for it. Its fields are owned by the reader.
type gate struct {
	noticed
	head      [10]byte // of the frame that begins: 2 bytes and the length
	have      int      // bytes of it
	rest      uint64   // bytes to come of the present frame: mask and content
	fragments int      // of the present message
	broken    error    // what every Read from now on returns

	// While a client sends much it is read in large pieces; otherwise there is no
	// buffer here, and only a small one in gorilla.
	much     bool // the last read got all that it had room for
	ahead    *[aheadBytes]byte
	from, to int // what is in ahead
}

const aheadBytes = 16 << 10

var aheads = sync.Pool{New: func() any { return new([aheadBytes]byte) }}

// Read returns what comes up to a frame that is against the rules, and then a
// *CloseError.
func (g *gate) Read(p []byte) (int, error) {
	if g.broken != nil {
		return 0, g.broken
	}
	n, err := g.read(p)
	good := g.look(p[:n])
	if g.broken != nil && good == 0 {
		return 0, g.broken
	}
	if g.broken != nil {
		return good, nil
	}
	return n, err
}

// read reads what was read ahead, or from the connection.
func (g *gate) read(p []byte) (n int, err error) {
	if g.ahead == nil && (!g.much || len(p) >= aheadBytes) {
		n, err = g.noticed.Read(p)
		g.much = n == len(p) && g.asks != nil // logged in: nobody else is given so much
		return n, err
	}
	if g.ahead == nil {
		g.ahead = aheads.Get().(*[aheadBytes]byte)
		g.to, err = g.noticed.Read(g.ahead[:])
		g.from, g.much = 0, g.to >= len(p)
	}
	n = copy(p, g.ahead[g.from:g.to])
	if g.from += n; g.from == g.to {
		aheads.Put(g.ahead)
		g.ahead = nil
	} else {
		err = nil // it comes again without bytes
	}
	return n, err
}

// look returns how much of p may pass.
func (g *gate) look(p []byte) int {
	for at := 0; at < len(p); {
		if g.rest > 0 {
			n := min(g.rest, uint64(len(p)-at))
			g.rest -= n
			at += int(n)
			continue
		}
		g.head[g.have] = p[at]
		g.have++
		if g.whole() {
			if g.broken = g.frame(); g.broken != nil {
				return at
			}
			g.have = 0
		}
		at++
	}
	return len(p)
}

// whole reports whether the head is there up to its length.
func (g *gate) whole() bool {
	if g.have < 2 {
		return false
	}
	switch g.head[1] & 0x7f {
	case 126:
		return g.have == 4
	case 127:
		return g.have == 10
	}
	return true
}

// frame checks a whole head. What gorilla refuses itself passes.
func (g *gate) frame() error {
	length := uint64(g.head[1] & 0x7f)
	switch length {
	case 126:
		if length = uint64(binary.BigEndian.Uint16(g.head[2:])); length < 126 {
			return violation(websocket.CloseProtocolError, errLength)
		}
	case 127:
		if length = binary.BigEndian.Uint64(g.head[2:]); length < 1<<16 || length>>63 != 0 {
			return violation(websocket.CloseProtocolError, errLength)
		}
	}
	g.rest = length
	if g.head[1]&0x80 != 0 {
		g.rest += 4
	}
	switch g.head[0] & 0xf {
	case websocket.CloseMessage:
		if length == 1 {
			return violation(websocket.CloseProtocolError, errCloseBody)
		}
	case websocket.TextMessage, websocket.BinaryMessage:
		g.fragments = 1
	case 0: // a continuation
		if g.fragments++; g.fragments > maxFragments {
			return violation(websocket.ClosePolicyViolation, errFragments)
		}
	}
	return nil
}
