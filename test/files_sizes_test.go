package test

import (
	"os"
	"testing"
)

// TestFiveGiBArrives goes on where TestEverySizeArrives ends (case 70). Both sides of
// 2^32 and sizes to 1 TiB are tested where they cost no minutes: in the source of the
// SDK and in the inbox.
func TestFiveGiBArrives(t *testing.T) {
	const n = 5 << 30
	r, dir := startRelay(t), t.TempDir()
	if shm, err := os.MkdirTemp("/dev/shm", "dian-test-"); err == nil { // it need not see a disk
		t.Cleanup(func() { os.RemoveAll(shm) })
		dir = shm
	}
	l := listen(t, r.url, "bob", dir)
	path := sparseFile(t, n)
	send(t, r.url, path)
	file := l.named("file")
	if file.number("size") != n || !same(t, path, file.text("path")) {
		t.Errorf("received %v, or another content", file)
	}
}
