package link

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/gorilla/websocket"

	"github.com/dian-im/dian/internal/wire"
)

// readLoop reads messages and handles their frames until the connection ends.
// After an orderly end has begun it reads on, for the peer's close, and handles
// nothing.
func (l *Link) readLoop() {
	for {
		kind, r, err := l.conn.NextReader()
		if err != nil {
			l.readEnded(err)
			return
		}
		start := time.Since(l.born)
		l.watch.message(l, start)
		if l.closing.Load() {
			if _, err := io.Copy(io.Discard, r); err != nil {
				l.readEnded(err)
				return
			}
			continue
		}
		if err := l.readMessage(kind, r); err != nil {
			if broken, ok := errors.AsType[*readError](err); ok {
				l.readEnded(broken.err)
				return
			}
			status, last := statusOf(err)
			l.finish(err, last, status, false)
		}
		if !l.asking {
			l.WakeOthers()
		}
		end := time.Since(l.born)
		l.control.pause(end - start)
		l.watch.waiting(end)
	}
}

// A readError is the connection's, not the message's.
type readError struct{ err error }

func (e *readError) Error() string { return e.err.Error() }

// readEnded turns an error of the connection into the link's end. gorilla reads
// no more after one.
func (l *Link) readEnded(err error) {
	l.WakeOthers() // before it is read on for the peer's close
	if l.closing.Load() {
		l.stopReading(err)
		return
	}
	if c, ok := errors.AsType[*websocket.CloseError](err); ok && c.Code != websocket.CloseAbnormalClosure {
		status := c.Code
		if status == websocket.CloseNoStatusReceived {
			status = websocket.CloseNormalClosure
		}
		l.finish(c, nil, status, true) // the answer to its close
		return
	}
	if status := breach(err); status != 0 {
		l.finish(fmt.Errorf("%w: %w", ErrProtocol, err), nil, status, true)
		drain(l.conn, time.Now().Add(drainTime))
		return
	}
	if found, ok := errors.AsType[*CloseError](err); ok { // by a gate or a handler of ours
		l.finish(found, nil, found.Status, true)
		drain(l.conn, time.Now().Add(drainTime))
		return
	}
	l.kill(fmt.Errorf("link: read: %w", err))
}

// stopReading ends the reading of an orderly end: the peer has closed as well,
// or its side is broken and only the writer can still have something to do.
func (l *Link) stopReading(err error) {
	if _, ok := errors.AsType[*websocket.CloseError](err); !ok {
		drain(l.conn, time.Now().Add(drainTime))
	}
}

// breach returns the close status for errors of gorilla that mean a message
// against RFC 6455, and 0 for those of the network.
func breach(err error) int {
	if errors.Is(err, websocket.ErrReadLimit) {
		return websocket.CloseMessageTooBig
	}
	// They have no type of their own; those of the network are net.Error or io's.
	var timeout interface{ Timeout() bool }
	var closed *websocket.CloseError // 1006: the connection ended without a close
	if errors.As(err, &timeout) || errors.As(err, &closed) || !strings.HasPrefix(err.Error(), "websocket: ") {
		return 0
	}
	return websocket.CloseProtocolError
}

// brokenOff reports whether err means that a peer is there and its messages cannot
// be read any more.
func brokenOff(err error) bool {
	_, found := errors.AsType[*CloseError](err)
	return found || breach(err) != 0
}

// drain reads what the peer is still sending, a little of it and until deadline,
// so that the close on its way is not destroyed by a reset.
func drain(ws *websocket.Conn, deadline time.Time) {
	conn := ws.NetConn()
	if g, ok := conn.(*gate); ok { // which may let nothing through any more
		conn = g.Conn
	}
	conn.SetReadDeadline(deadline)
	_, _ = io.CopyN(io.Discard, conn, drainBytes)
}

// readMessage reads one message whole and handles its frames. Its buffer grows
// with what has arrived, never with what was announced.
func (l *Link) readMessage(kind int, r io.Reader) error {
	switch {
	case l.cfg.JSON && kind != websocket.TextMessage:
		return violation(websocket.CloseUnsupportedData, errBinary)
	case !l.cfg.JSON && kind != websocket.BinaryMessage:
		return violation(websocket.CloseUnsupportedData, errText)
	}
	buf := readBuffers.get()
	defer readBuffers.put(buf)
	frames := decoders.Get().(*wire.Decoder)
	defer decoders.Put(frames)
	var err error
	if *buf, err = readAll((*buf)[:0], r); err != nil {
		return &readError{err}
	}
	l.watch.handling(time.Since(l.born))
	if l.cfg.JSON {
		f, err := wire.DecodeJSON(*buf)
		if err != nil {
			return violation(websocket.CloseInvalidFramePayloadData, err)
		}
		return l.handle(f)
	}
	for msg := *buf; ; {
		f, rest, err := frames.Next(msg)
		if err != nil {
			return violation(websocket.CloseInvalidFramePayloadData, err)
		}
		err = l.handle(f)
		if overwrite {
			frames.Forget()
			clear(msg[:len(msg)-len(rest)])
		}
		if err != nil {
			return err
		}
		if msg = rest; len(msg) == 0 || l.closing.Load() {
			return nil
		}
	}
}

// readAll is io.ReadAll into a buffer that is used again.
func readAll(buf []byte, r io.Reader) ([]byte, error) {
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if err == io.EOF {
			return buf, nil
		}
		if err != nil {
			return buf, err
		}
	}
}

func (l *Link) handle(f *wire.Frame) error {
	switch f.Body.(type) {
	case nil: // of a later version
		return nil
	case *wire.Frame_Ping:
		if !l.control.take(time.Now()) {
			return flooded()
		}
		l.mu.Lock()
		l.pong = l.err == nil
		l.mu.Unlock()
		l.wakeWriter()
		return nil
	case *wire.Frame_Pong:
		if !l.control.take(time.Now()) {
			return flooded()
		}
		return nil
	}
	return l.cfg.Handle(f)
}

func flooded() error {
	return &CloseError{Status: websocket.ClosePolicyViolation, Err: ErrFlood}
}

// gotPing and gotPong are called by gorilla, inside NextReader or Read. Several
// pings between two writes get one pong, as RFC 6455 §5.5.3 allows.
func (l *Link) gotPing(data string) error {
	if !l.control.take(time.Now()) {
		return flooded()
	}
	l.watch.heard(time.Since(l.born))
	l.mu.Lock()
	if l.err == nil {
		l.wsPong = append([]byte{}, data...)
	}
	l.mu.Unlock()
	l.wakeWriter()
	return nil
}

func (l *Link) gotPong(string) error {
	if !l.control.take(time.Now()) {
		return flooded()
	}
	l.watch.heard(time.Since(l.born))
	return nil
}

// A bucket is a budget of controlRate a second with controlBurst at once.
type bucket struct {
	tokens float64
	at     time.Time
}

func (b *bucket) take(now time.Time) bool {
	if b.tokens < controlBurst {
		b.tokens = min(controlBurst, b.tokens+now.Sub(b.at).Seconds()*controlRate)
	}
	b.at = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// pause allows for what has piled up while nothing was read for so long.
func (b *bucket) pause(d time.Duration) {
	if d > time.Second {
		b.tokens += d.Seconds() * controlRate
	}
}
