package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestKillsInTheMiddleOfAFile kills each process while a file is on its way, starts it
// again, and wants the file once, whole, and one result.
func TestKillsInTheMiddleOfAFile(t *testing.T) {
	const size = 192 << 20
	path, sum := randomFile(t, "film.bin", size, 41)
	for _, victim := range []string{"listener", "server", "sender", "listener, then server"} {
		t.Run(victim, func(t *testing.T) {
			r, dir := startRelay(t), t.TempDir()
			l := listen(t, r.url, "bob", dir)
			p := startPipe(t, r.addr) // the sender's way
			p.limit(64 << 20)
			args := []string{"send", "--server", "http://" + p.addr, "--user", "alice", "--json", "bob", path}
			s := start(t, nil, dian, args...)
			half := func(e event) bool { return e.text("event") == "progress" && e.number("sent") > size/3 }
			s.expect(0, "a third of the progress", half)
			if strings.HasPrefix(victim, "listener") {
				l.kill()
				l = listen(t, r.url, "bob", dir)
			}
			if strings.HasSuffix(victim, "server") {
				r.kill()
				r.again()
			}
			if victim == "sender" {
				s.kill()
				s = start(t, nil, dian, args...)
			}
			p.limit(0)
			if status := s.wait(); status != 0 {
				t.Fatalf("dian send ended with %d: %s", status, s.errors())
			}
			delivered(t, l, sum)
			if got := leftovers(t, dir); len(got) != 0 {
				t.Errorf("the receiver still holds %q", got)
			}
			if n := len(s.all("result")); n != 1 {
				t.Errorf("%d results, want 1", n)
			}
			last := int64(-1)
			for _, e := range s.all("progress") {
				if e.number("sent") < last {
					t.Errorf("progress went back from %d to %d", last, e.number("sent"))
				}
				last = e.number("sent")
			}
			if last != size {
				t.Errorf("the last progress says %d of %d", last, size)
			}
			// What was sent twice: the first progress after the kill is not zero.
			if victim == "sender" && s.all("progress")[0].number("sent") < size/4 {
				t.Errorf("the second process began at %v, want to go on from a third", s.all("progress")[0])
			}
		})
	}
}

func TestCtrlCLeavesNothing(t *testing.T) {
	path, _ := randomFile(t, "film.bin", 96<<20, 42)
	r, dir := startRelay(t), t.TempDir()
	l := listen(t, r.url, "bob", dir)
	p := startPipe(t, r.addr)
	p.limit(32 << 20)
	s := start(t, nil, dian, "send", "--server", "http://"+p.addr, "--user", "alice", "--json", "bob", path)
	s.expect(0, "progress", func(e event) bool { return e.text("event") == "progress" && e.number("sent") > 16<<20 })
	s.cmd.Process.Signal(syscall.SIGINT)
	if status := s.wait(); status != 130 {
		t.Errorf("dian send ended with %d, want 130", status)
	}
	if result := s.named("result"); result.number("code") != 1105 {
		t.Errorf("the result is %v, want 1105", result)
	}
	l.named("cancel")
	if got := append(files(t, dir), leftovers(t, dir)...); len(got) != 0 {
		t.Errorf("the receiver has %q, want nothing", got)
	}
}

// TestManyRealFilesOfAllSizes sends part of the Go installation in one command.
func TestManyRealFilesOfAllSizes(t *testing.T) {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	seen := make(map[string]bool)
	filepath.WalkDir(filepath.Join(strings.TrimSpace(string(root)), "src"), func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && !seen[d.Name()] && len(paths) < 200 {
			seen[d.Name()] = true
			paths = append(paths, path)
		}
		return nil
	})
	r, dir := startRelay(t), t.TempDir()
	l := listen(t, r.url, "bob", dir)
	s := start(t, nil, dian, append([]string{"send", "--server", r.url, "--user", "alice", "--json", "bob"}, paths...)...)
	if status := s.wait(); status != 0 {
		t.Fatalf("dian send ended with %d: %s", status, s.errors())
	}
	for deadline := time.Now().Add(patience); len(l.all("file")) < len(paths) && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	for _, path := range paths {
		if got, want := sumOf(t, filepath.Join(dir, filepath.Base(path))), sumOf(t, path); got != want {
			t.Errorf("%s: SHA-256 %s, want %s", path, got, want)
		}
	}
	if got := files(t, dir); len(got) != len(paths) {
		t.Errorf("%d files arrived, want %d", len(got), len(paths))
	}
}
