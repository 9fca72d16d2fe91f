package link

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"time"

	"github.com/gorilla/websocket"

	"github.com/dian-im/dian/internal/wire"
)

var (
	pingFrame = &wire.Frame{Body: &wire.Frame_Ping{Ping: &wire.Ping{}}}
	pongFrame = &wire.Frame{Body: &wire.Frame_Pong{Pong: &wire.Pong{}}}
)

// Send queues f, encoded at once, so that the caller may change it afterwards.
// It never waits for the connection. Frames go out in the order of Send. Errors:
// ErrFull, ErrClosed, and those of wire.AppendBinary and wire.AppendJSON; the
// frame was not taken then.
func (l *Link) Send(f *wire.Frame) error {
	idle, err := l.queue(f, true)
	if err == nil && idle {
		l.wakeWriter()
	}
	return err
}

// queue adds f to what the writer takes next, and reports whether the writer has to
// be woken for that. With now somebody does it at once, otherwise it may be later.
func (l *Link) queue(f *wire.Frame, now bool) (idle bool, err error) {
	var text []byte
	if l.cfg.JSON {
		b := readBuffers.get()
		defer readBuffers.put(b)
		var err error
		if *b, err = wire.AppendJSON((*b)[:0], f); err != nil {
			return false, fmt.Errorf("link: encode: %w", err)
		}
		text = *b
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return false, ErrClosed
	}
	first := l.out.frames == 0
	if err := l.addLocked(f, text); err != nil {
		return false, err
	}
	idle = first || now && l.later
	l.later = !now && (first || l.later)
	return idle, nil
}

// SendAlone queues f as Send does, as a message that it shares with nothing sent
// later: a Welcome, because who reads it has no link yet.
func (l *Link) SendAlone(f *wire.Frame) error {
	if err := l.Send(f); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.out.sealed = true
	return nil
}

func (l *Link) addLocked(f *wire.Frame, text []byte) error {
	if l.out.frames+l.flying.frames >= l.cfg.QueueFrames {
		return ErrFull
	}
	before, was := l.out, l.out.size()
	limit := l.cfg.QueueBytes - l.flying.size()
	var err error
	if l.cfg.JSON {
		err = l.out.addMessage(text, limit)
	} else if err = l.out.addBinary(f, limit); err != nil && err != ErrFull {
		return fmt.Errorf("link: encode: %w", err)
	}
	if err == nil && !l.cfg.Room.Take(l.out.size()-was, before.frames+l.flying.frames == 0) {
		l.out.rewind(before, was)
		return ErrFull
	}
	return err
}

// ownLocked queues a frame of the link's own, whatever the queue holds: a Ping,
// a coalesced Pong or the last frame, so at most one per batch.
func (l *Link) ownLocked(f *wire.Frame) {
	const noLimit = int(^uint(0) >> 1)
	was := l.out.size()
	if !l.cfg.JSON {
		_ = l.out.addBinary(f, noLimit) // fails only for a frame that cannot be encoded
	} else if text, err := wire.EncodeJSON(f); err == nil {
		_ = l.out.addMessage(text, noLimit)
	}
	l.cfg.Room.Take(l.out.size()-was, true)
}

// wakeWriter sees that what is queued is written: by the writer that is at it, or by
// a new one. An idle link has none.
func (l *Link) wakeWriter() {
	l.mu.Lock()
	begin := l.running && !l.atWork && !l.wrote
	l.atWork = l.atWork || begin
	l.mu.Unlock()
	if begin {
		go l.write()
	}
}

// write is the writer: it writes until nothing is queued, or the link's end.
func (l *Link) write() {
	// Whoever woke us is often about to send more: let it, so that one write takes
	// all of it.
	runtime.Gosched()
	for {
		l.writing.Lock()
		over, err := l.writeQueued(0)
		l.writing.Unlock()
		if err != nil {
			l.writeFailed(err)
		}
		l.mu.Lock()
		if over || err != nil || l.dead {
			l.wroteLocked()
		}
		if l.wrote || l.idleLocked() {
			l.atWork = false
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
	}
}

// writeFailed ends the link, unless its reader is ending it after a broken message,
// which gorilla calls ErrCloseSent.
func (l *Link) writeFailed(err error) {
	if err == websocket.ErrCloseSent {
		return
	}
	end := l.kill
	if failed, ok := errors.AsType[net.Error](err); ok && failed.Timeout() {
		end = l.abandon
	}
	end(fmt.Errorf("link: write: %w", err))
}

// wroteLocked says that nothing is written any more.
func (l *Link) wroteLocked() {
	if !l.wrote {
		l.wrote = true
		close(l.written)
	}
}

// beat is the function of the heartbeat's timer: it queues a Ping when there was
// nothing to write for so long.
func (l *Link) beat() {
	idle := time.Duration(0) // as long as somebody writes
	if l.writing.TryLock() {
		idle = time.Since(l.sent)
		l.writing.Unlock()
	}
	l.mu.Lock()
	if l.err != nil {
		l.mu.Unlock()
		return
	}
	ping := idle >= l.cfg.Heartbeat
	if ping {
		l.ownLocked(pingFrame)
		idle = 0
	}
	l.heartbeat.Reset(l.cfg.Heartbeat - idle)
	l.mu.Unlock()
	if ping {
		l.wakeWriter()
	}
}

// nowBytes is the largest that somebody writes in the writer's place, and soonAfter
// the time after a write in which the writer does it, who gathers what comes.
const (
	nowBytes  = 16 << 10
	soonAfter = 100 * time.Microsecond
)

// Push is Send for who is alone with what it sends, and in a hurry: it writes at once
// in the writer's place, which saves waking it, if that is sure not to wait for the
// peer. Who pushes in quick succession lets the writer gather.
func (l *Link) Push(f *wire.Frame) error {
	idle, err := l.queue(f, true)
	if err == nil && idle {
		l.flush(soonAfter)
	}
	return err
}

// flush gets what is queued on its way: by itself if it is little, nobody else is
// writing, the last write is some time ago and the connection takes it without a
// wait; otherwise it wakes the writer.
func (l *Link) flush(ago time.Duration) {
	if !l.writing.TryLock() {
		l.wakeWriter()
		return
	}
	var err error
	if ago == 0 || time.Since(l.sent) > ago {
		_, queued := l.Queued()
		if most := l.calm.room(queued); most > 0 {
			_, err = l.writeQueued(most)
		}
	}
	l.writing.Unlock()
	switch {
	case err != nil:
		l.writeFailed(err)
	case !l.idle():
		l.wakeWriter()
	}
}

func (l *Link) idle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.idleLocked()
}

func (l *Link) idleLocked() bool {
	return l.out.frames == 0 && !l.pong && l.wsPong == nil && l.status == 0
}

// writeQueued writes all that is queued at its beginning. In an orderly end it
// adds the last frame and the close, and reports that it is over. With most > 0 it
// does nothing if there is more to do than one message of so many bytes.
func (l *Link) writeQueued(most int) (ended bool, err error) {
	l.mu.Lock()
	if most > 0 && (l.err != nil || l.pong || l.wsPong != nil || l.out.messages() != 1 || l.out.size() > most) {
		l.mu.Unlock()
		return false, nil
	}
	if l.pong {
		l.pong = false
		l.ownLocked(pongFrame)
	}
	wsPong := l.wsPong
	l.wsPong = nil
	status := l.status
	if status != 0 && l.last != nil {
		l.ownLocked(l.last)
		l.last = nil
	}
	l.out, l.flying = batch{starts: l.flying.starts[:0]}, l.out
	l.later = false
	l.mu.Unlock()

	err = l.writeFlying()

	l.mu.Lock()
	l.forgetLocked(&l.flying)
	l.mu.Unlock()
	if err != nil {
		return false, err
	}
	if wsPong != nil {
		l.sent = time.Now()
		if err := l.conn.WriteControl(websocket.PongMessage, wsPong, l.sent.Add(l.cfg.WriteTimeout)); err != nil {
			return false, err
		}
	}
	if status == 0 {
		return false, nil
	}
	return true, l.conn.WriteControl(websocket.CloseMessage,
		websocket.FormatCloseMessage(status, ""), time.Now().Add(closeTime))
}

// writeFlying writes the messages of the flying batch. Only the writer changes
// that batch, so it reads it without the lock.
func (l *Link) writeFlying() error {
	kind := websocket.BinaryMessage
	if l.cfg.JSON {
		kind = websocket.TextMessage
	}
	for i := range l.flying.messages() {
		m := l.flying.message(i)
		l.sent = time.Now()
		l.conn.SetWriteDeadline(l.sent.Add(l.cfg.WriteTimeout))
		if err := l.conn.WriteMessage(kind, m); err != nil {
			return err
		}
		if i+1 < l.flying.messages() {
			l.mu.Lock()
			l.flying.gone += len(m) // room for others, before the rest is written
			l.cfg.Room.Give(len(m))
			l.mu.Unlock()
		}
	}
	return nil
}
