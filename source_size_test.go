package dian

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/dian-im/dian/internal/x3b"
)

// endless is content of any size that counts what is read of it, and where.
type endless struct {
	size      int64
	read      int64
	low, high int64
}

func (e *endless) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > e.size {
		return 0, errors.New("outside")
	}
	n := min(int64(len(p)), e.size-off)
	clear(p[:n])
	if e.read == 0 || off < e.low {
		e.low = off
	}
	e.read += n
	e.high = max(e.high, off+n)
	if n < int64(len(p)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

// A sender that goes on near the end of 1 TiB reads, hashes and tells the right bytes;
// the digest is that of the whole (case 70). What the blocks before give is known.
func TestSourcesOfATebibyte(t *testing.T) {
	one := x3b.New()
	one.Write(make([]byte, x3b.BlockSize))
	block := one.Blocks()[0]
	for _, size := range []int64{1<<31 - 1, 1 << 31, 1<<31 + 1, 1<<32 - 1, 1 << 32, 1<<32 + 1, 5 << 30, 1<<40 - 1, 1 << 40, 1<<40 + 1, 1<<40 + x3b.BlockSize - 1} {
		content := &endless{size: size}
		s := newReaderSource(content, size)
		blocks := (size + x3b.BlockSize - 1) / x3b.BlockSize
		known := blocks - 3
		for i := range known {
			if err := s.learn(i, block); err != nil {
				t.Fatal(err)
			}
		}
		offset := known*x3b.BlockSize + 12_345
		var told int64
		r := s.reader(offset, size-offset, func(at int64) {
			if at <= told || at > size {
				t.Errorf("%d bytes: told of %d after %d", size, at, told)
			}
			told = at
		})
		n, err := io.Copy(io.Discard, r)
		if err := errors.Join(err, r.Close()); err != nil || n != size-offset || told != size {
			t.Errorf("%d bytes: read %d from %d, told of %d, %v", size, n, offset, told, err)
		}
		d, err := s.digest(t.Context())
		if err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		var sums []x3b.Sum
		for range size / x3b.BlockSize {
			sums = append(sums, block)
		}
		if rest := size % x3b.BlockSize; rest > 0 {
			tail := x3b.New()
			tail.Write(make([]byte, rest))
			sums = append(sums, tail.Tail())
		}
		if want := x3b.Of(sums); !bytes.Equal(d.Value, want[:]) {
			t.Errorf("%d bytes: digest %x, want %x", size, d.Value, want)
		}
		if content.low != known*x3b.BlockSize || content.high != size || content.read != size-known*x3b.BlockSize {
			t.Errorf("%d bytes: read %d of them, from %d to %d", size, content.read, content.low, content.high)
		}
		// A byte that was not there before is found, so is one that is missing.
		short := newReaderSource(&endless{size: size - 1}, size)
		if _, err := io.Copy(io.Discard, short.reader(size-100, 100, func(int64) {})); err == nil {
			t.Errorf("%d bytes: a source that is a byte short is read", size)
		}
	}
}
