package link

import (
	"errors"
	"fmt"
	"time"

	"github.com/gorilla/websocket"

	"github.com/dian-im/dian/internal/wire"
)

// firstControls is how many pings and pongs may come before the first message: a
// proxy may send a few, a flood would cost an answer each (cases 7 and 10).
const firstControls = 16

// countControls answers pings and ends the connection when too many come.
func countControls(conn *websocket.Conn) {
	left := firstControls
	take := func() error {
		if left--; left < 0 {
			return flooded()
		}
		return nil
	}
	conn.SetPongHandler(func(string) error { return take() })
	conn.SetPingHandler(func(data string) error {
		if err := take(); err != nil {
			return err
		}
		err := conn.WriteControl(websocket.PongMessage, []byte(data), time.Now().Add(drainTime))
		if errors.Is(err, websocket.ErrCloseSent) {
			return nil
		}
		return err
	})
}

// ReadFirst reads the one frame that may come before a Link exists: a Hello on
// the server, a Welcome or LineOff on the client. The message holds exactly one
// frame in at most limit bytes (wire.LoginBytes for a Hello) and must be whole
// within timeout. Whoever gets an error ends the connection with Refuse.
func ReadFirst(conn *websocket.Conn, json bool, limit int, timeout time.Duration) (*wire.Frame, error) {
	countControls(conn)
	conn.SetReadLimit(int64(limit))
	conn.SetReadDeadline(time.Now().Add(timeout))
	kind, r, err := conn.NextReader()
	if err != nil {
		return nil, fmt.Errorf("link: read first frame: %w", err)
	}
	switch {
	case json && kind != websocket.TextMessage:
		return nil, violation(websocket.CloseUnsupportedData, errBinary)
	case !json && kind != websocket.BinaryMessage:
		return nil, violation(websocket.CloseUnsupportedData, errText)
	}
	// Not from the pool, whose buffers are larger than most first frames: many who
	// send half of one must not hold more than they have sent (case 10).
	msg, err := readAll(make([]byte, 0, 512), r)
	if err != nil {
		return nil, fmt.Errorf("link: read first frame: %w", err)
	}
	if json {
		f, err := wire.DecodeJSON(msg)
		if err != nil {
			return nil, violation(websocket.CloseInvalidFramePayloadData, err)
		}
		return f, nil
	}
	f, rest, err := wire.NextBinary(msg)
	if err != nil {
		return nil, violation(websocket.CloseInvalidFramePayloadData, err)
	}
	if len(rest) > 0 {
		return nil, violation(websocket.ClosePolicyViolation, errors.New("more than one frame before the login is done"))
	}
	return f, nil
}

// WriteFirst writes one frame before a Link exists, as a message of its own.
func WriteFirst(conn *websocket.Conn, json bool, f *wire.Frame, timeout time.Duration) error {
	buf := readBuffers.get()
	defer readBuffers.put(buf)
	var err error
	kind := websocket.BinaryMessage
	if json {
		kind = websocket.TextMessage
		*buf, err = wire.AppendJSON((*buf)[:0], f)
	} else {
		*buf, err = wire.AppendBinary((*buf)[:0], f)
	}
	if err != nil {
		return fmt.Errorf("link: encode first frame: %w", err)
	}
	conn.SetWriteDeadline(time.Now().Add(timeout))
	if err := conn.WriteMessage(kind, *buf); err != nil {
		return fmt.Errorf("link: write first frame: %w", err)
	}
	return nil
}

// Refuse ends a connection that did not become a Link: with f (a LineOff) if it
// is not nil, and a close with status, unless the reader has sent another one
// already. It waits up to a second for the peer's own close, so that ours is not
// destroyed on its way, and closes the connection.
func Refuse(conn *websocket.Conn, json bool, f *wire.Frame, status int) {
	defer conn.Close()
	if f != nil && WriteFirst(conn, json, f, drainTime) != nil {
		return
	}
	deadline := time.Now().Add(drainTime)
	err := conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(status, ""), deadline)
	if err != nil && !errors.Is(err, websocket.ErrCloseSent) {
		return
	}
	conn.SetReadDeadline(deadline)
	for range 16 { // a peer that goes on talking is not waited for
		if _, _, err := conn.NextReader(); err != nil {
			if brokenOff(err) {
				drain(conn, deadline)
			}
			return
		}
	}
}
