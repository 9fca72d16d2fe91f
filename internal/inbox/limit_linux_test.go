package inbox

import (
	"syscall"
	"testing"
)

// A limit on the size of files is a full disk too (case 75).
func TestFileSizeLimitIsNoSpace(t *testing.T) {
	b := open(t, t.TempDir(), Options{})
	p := begin(t, b, testKey(1), Info{Size: 1 << 20})
	defer p.Drop()
	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &was); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 100_000, Max: was.Max}); err != nil {
		t.Fatal(err)
	}
	_, err := p.Write(make([]byte, 200_000))
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &was); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "Write", err, ErrNoSpace)
	write(t, p, make([]byte, 200_000))
}
