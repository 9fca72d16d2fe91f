package inbox

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
)

// benchDir is in memory where that is possible, so that a disk is not measured.
func benchDir(b *testing.B) string {
	dir, err := os.MkdirTemp("/dev/shm", "inbox")
	if err != nil {
		return b.TempDir()
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// BenchmarkWrite sets the inbox beside a bare file that takes the same writes; both
// begin anew every GiB.
func BenchmarkWrite(b *testing.B) {
	const chunk, most = 256 << 10, 1 << 30
	data := make([]byte, chunk)
	b.Run("bare", func(b *testing.B) {
		path := filepath.Join(benchDir(b), "bare")
		b.SetBytes(chunk)
		b.ReportAllocs()
		var f *os.File
		var at int64 = most
		for b.Loop() {
			if at == most {
				f.Close()
				os.Remove(path)
				var err error
				if f, err = os.Create(path); err != nil {
					b.Fatal(err)
				}
				at = 0
			}
			if _, err := f.WriteAt(data, at); err != nil {
				b.Fatal(err)
			}
			at += chunk
		}
		f.Close()
	})
	b.Run("part", func(b *testing.B) {
		box := open(b, benchDir(b), Options{})
		b.SetBytes(chunk)
		b.ReportAllocs()
		p := begin(b, box, testKey(0), Info{Size: most})
		for b.Loop() {
			if p.Offset() == most {
				p.Drop()
				p = begin(b, box, testKey(0), Info{Size: most})
			}
			if _, err := p.Write(data); err != nil {
				b.Fatal(err)
			}
		}
		p.Drop()
	})
}

// BenchmarkPut keeps files of 1 KiB on a real disk, 64 at a time, beside bare files
// that are written and flushed and nothing more.
func BenchmarkPut(b *testing.B) {
	data := make([]byte, 1<<10)
	run := func(name string, put func() error) {
		b.Run(name, func(b *testing.B) {
			var n atomic.Int64
			b.SetParallelism(32)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					n.Add(1)
					if err := put(); err != nil {
						b.Error(err)
					}
				}
			})
			b.ReportMetric(float64(n.Load())/b.Elapsed().Seconds(), "files/s")
		})
	}
	dir := b.TempDir()
	var round atomic.Int64 // names of earlier rounds stay taken
	run("bare", func() error {
		f, err := os.Create(filepath.Join(dir, strconv.FormatInt(round.Add(1), 10)))
		if err != nil {
			return err
		}
		_, err = f.Write(data)
		return errors.Join(err, f.Sync(), f.Close())
	})
	box := open(b, b.TempDir(), Options{})
	run("put", func() error {
		_, err := box.Put(testKey(int(round.Add(1))), Info{Size: 1 << 10}, data)
		return err
	})
}
