package inbox

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/dian-im/dian/internal/x3b"
)

// zeros is the digest of n bytes of nothing, computed from that of one block.
func zeros(n int64) x3b.Sum {
	one := x3b.New()
	one.Write(make([]byte, x3b.BlockSize))
	var sums []x3b.Sum
	for range n / x3b.BlockSize {
		sums = append(sums, one.Blocks()[0])
	}
	if rest := n % x3b.BlockSize; rest > 0 {
		tail := x3b.New()
		tail.Write(make([]byte, rest))
		sums = append(sums, tail.Tail())
	}
	return x3b.Of(sums)
}

// The last blocks of files around 2^31, 2^32, 5 GiB and 1 TiB, on a part that an
// earlier life has received up to there: offsets, journal, digest and size are right
// (case 70). What came before is a hole in a sparse file.
func TestHugePartsGoOnAndAreKept(t *testing.T) {
	one := x3b.New()
	one.Write(make([]byte, x3b.BlockSize))
	block := one.Blocks()[0]
	for _, size := range []int64{1<<31 - 1, 1 << 31, 1<<31 + 1, 1<<32 - 1, 1 << 32, 1<<32 + 1, 5 << 30, 1<<40 - 1, 1 << 40, 1<<40 + 1} {
		dir := t.TempDir()
		b := open(t, dir, Options{})
		p := begin(t, b, testKey(1), Info{Size: size})
		stem := p.stem
		p.Drop()
		b.Close()
		at := (size/x3b.BlockSize - 2) * x3b.BlockSize
		if err := errors.Join(os.WriteFile(filepath.Join(dir, stem+".part"), nil, 0o600), os.Truncate(filepath.Join(dir, stem+".part"), at)); err != nil {
			if errors.Is(err, syscall.EFBIG) {
				t.Logf("%d bytes are too many for this file system", size)
				continue
			}
			t.Fatal(err)
		}
		r := &record{key: testKey(1), info: Info{Size: size}, offset: at}
		for range at / x3b.BlockSize {
			r.blocks = append(r.blocks, block)
		}
		if err := os.WriteFile(filepath.Join(dir, stem+".journal"), r.encode(), 0o600); err != nil {
			t.Fatal(err)
		}
		b = open(t, dir, Options{})
		lookup(t, b, testKey(1), Entry{State: Partial, Offset: at, Size: size}, true)
		p = begin(t, b, testKey(1), Info{Size: size})
		buf := make([]byte, 1<<20)
		for p.Offset() < size {
			if n, err := p.WriteAt(buf[:min(int64(len(buf)), size-p.Offset())], p.Offset()); err != nil {
				t.Fatalf("%d bytes: write at %d = %d, %v", size, p.Offset(), n, err)
			}
			if p.Offset() == at+x3b.BlockSize { // once more from a journal of now
				if err := errors.Join(p.Mark(), p.Close()); err != nil {
					t.Fatal(err)
				}
				lookup(t, b, testKey(1), Entry{State: Partial, Offset: at + x3b.BlockSize, Size: size}, true)
				p = begin(t, b, testKey(1), Info{Size: size})
			}
		}
		if _, err := p.Write([]byte{0}); !errors.Is(err, ErrTooMuch) {
			t.Errorf("%d bytes: one more = %v", size, err)
		}
		want := zeros(size)
		wrong := want
		wrong[0]++
		wantErr(t, "Verify of another digest", p.Verify("x3b", wrong[:]), ErrDigest)
		if err := p.Verify("x3b", want[:]); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
		f, err := p.Keep()
		if err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		if info, err := os.Stat(f.Path()); err != nil || info.Size() != size {
			t.Errorf("%d bytes: the file has %d, %v", size, info.Size(), err)
		}
		lookup(t, b, testKey(1), Entry{State: Have, Offset: size, Size: size}, true)
		b.Close()
		b = open(t, dir, Options{})
		lookup(t, b, testKey(1), Entry{State: Have, Offset: size, Size: size}, true)
		os.Remove(f.Path())
	}
}
