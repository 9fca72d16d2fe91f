package test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// sparseFile makes a file of n bytes that is nearly all hole, with marks at its
// ends and around every power of two.
func sparseFile(t *testing.T, n int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), fmt.Sprintf("sparse-%d.bin", n))
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(n); err != nil {
		t.Fatal(err)
	}
	for at := int64(1); at < n; at *= 2 {
		if _, err := f.WriteAt([]byte{byte(at%251) + 1}, at-1); err != nil {
			t.Fatal(err)
		}
	}
	if n > 0 {
		if _, err := f.WriteAt([]byte{0xff}, n-1); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// same compares two files byte by byte.
func same(t *testing.T, a, b string) bool {
	t.Helper()
	x, err := os.Open(a)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	y, err := os.Open(b)
	if err != nil {
		t.Fatal(err)
	}
	defer y.Close()
	p, q := make([]byte, 1<<20), make([]byte, 1<<20)
	for {
		n, errX := io.ReadFull(x, p)
		m, errY := io.ReadFull(y, q)
		if n != m || !bytes.Equal(p[:n], q[:m]) {
			return false
		}
		if errX != nil || errY != nil {
			return errX == errY
		}
	}
}

// TestEverySizeArrives sends the sizes at which lengths, blocks and integers turn over (case 70).
func TestEverySizeArrives(t *testing.T) {
	t.Parallel()
	r, dir := startRelay(t), t.TempDir()
	if shm, err := os.MkdirTemp("/dev/shm", "dian-test-"); err == nil { // 10 GiB need not see a disk
		t.Cleanup(func() { os.RemoveAll(shm) })
		dir = shm
	}
	l := listen(t, r.url, "bob", dir)
	next := 0
	for _, n := range []int64{
		0, 1, 64<<10 - 1, 64 << 10, 64<<10 + 1, 1<<20 - 1, 1 << 20, 1<<20 + 1, 8<<20 - 1, 8 << 20, 8<<20 + 1, 16<<20 + 1,
		1<<31 - 1, 1 << 31, 1<<31 + 1, 1<<32 + 1,
	} {
		path := sparseFile(t, n)
		send(t, r.url, path)
		var file event
		file, next = l.expect(next, "the file", func(e event) bool { return e.text("event") == "file" })
		if file.number("size") != n || !same(t, path, file.text("path")) {
			t.Errorf("%d bytes: received %v, or another content", n, file)
		}
		os.Remove(path)
		os.Remove(file.text("path"))
	}
}
