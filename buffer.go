package dian

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"sync"

	"github.com/dian-im/dian/internal/inbox"
	"github.com/dian-im/dian/internal/wire"
	"github.com/dian-im/dian/internal/x3b"
)

const (
	bufferBudget = 512 << 20 // bytes of all buffers that are being received
	bufferFirst  = 64 << 10  // what a buffer begins with; it grows as bytes arrive
)

// A store is where the bytes of one incoming transfer go.
type store interface {
	// WriteAt appends p, which has to begin where the store ends.
	WriteAt(p []byte, offset int64) error
	Offset() int64
	// Mark makes what is here survive this process, if that is possible.
	Mark() error
	// Verify checks the content against a digest; nil checks the length alone.
	Verify(d *wire.Digest) error
	// Close ends the writing and keeps what is here, Drop removes it.
	Close() error
	Drop() error
}

var errStoreEnded = errors.New("store is closed")

// partStore is a part of the inbox.
type partStore struct{ *inbox.Part }

func (s partStore) WriteAt(p []byte, offset int64) error {
	_, err := s.Part.WriteAt(p, offset)
	return err
}

func (s partStore) Verify(d *wire.Digest) error {
	return s.Part.Verify(d.GetAlgorithm(), d.GetValue())
}

// memoryStore is a buffer in memory. It is never larger than about twice what has
// arrived, whatever size was declared.
type memoryStore struct {
	size int64

	mu    sync.Mutex // guards what follows
	data  []byte
	ended bool
}

func (s *memoryStore) WriteAt(p []byte, offset int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch n := int64(len(s.data)); {
	case s.ended:
		return errStoreEnded
	case offset != n:
		return inbox.ErrOffset
	case int64(len(p)) > s.size-n:
		return inbox.ErrTooMuch
	}
	if need := len(s.data) + len(p); need > cap(s.data) {
		grown := make([]byte, len(s.data), min(max(need, 2*cap(s.data), bufferFirst), int(s.size)))
		copy(grown, s.data)
		s.data = grown
	}
	s.data = append(s.data, p...)
	return nil
}

func (s *memoryStore) Offset() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int64(len(s.data))
}

func (s *memoryStore) Mark() error { return nil } // nothing of it survives

func (s *memoryStore) Verify(d *wire.Digest) error {
	return verifyBytes(s.bytes(), s.size, d)
}

func (s *memoryStore) bytes() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.data
}

func (s *memoryStore) Close() error { return s.Drop() }

func (s *memoryStore) Drop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.data, s.ended = nil, true
	return nil
}

// verifyBytes checks content that is in memory.
func verifyBytes(data []byte, size int64, d *wire.Digest) error {
	if int64(len(data)) != size {
		return inbox.ErrDigest
	}
	var sum []byte
	switch d.GetAlgorithm() {
	case "":
		return nil
	case wire.DigestX3B:
		s := x3b.Bytes(data)
		sum = s[:]
	case wire.DigestSHA256:
		s := sha256.Sum256(data)
		sum = s[:]
	default:
		return inbox.ErrAlgorithm
	}
	if !bytes.Equal(sum, d.GetValue()) {
		return inbox.ErrDigest
	}
	return nil
}

// writerStore passes the bytes on to the application's writer. It cannot take
// them back, so it lives as long as its process wants to go on.
type writerStore struct {
	size int64
	sha  hash.Hash // nil if no SHA-256 is to be checked

	mu   sync.Mutex // guards what follows; held while the application writes
	w    io.Writer
	x3b  x3b.Hasher
	done bool
	err  error // the writer's, final
}

func newWriterStore(w io.Writer, size int64, d *wire.Digest) *writerStore {
	s := &writerStore{w: w, size: size}
	if d.GetAlgorithm() == wire.DigestSHA256 {
		s.sha = sha256.New()
	}
	return s
}

// writerError is what the application's writer said.
type writerError struct{ error }

func (e writerError) Unwrap() error { return e.error }

func (s *writerStore) WriteAt(p []byte, offset int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.err != nil:
		return s.err
	case s.done:
		return errStoreEnded
	case offset != s.x3b.Len():
		return inbox.ErrOffset
	case int64(len(p)) > s.size-offset:
		return inbox.ErrTooMuch
	}
	n, err := s.w.Write(p)
	if err == nil && n != len(p) {
		err = io.ErrShortWrite
	}
	if err != nil {
		s.err = writerError{err}
		return s.err
	}
	s.x3b.Write(p)
	if s.sha != nil {
		s.sha.Write(p)
	}
	return nil
}

func (s *writerStore) Offset() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.x3b.Len()
}

func (s *writerStore) Mark() error { return nil }

func (s *writerStore) Verify(d *wire.Digest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.x3b.Len() != s.size {
		return inbox.ErrDigest
	}
	var sum []byte
	switch d.GetAlgorithm() {
	case "":
		return nil
	case wire.DigestX3B:
		x := s.x3b.Sum()
		sum = x[:]
	case wire.DigestSHA256:
		if s.sha == nil {
			return inbox.ErrAlgorithm // it was not known when the first byte came
		}
		sum = s.sha.Sum(nil)
	default:
		return inbox.ErrAlgorithm
	}
	if !bytes.Equal(sum, d.GetValue()) {
		return inbox.ErrDigest
	}
	return nil
}

func (s *writerStore) Close() error { return nil } // goes on where it stands

func (s *writerStore) Drop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done = true
	return nil
}

// A budget is a number of bytes that are lent out, in the order of asking.
type budget struct {
	mu      sync.Mutex // guards what follows
	free    int64
	waiting []*loan
}

type loan struct {
	n    int64
	have chan struct{} // closed when it is granted
}

// take waits until n bytes are free. n must not be larger than the budget.
func (b *budget) take(ctx context.Context, n int64) bool {
	b.mu.Lock()
	if len(b.waiting) == 0 && n <= b.free {
		b.free -= n
		b.mu.Unlock()
		return true
	}
	l := &loan{n, make(chan struct{})}
	b.waiting = append(b.waiting, l)
	b.mu.Unlock()
	select {
	case <-l.have:
		return true
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-l.have:
		b.giveLocked(n)
	default:
		for i, w := range b.waiting {
			if w == l {
				b.waiting = append(b.waiting[:i:i], b.waiting[i+1:]...)
				break
			}
		}
		b.giveLocked(0) // it may have stood in front of a smaller one
	}
	return false
}

func (b *budget) give(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.giveLocked(n)
}

func (b *budget) giveLocked(n int64) {
	b.free += n
	for len(b.waiting) > 0 && b.waiting[0].n <= b.free {
		l := b.waiting[0]
		b.waiting = b.waiting[1:]
		b.free -= l.n
		close(l.have)
	}
}
