package link

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// What the reader is doing.
const (
	isWaiting  = iota // for a message, since it handled the last one
	inMessage         // between a message's first and last byte
	isHandling        // a message's frames; the peer's silence does not count
)

// A watch ends a link whose peer is silent, sends a message too slowly, or does
// not let an orderly end finish. One timer does all of it, so that under load the
// reader only stores a number for each message, where read deadlines would have
// to be moved twice per message.
//
// All times are durations since the link was born.
type watch struct {
	reader atomic.Int64 // when it began what it is doing << 2 | what that is
	armed  atomic.Int64 // when the timer will go off
	limit  atomic.Int64 // when an orderly end must be over; 0: none has begun

	mu    sync.Mutex
	timer *time.Timer // nil before start
	over  bool
}

func (w *watch) start(l *Link) {
	w.waiting(time.Since(l.born))
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(math.MaxInt64, func() { w.look(l) })
	w.armLocked(l)
}

func (w *watch) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	w.timer.Stop()
}

func (w *watch) set(now time.Duration, what int64) { w.reader.Store(int64(now)<<2 | what) }

func (w *watch) waiting(now time.Duration)  { w.set(now, isWaiting) }
func (w *watch) handling(now time.Duration) { w.set(now, isHandling) }

// heard notes a control message. It does not give a message under way more time.
func (w *watch) heard(now time.Duration) {
	if w.reader.Load()&3 == isWaiting {
		w.waiting(now)
	}
}

// message notes a message's beginning.
func (w *watch) message(l *Link, now time.Duration) {
	w.set(now, inMessage)
	// Stored before armed is loaded, and the other way round in armLocked: one of
	// the two sees the other.
	if w.armed.Load() > int64(now+messageTime) {
		w.arm(l)
	}
}

// closeBy notes when an orderly end must be over.
func (w *watch) closeBy(l *Link, at time.Duration) {
	w.limit.Store(int64(at))
	w.arm(l)
}

func (w *watch) arm(l *Link) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil && !w.over {
		w.armLocked(l)
	}
}

func (w *watch) armLocked(l *Link) {
	for {
		at, _ := w.due(l)
		w.armed.Store(int64(at))
		if again, _ := w.due(l); again >= at {
			w.timer.Reset(at - time.Since(l.born))
			return
		}
	}
}

// due tells when the link is to be ended, as things stand, and why.
func (w *watch) due(l *Link) (time.Duration, error) {
	state := w.reader.Load()
	since := time.Duration(state >> 2)
	at, why := since+2*l.cfg.Heartbeat, ErrSilent
	switch state & 3 {
	case inMessage:
		at, why = since+messageTime, ErrSlow
	case isHandling:
		at, why = time.Since(l.born)+l.cfg.Heartbeat, nil
	}
	if limit := time.Duration(w.limit.Load()); limit != 0 {
		return limit, ErrClosed
	}
	return at, why
}

// look is the timer's function.
func (w *watch) look(l *Link) {
	w.mu.Lock()
	if w.over {
		w.mu.Unlock()
		return
	}
	at, why := w.due(l)
	if at > time.Since(l.born) {
		w.armLocked(l)
		w.mu.Unlock()
		return
	}
	w.mu.Unlock()
	if why == ErrSilent {
		l.abandon(why)
		return
	}
	l.kill(why)
}
