package link

import (
	"errors"
	"fmt"

	"github.com/gorilla/websocket"

	"github.com/dian-im/dian/internal/wire"
)

var (
	// ErrFull means that the queue is over its bytes or frames: the peer reads too
	// slowly. The frame was not taken.
	ErrFull = errors.New("link: queue is full")
	// ErrClosed means that the link has ended or is ending by a Close of this side.
	ErrClosed = errors.New("link: closed")
	// ErrSilent means that nothing came from the peer for twice the heartbeat.
	ErrSilent = errors.New("link: peer is silent")
	// ErrSlow means that a message did not arrive whole within 15 s.
	ErrSlow = errors.New("link: message came too slowly")
	// ErrProtocol means that the peer sent what the protocol does not allow.
	ErrProtocol = errors.New("link: peer broke the protocol")
	// ErrFlood means that the peer sent more pings than anybody needs.
	ErrFlood = errors.New("link: too many pings")
)

// A CloseError, returned by Handle, ends the link as Close does: with a last
// frame if there is one, and a WebSocket close status.
type CloseError struct {
	Status int         // such as websocket.ClosePolicyViolation
	Frame  *wire.Frame // a LineOff, or nil
	Err    error       // the reason; may be nil
}

// Error tells the reason and the status.
func (e *CloseError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%v (close %d)", e.Err, e.Status)
	}
	return fmt.Sprintf("close %d", e.Status)
}

// Unwrap returns the reason.
func (e *CloseError) Unwrap() error { return e.Err }

// violation is a breach of the protocol that the reader has found.
func violation(status int, err error) *CloseError {
	return &CloseError{Status: status, Err: fmt.Errorf("%w: %w", ErrProtocol, err)}
}

var (
	errBinary = errors.New("binary message in a JSON session")
	errText   = errors.New("text message in a binary session")
)

// statusOf says how to close after an error of Handle or of reading a message.
func statusOf(err error) (status int, last *wire.Frame) {
	if c, ok := errors.AsType[*CloseError](err); ok {
		return c.Status, c.Frame
	}
	return websocket.CloseInternalServerErr, nil
}
