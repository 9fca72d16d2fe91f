package dian

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/dian-im/dian/internal/wire"
	"github.com/dian-im/dian/internal/x3b"
)

// A source is the content of a buffer or file to be sent: a path, a []byte or an
// io.ReaderAt. It is opened once, and knows the digests of the blocks that were
// read, so that content which changes while it is sent is found (1103).
type source struct {
	// Set by its maker, then only read.
	path string // absolute; "" if it is not a file of ours
	size int64

	mu   sync.RWMutex // held for reading while bytes are read; guards what follows
	r    io.ReaderAt  // nil before open and after close
	file *os.File     // nil if it is not a file of ours
	info os.FileInfo
	shut bool

	hashing sync.Mutex // guards what follows; never held while reading
	sums    []x3b.Sum  // of blocks; valid where have is true
	have    []bool
	run     *blockRun // where the last reader stopped, in the middle of a block

	filling sync.Mutex // one filler at a time
}

// blockRun is the digest of a block's beginning.
type blockRun struct {
	at int64 // absolute offset behind the hashed bytes
	h  x3b.Hasher
}

// sourceError is why a source cannot be sent.
type sourceError struct {
	code   Code
	detail string
	cause  error
}

func (e *sourceError) Error() string { return e.code.Error() + ": " + e.detail }

func changed(detail string) error { return &sourceError{ErrFileError, detail, nil} }

var errSourceShut = errors.New("source is closed")

func newBufferSource(data []byte) *source {
	return &source{size: int64(len(data)), r: bytes.NewReader(data)}
}

func newReaderSource(r io.ReaderAt, size int64) *source { return &source{size: size, r: r} }

// newFileSource looks at a path without opening it, which for a FIFO would wait.
func newFileSource(path string) (*source, error) {
	full, err := filepath.Abs(path)
	if err != nil {
		full = path
	}
	info, err := os.Stat(path)
	if err != nil {
		return &source{path: full}, pathError(err)
	}
	if err := regular(info); err != nil {
		return &source{path: full}, err
	}
	return &source{path: full, size: info.Size(), info: info}, nil
}

func regular(info os.FileInfo) error {
	switch {
	case info.IsDir():
		return changed("a folder, not a file")
	case !info.Mode().IsRegular():
		return changed("not a regular file")
	}
	return nil
}

func pathError(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &sourceError{ErrFileNotFound, "", err}
	}
	return &sourceError{ErrFileRead, "", err}
}

// open opens the file and sees that it is still the one that was looked at.
func (s *source) open() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shut {
		return errSourceShut
	}
	if s.path == "" || s.r != nil {
		return nil
	}
	f, err := os.OpenFile(s.path, os.O_RDONLY|openNonblock, 0)
	if err != nil {
		return pathError(err)
	}
	info, err := f.Stat()
	if err == nil {
		err = regular(info)
	} else {
		err = pathError(err)
	}
	if err == nil && (!os.SameFile(info, s.info) || info.Size() != s.size || !info.ModTime().Equal(s.info.ModTime())) {
		err = changed("changed before it was sent")
	}
	if err != nil {
		f.Close()
		return err
	}
	s.file, s.r, s.info = f, f, info
	return nil
}

// close ends every use of the content: when it returns nothing reads it any more.
func (s *source) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shut = true
	if s.file != nil {
		s.file.Close()
		s.file = nil
	}
	s.r = nil
}

// readAt fills p from offset, or says why that is not possible.
func (s *source) readAt(p []byte, offset int64) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.r == nil {
		return errSourceShut
	}
	n, err := s.r.ReadAt(p, offset)
	switch {
	case n == len(p):
		return nil
	case err == nil, errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return changed("shorter than it was")
	}
	return &sourceError{ErrFileRead, "", err}
}

// check says whether a file is still the one it was at first. touched says that by
// its change time something happened to it of which size and modification time do
// not tell: another mode or name, or other content by somebody who set the times
// back. Only the content can tell these apart.
func (s *source) check() (touched bool, err error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.r == nil {
		return false, errSourceShut
	}
	if s.file == nil {
		return false, nil
	}
	open, err := s.file.Stat()
	if err != nil {
		return false, pathError(err)
	}
	named, err := os.Stat(s.path)
	if err != nil || !os.SameFile(named, s.info) {
		return false, changed("replaced while it was sent")
	}
	if open.Size() != s.size || !open.ModTime().Equal(s.info.ModTime()) {
		return false, changed("changed while it was sent")
	}
	var one [1]byte // some files do not tell their size
	switch n, err := s.file.ReadAt(one[:], s.size); {
	case n > 0:
		return false, changed("longer than it was")
	case !errors.Is(err, io.EOF):
		return false, &sourceError{ErrFileRead, "", err}
	}
	return changeTime(open) != changeTime(s.info), nil
}

// settle sees that what was read is what the file has now: by a last look at it and,
// if it was touched, by reading it again.
func (s *source) settle(again func() error) error {
	for range 3 {
		touched, err := s.check()
		if err != nil || !touched {
			return err
		}
		s.mu.Lock()
		if s.file == nil {
			s.mu.Unlock()
			return errSourceShut
		}
		info, err := s.file.Stat() // before the reading: what comes later is seen
		if err != nil {
			s.mu.Unlock()
			return pathError(err)
		}
		s.info = info
		s.mu.Unlock()
		if info.Size() != s.size {
			return changed("changed while it was sent")
		}
		if err := again(); err != nil {
			return err
		}
	}
	return changed("changes all the time")
}

// whole reads everything, for content that travels in the offer.
func (s *source) whole() ([]byte, error) {
	read := func(b []byte) error {
		if len(b) == 0 {
			return nil
		}
		return s.readAt(b, 0)
	}
	b := make([]byte, s.size)
	if err := read(b); err != nil {
		return nil, err
	}
	return b, s.settle(func() error {
		now := make([]byte, s.size)
		if err := read(now); err != nil {
			return err
		}
		if !bytes.Equal(b, now) {
			return changed("content changed while it was sent")
		}
		return nil
	})
}

// learn notes the digest of block i, or finds that it is another one than before.
func (s *source) learn(i int64, sum x3b.Sum) error {
	s.hashing.Lock()
	defer s.hashing.Unlock()
	for int64(len(s.sums)) <= i {
		s.sums, s.have = append(s.sums, x3b.Sum{}), append(s.have, false)
	}
	if s.have[i] && s.sums[i] != sum {
		return changed("content changed while it was sent")
	}
	s.sums[i], s.have[i] = sum, true
	return nil
}

func (s *source) knows(i int64) bool {
	s.hashing.Lock()
	defer s.hashing.Unlock()
	return i < int64(len(s.have)) && s.have[i]
}

// fill finds the digests of the blocks below end that no reader has come by; with all,
// it reads the others once more and compares.
func (s *source) fill(ctx context.Context, end int64, all bool) error {
	s.filling.Lock()
	defer s.filling.Unlock()
	var buf []byte
	for start := int64(0); start < end; start += x3b.BlockSize {
		if err := ctx.Err(); err != nil {
			return err
		}
		i := start / x3b.BlockSize
		if !all && s.knows(i) {
			continue
		}
		if buf == nil {
			buf = make([]byte, 256<<10)
		}
		var h x3b.Hasher
		if err := s.hash(&h, buf, start, min(start+x3b.BlockSize, s.size)); err != nil {
			return err
		}
		if err := s.learn(i, blockSum(&h)); err != nil {
			return err
		}
	}
	return nil
}

// hash hashes the bytes from start to end, which lie in one block.
func (s *source) hash(h *x3b.Hasher, buf []byte, start, end int64) error {
	for start < end {
		p := buf[:min(int64(len(buf)), end-start)]
		if err := s.readAt(p, start); err != nil {
			return err
		}
		h.Write(p)
		start += int64(len(p))
	}
	return nil
}

// blockSum is the digest of the one block that h has, whole or not.
func blockSum(h *x3b.Hasher) x3b.Sum {
	if b := h.Blocks(); len(b) > 0 {
		return b[0]
	}
	return h.Tail()
}

// digest returns the digest of the whole content, after a last look at the file.
func (s *source) digest(ctx context.Context) (*wire.Digest, error) {
	if err := s.fill(ctx, s.size, false); err != nil {
		return nil, err
	}
	if err := s.settle(func() error { return s.fill(ctx, s.size, true) }); err != nil {
		return nil, err
	}
	s.hashing.Lock()
	defer s.hashing.Unlock()
	sum := x3b.Of(s.sums[:(s.size+x3b.BlockSize-1)/x3b.BlockSize])
	return &wire.Digest{Algorithm: wire.DigestX3B, Value: sum[:]}, nil
}

// A sourceReader reads a piece of a source for one lane and hashes it on the way,
// while the bytes are in the processor's cache.
type sourceReader struct {
	s        *source
	at, end  int64
	run      *blockRun
	progress func(offset int64) // told after each read

	mu   sync.Mutex // guards shut and err; held while reading
	shut bool
	err  error // the source's fault
}

func (s *source) reader(offset, length int64, progress func(int64)) *sourceReader {
	return &sourceReader{s: s, at: offset, end: offset + length, progress: progress}
}

// begin finds the digest's state for the block that the reader starts in.
func (r *sourceReader) begin() error {
	r.s.hashing.Lock()
	run := r.s.run
	r.s.run = nil
	r.s.hashing.Unlock()
	if run == nil || run.at != r.at {
		run = &blockRun{at: r.at}
		if start := r.at - r.at%x3b.BlockSize; start < r.at {
			if err := r.s.hash(&run.h, make([]byte, 256<<10), start, r.at); err != nil {
				return err
			}
		}
	}
	r.run = run
	return nil
}

// Read reads what comes next, never over the end of a block.
func (r *sourceReader) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n, err := r.read(p)
	if _, ours := errors.AsType[*sourceError](err); ours && r.err == nil {
		r.err = err
	}
	return n, err
}

func (r *sourceReader) read(p []byte) (int, error) {
	switch {
	case r.err != nil:
		return 0, r.err
	case r.shut:
		return 0, errSourceShut
	case r.at == r.end:
		return 0, io.EOF
	}
	if r.run == nil {
		if err := r.begin(); err != nil {
			return 0, err
		}
	}
	next := min(r.end, r.at-r.at%x3b.BlockSize+x3b.BlockSize)
	p = p[:min(int64(len(p)), next-r.at)]
	if err := r.s.readAt(p, r.at); err != nil {
		return 0, err
	}
	r.run.h.Write(p)
	block := r.at / x3b.BlockSize
	r.at += int64(len(p))
	r.run.at = r.at
	if r.at%x3b.BlockSize == 0 || r.at == r.s.size {
		if err := r.s.learn(block, blockSum(&r.run.h)); err != nil {
			return 0, err
		}
		if r.at%x3b.BlockSize == 0 {
			r.run.h = x3b.Hasher{}
		}
	}
	r.progress(r.at)
	return len(p), nil
}

// Close ends the reading; when it returns nothing is read any more.
func (r *sourceReader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.shut && r.run != nil {
		r.s.hashing.Lock()
		r.s.run = r.run
		r.s.hashing.Unlock()
	}
	r.shut = true
	return nil
}

// failure returns the source's own fault, if it had one.
func (r *sourceReader) failure() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}
