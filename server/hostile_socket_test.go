package server

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

// A socket is a connection to a relay on which a test writes HTTP and WebSocket
// frames (RFC 6455) by itself, so that it can write what no library would.
type socket struct {
	t    testing.TB
	conn net.Conn
	in   *bufio.Reader
	json bool
}

// socket connects.
func (r *testRelay) socket() *socket {
	r.t.Helper()
	conn, err := r.ln.DialContext(r.t.Context(), "tcp", "")
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	return newSocket(r.t, conn)
}

func newSocket(t testing.TB, conn net.Conn) *socket {
	// It bounds every wait; a test that runs into it has failed.
	conn.SetDeadline(time.Now().Add(2 * time.Minute))
	return &socket{t: t, conn: conn, in: bufio.NewReader(conn)}
}

// write writes as much as the server takes: it may have ended the connection.
func (s *socket) write(parts ...[]byte) { _, _ = s.conn.Write(bytes.Join(parts, nil)) }

const (
	socketKey = "dGhlIHNhbXBsZSBub25jZQ=="
	socketURL = "/v1/session"
)

// upgradeRequest is a good handshake with changes: pairs of a name and a value. A
// value of "-" takes the header away, a name with "+" adds one more.
func upgradeRequest(protocol string, changes ...string) []byte {
	type header struct{ name, value string }
	list := []header{
		{"Host", "relay.example"}, {"Connection", "Upgrade"}, {"Upgrade", "websocket"},
		{"Sec-WebSocket-Version", "13"}, {"Sec-WebSocket-Key", socketKey}, {"Sec-WebSocket-Protocol", protocol},
	}
	for i := 0; i < len(changes); i += 2 {
		name, value := changes[i], changes[i+1]
		at := -1
		for j := range list {
			if strings.EqualFold(list[j].name, name) {
				at = j
			}
		}
		switch {
		case at < 0:
			list = append(list, header{strings.TrimPrefix(name, "+"), value})
		case value == "-":
			list = append(list[:at], list[at+1:]...)
		default:
			list[at] = header{name, value}
		}
	}
	var text strings.Builder
	text.WriteString("GET " + socketURL + " HTTP/1.1\r\n")
	for _, h := range list {
		text.WriteString(h.name + ": " + h.value + "\r\n")
	}
	return []byte(text.String() + "\r\n")
}

// answer reads the answer to a request of this method; an error if there is none.
func (s *socket) answer(method string) (*http.Response, error) {
	resp, err := http.ReadResponse(s.in, &http.Request{Method: method})
	if err == nil && resp.StatusCode != http.StatusSwitchingProtocols {
		var body []byte
		body, err = io.ReadAll(resp.Body)
		resp.Body = io.NopCloser(bytes.NewReader(body))
	}
	return resp, err
}

// switched wants the right answer to a handshake.
func (s *socket) switched(protocol string) {
	s.t.Helper()
	resp, err := s.answer(http.MethodGet)
	if err != nil {
		s.t.Fatalf("no answer to the handshake: %v", err)
	}
	sum := sha1.Sum([]byte(socketKey + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	h := resp.Header
	if resp.StatusCode != http.StatusSwitchingProtocols || h.Get("Sec-WebSocket-Accept") != base64.StdEncoding.EncodeToString(sum[:]) ||
		!strings.EqualFold(h.Get("Upgrade"), "websocket") || !strings.EqualFold(h.Get("Connection"), "Upgrade") ||
		h.Get("Sec-WebSocket-Protocol") != protocol || len(h.Values("Sec-WebSocket-Extensions")) != 0 {
		s.t.Fatalf("handshake: %d %v", resp.StatusCode, h)
	}
	s.json = protocol == wire.JSONSubprotocol
}

// upgraded connects and shakes hands.
func (r *testRelay) upgraded(protocol string) *socket {
	r.t.Helper()
	s := r.socket()
	s.write(upgradeRequest(protocol))
	s.switched(protocol)
	return s
}

// WebSocket opcodes.
const (
	opContinue = 0x0
	opText     = 0x1
	opBinary   = 0x2
	opClose    = 0x8
	opPing     = 0x9
	opPong     = 0xA
)

// A wsFrame is one WebSocket frame as the test wants it.
type wsFrame struct {
	op     byte
	more   bool // without FIN
	rsv    byte // RSV1 to RSV3 as 4, 2, 1
	plain  bool // without a mask
	length []byte
	// length are the bytes of the length field, without the mask bit, instead of the right ones.
	data []byte
}

// shortest is the right form of a length.
func shortest(n int) []byte {
	switch {
	case n < 126:
		return []byte{byte(n)}
	case n < 1<<16:
		return binary.BigEndian.AppendUint16([]byte{126}, uint16(n))
	}
	return binary.BigEndian.AppendUint64([]byte{127}, uint64(n))
}

func (f wsFrame) bytes() []byte {
	first := f.rsv<<4 | f.op
	if !f.more {
		first |= 0x80
	}
	length := f.length
	if length == nil {
		length = shortest(len(f.data))
	}
	out := append([]byte{first}, length...)
	if f.plain {
		return append(out, f.data...)
	}
	out[1] |= 0x80
	mask := [4]byte{0x12, 0x9A, 0x00, 0xFF}
	out = append(out, mask[:]...)
	for i, b := range f.data {
		out = append(out, b^mask[i%4])
	}
	return out
}

// closeData is the body of a close.
func closeData(status uint16, reason string) []byte {
	return append(binary.BigEndian.AppendUint16(nil, status), reason...)
}

// dataOp is the opcode of the session's messages.
func (s *socket) dataOp() byte {
	if s.json {
		return opText
	}
	return opBinary
}

// encode is f as a message of the session.
func (s *socket) encode(frames ...*wire.Frame) []byte {
	s.t.Helper()
	var msg []byte
	var err error
	for _, f := range frames {
		if s.json {
			msg, err = wire.AppendJSON(msg, f)
		} else {
			msg, err = wire.AppendBinary(msg, f)
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
	return msg
}

func (s *socket) send(f *wire.Frame) { s.write(wsFrame{op: s.dataOp(), data: s.encode(f)}.bytes()) }

var errServerFrame = errors.New("the server broke RFC 6455")

// frame reads one WebSocket frame and is strict about its form.
func (s *socket) frame() (op byte, data []byte, err error) {
	var head [2]byte
	if _, err := io.ReadFull(s.in, head[:]); err != nil {
		return 0, nil, err
	}
	op = head[0] & 0xF
	n := uint64(head[1] & 0x7F)
	extended := make([]byte, map[uint64]int{126: 2, 127: 8}[n])
	if _, err := io.ReadFull(s.in, extended); err != nil {
		return 0, nil, err
	}
	for i, b := range extended {
		if i == 0 {
			n = 0
		}
		n = n<<8 | uint64(b)
	}
	switch {
	case head[0]&0xF0 != 0x80, head[1]&0x80 != 0, op != opClose && op != opPing && op != opPong && op != s.dataOp(),
		op >= opClose && n > 125, n > wire.MessageBytes, !bytes.Equal(shortest(int(n)), append([]byte{head[1]}, extended...)):
		return 0, nil, fmt.Errorf("%w: head %x %x", errServerFrame, head, extended)
	}
	data = make([]byte, n)
	_, err = io.ReadFull(s.in, data)
	return op, data, err
}

// next reads the next frame of the session, passing over what keeps it alive.
func (s *socket) next() (*wire.Frame, error) {
	for {
		op, data, err := s.frame()
		switch {
		case err != nil:
			return nil, err
		case op == opClose:
			return nil, closed(data)
		case op != s.dataOp():
			continue
		}
		var f *wire.Frame
		if s.json {
			f, err = wire.DecodeJSON(data)
		} else {
			f, _, err = wire.NextBinary(data)
		}
		if err != nil || f.GetPing() == nil && f.GetPong() == nil {
			return f, err
		}
	}
}

// closed is the server's close, and its body.
type closed []byte

func (c closed) Error() string { return fmt.Sprintf("closed with %d", c.status()) }

// status is 1005 for a close without one.
func (c closed) status() int {
	if len(c) < 2 {
		return 1005
	}
	return int(binary.BigEndian.Uint16(c))
}

// login logs in and wants a Welcome.
func (s *socket) login(h *wire.Hello) {
	s.t.Helper()
	s.send(helloFrame(h))
	if f, err := s.next(); f.GetWelcome() == nil {
		s.t.Fatalf("no Welcome: %v, %v", f, err)
	}
}

// wasCut is an end without a close.
const wasCut = -1

// end reads until the server has ended the connection, answers its close, and
// returns the status and the frames of the session that came before.
func (s *socket) end() (status int, frames []*wire.Frame) {
	s.t.Helper()
	for {
		f, err := s.next()
		if err == nil {
			frames = append(frames, f)
			continue
		}
		if errors.Is(err, errServerFrame) {
			s.t.Error(err)
		}
		c, ok := errors.AsType[closed](err)
		if !ok {
			return wasCut, frames
		}
		s.write(wsFrame{op: opClose, data: c}.bytes())
		if half, ok := s.conn.(interface{ CloseWrite() error }); ok {
			half.CloseWrite() // nothing more comes: the server need not wait for it
		}
		if n, err := s.in.Read(make([]byte, 1)); n != 0 {
			s.t.Errorf("something came behind the close: %v", err)
		}
		return c.status(), frames
	}
}
