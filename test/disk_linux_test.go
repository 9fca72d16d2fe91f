package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// needRoot says which cases do not run for want of root.
func needRoot(t *testing.T, what string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skipf("NOT RUN, needs root: %s", what)
	}
}

// smallDisk mounts a tmpfs of so many MiB.
func smallDisk(t *testing.T, mib int) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%dm", mib), "tmpfs", dir).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return dir
}

// ballast fills a disk until it is full but for about keep bytes, and returns the file.
func ballast(t *testing.T, dir string, keep int64) string {
	t.Helper()
	path := filepath.Join(dir, "ballast")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block, size := make([]byte, 64<<10), int64(0)
	for {
		n, err := f.Write(block)
		size += int64(n)
		if err != nil {
			break
		}
	}
	if err := f.Truncate(max(size-keep, 0)); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestFullReceiveFolder fills the receiver's disk in the middle of a file (case 75):
// its sender is told 1112 before the rest is sent, what has room goes on, nothing of the
// file stays, and when there is room again the same command goes through.
func TestFullReceiveFolder(t *testing.T) {
	needRoot(t, "full disks (case 75)")
	t.Parallel()
	const size = 24 << 20
	path, sum := randomFile(t, "film.bin", size, 81)
	small, smallSum := randomFile(t, "note.bin", 2<<10, 82)
	dir := smallDisk(t, 40)
	r := startRelay(t)
	l := listen(t, r.url, "bob", dir)
	p := startPipe(t, r.addr)
	p.limit(4 << 20)
	args := []string{"send", "--server", "http://" + p.addr, "--user", "alice", "--json", "bob", path}
	s := start(t, nil, dian, args...)
	s.expect(0, "a part", func(e event) bool { return e.text("event") == "progress" && e.number("sent") > 4<<20 })
	weight := ballast(t, dir, 64<<10)
	if status := s.wait(); status != 1 {
		t.Errorf("dian send ended with %d, want 1", status)
	}
	if code := s.named("result").number("code"); code != 1112 {
		t.Errorf("the result is %v, want 1112", s.named("result"))
	}
	if sent := p.up.Load(); sent > size*3/4 {
		t.Errorf("%d of %d bytes were sent to a full disk", sent, size)
	}
	if got := leftovers(t, dir); len(got) != 0 {
		t.Errorf("the full disk still holds %q", got)
	}
	for _, other := range [][]string{{"cmd", "bob", "hello"}, {"buffer", "bob", small}, {"send", "bob", small}} {
		c := start(t, nil, dian, append([]string{other[0], "--server", r.url, "--user", "alice"}, other[1:]...)...)
		if c.wait() != 0 {
			t.Errorf("dian %s beside it: %s", other[0], c.errors())
		}
	}
	if err := os.Remove(weight); err != nil {
		t.Fatal(err)
	}
	p.limit(0)
	if s = start(t, nil, dian, args...); s.wait() != 0 {
		t.Fatalf("with room again: %s", s.errors())
	}
	l.expect(0, "the file", func(e event) bool { return e.text("event") == "file" && e.text("name") == "film.bin" })
	for name, want := range map[string]string{"film.bin": sum, "note.bin": smallSum} {
		if got := sumOf(t, filepath.Join(dir, name)); got != want {
			t.Errorf("%s has SHA-256 %s, want %s", name, got, want)
		}
	}
	if got := append(files(t, dir), leftovers(t, dir)...); len(got) != 2 {
		t.Errorf("the receiver has %q, want the two files", got)
	}
}

// TestFullJournalFolder sends from a machine on which nothing can be written down: it
// works, and says that it cannot be gone on with.
func TestFullJournalFolder(t *testing.T) {
	needRoot(t, "full disks (case 75)")
	t.Parallel()
	path, sum := randomFile(t, "film.bin", 2<<20, 83)
	for _, when := range []string{"from the start", "later"} {
		t.Run(when, func(t *testing.T) {
			cache := smallDisk(t, 1)
			if when == "later" {
				if err := os.MkdirAll(filepath.Join(cache, "dian", "sends"), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			ballast(t, cache, 0)
			r := startRelay(t)
			l := listen(t, r.url, "bob", t.TempDir())
			s := start(t, []string{"XDG_CACHE_HOME=" + cache}, dian, "send", "--server", r.url, "--user", "alice", "--json", "bob", path)
			if status := s.wait(); status != 0 {
				t.Fatalf("dian send ended with %d: %s", status, s.errors())
			}
			delivered(t, l, sum)
			if said := s.errors(); !strings.Contains(said, "remembered") && !strings.Contains(said, "cannot be gone on with") {
				t.Errorf("it did not say that the send is not remembered: %q", said)
			}
		})
	}
}
