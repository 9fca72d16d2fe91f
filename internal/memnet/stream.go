package memnet

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// A stream is one direction of a connection.
type stream struct {
	size int    // of the buffer
	cut  func() // cuts the connection; called without mu

	mu      sync.Mutex
	changed chan struct{} // closed and made anew when anything below changes; nil: nobody waits
	chunks  []chunk       // what is under way, the oldest first
	held    int           // bytes in chunks

	finished error // not nil: nothing more is written; says what a writer gets
	deserted error // not nil: nobody reads any more; says what a reader gets
	broken   error // not nil: cut; both get it at once
	readBy   time.Time
	writeBy  time.Time

	// Faults.
	stalled bool
	lost    bool
	delay   time.Duration
	budget  int64 // bytes until the cut; negative: none is planned
}

// A chunk is what one write has put into the stream.
type chunk struct {
	data []byte
	at   time.Time // when it arrives
}

func newStream(size int) *stream { return &stream{size: size, budget: -1} }

// changedLocked wakes everybody who waits.
func (s *stream) changedLocked() {
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// waitLocked waits, without the lock, until something changes or the earliest of
// the given times has come. A zero time does not count.
func (s *stream) waitLocked(times ...time.Time) {
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	changed := s.changed
	var earliest time.Time
	for _, t := range times {
		if !t.IsZero() && (earliest.IsZero() || t.Before(earliest)) {
			earliest = t
		}
	}
	s.mu.Unlock()
	defer s.mu.Lock()
	if earliest.IsZero() {
		<-changed
		return
	}
	timer := time.NewTimer(time.Until(earliest))
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
	}
}

func passed(deadline time.Time) bool {
	return !deadline.IsZero() && !time.Now().Before(deadline)
}

func (s *stream) read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.deserted != nil:
			return 0, s.deserted
		case passed(s.readBy):
			return 0, os.ErrDeadlineExceeded
		case len(p) == 0:
			return 0, nil
		}
		var arrival time.Time
		if !s.stalled {
			if n := s.takeLocked(p); n > 0 {
				s.changedLocked()
				return n, nil
			}
			if len(s.chunks) > 0 {
				arrival = s.chunks[0].at
			}
		}
		switch {
		case s.broken != nil && arrival.IsZero():
			return 0, s.broken
		case s.finished != nil && len(s.chunks) == 0 && !s.stalled && !s.lost:
			return 0, io.EOF
		}
		s.waitLocked(s.readBy, arrival)
	}
}

// takeLocked moves what has arrived into p.
func (s *stream) takeLocked(p []byte) (n int) {
	now := time.Now()
	for n < len(p) && len(s.chunks) > 0 && !s.chunks[0].at.After(now) {
		c := &s.chunks[0]
		m := copy(p[n:], c.data)
		n += m
		if c.data = c.data[m:]; len(c.data) == 0 {
			s.chunks = s.chunks[1:]
		}
	}
	s.held -= n
	return n
}

func (s *stream) write(p []byte) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case n == len(p) && n > 0:
			return n, nil
		case s.finished != nil:
			return n, s.finished
		case s.broken != nil:
			return n, s.broken
		case s.deserted != nil && !s.lost && !s.stalled: // otherwise nobody has told us
			return n, syscall.EPIPE
		case passed(s.writeBy):
			return n, os.ErrDeadlineExceeded
		case n == len(p):
			return n, nil
		}
		if room := s.size - s.held; room > 0 || s.lost {
			if cut := s.putLocked(p, &n, room); cut {
				s.mu.Unlock()
				s.cut()
				s.mu.Lock()
			}
			continue
		}
		s.waitLocked(s.writeBy)
	}
}

// putLocked takes bytes from p[*n:], as far as room and the budget go, and
// reports whether the budget is used up.
func (s *stream) putLocked(p []byte, n *int, room int) (cut bool) {
	part := p[*n:]
	if !s.lost {
		part = part[:min(len(part), room)]
	}
	if s.budget >= 0 && int64(len(part)) >= s.budget {
		part, cut = part[:s.budget], true
		s.budget = -1
	} else if s.budget >= 0 {
		s.budget -= int64(len(part))
	}
	*n += len(part)
	if len(part) > 0 && !s.lost {
		at := time.Now().Add(s.delay)
		if last := len(s.chunks) - 1; last >= 0 && s.chunks[last].at.After(at) {
			at = s.chunks[last].at // nothing overtakes
		}
		s.chunks = append(s.chunks, chunk{append([]byte(nil), part...), at})
		s.held += len(part)
		s.changedLocked()
	}
	return cut
}

// finish ends the writing and reports whether it had not ended before.
func (s *stream) finish(err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.finished
	if was != net.ErrClosed {
		s.finished = err
	}
	s.changedLocked()
	return was != net.ErrClosed
}

// abandon ends the reading: what is under way is thrown away.
func (s *stream) abandon() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deserted = net.ErrClosed
	s.chunks, s.held = nil, 0
	s.changedLocked()
}

// breakOff cuts the stream. With keep, what is under way still arrives before
// the reader gets the error.
func (s *stream) breakOff(err error, keep bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !keep {
		s.chunks, s.held = nil, 0
	}
	if s.broken == nil {
		s.broken = err
	}
	s.changedLocked()
}

func (s *stream) setDeadline(field *time.Time, t time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	*field = t
	s.changedLocked()
	return field == &s.readBy && s.deserted == nil || field == &s.writeBy && s.finished != net.ErrClosed
}
