package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// held is what a process holds: open files, threads, and the most memory it ever had
// in MiB.
type held struct{ files, threads, mostMiB int }

func holds(t *testing.T, p *process) held {
	t.Helper()
	proc := fmt.Sprintf("/proc/%d", p.cmd.Process.Pid)
	open, err := os.ReadDir(filepath.Join(proc, "fd"))
	if err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile(filepath.Join(proc, "status"))
	if err != nil {
		t.Fatal(err)
	}
	h := held{files: len(open)}
	for line := range strings.Lines(string(status)) {
		key, value, _ := strings.Cut(line, ":")
		n, _ := strconv.Atoi(strings.Fields(value + " 0")[0])
		switch key {
		case "Threads":
			h.threads = n
		case "VmHWM":
			h.mostMiB = n >> 10
		}
	}
	return h
}

// TestTenThousandFilesInOneCommand sends 10,000 files of 1 KiB with one `dian send`:
// each arrives once under its name, and neither the relay nor the listener holds more
// files than before, or memory by the number of files (case 77).
func TestTenThousandFilesInOneCommand(t *testing.T) {
	const n = 10_000
	source, dir := t.TempDir(), t.TempDir()
	if shm, err := os.MkdirTemp("/dev/shm", "dian-test-"); err == nil { // nothing here is about a disk
		t.Cleanup(func() { os.RemoveAll(shm) })
		source, dir = filepath.Join(shm, "source"), filepath.Join(shm, "dir")
		if err := os.Mkdir(source, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	r := startRelay(t)
	l := listen(t, r.url, "bob", dir)
	content := func(i int) string {
		return strings.Repeat(fmt.Sprintf("%08d", i), 128)
	}
	var paths []string
	for i := range n {
		path := filepath.Join(source, fmt.Sprintf("file %05d.txt", i))
		if err := os.WriteFile(path, []byte(content(i)), 0o600); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	args := []string{"send", "--server", r.url, "--user", "alice", "--json", "bob"}
	if status := start(t, nil, dian, append(args, paths[:50]...)...).wait(); status != 0 {
		t.Fatalf("dian send ended with %d", status)
	}
	files := func(p *process) int { return len(p.all("file")) }
	for deadline := time.Now().Add(patience); files(l) < 50 && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	before := map[*process]held{l: holds(t, l), r.process: holds(t, r.process)}
	s := start(t, nil, dian, append(args, paths[50:]...)...)
	most := map[*process]held{}
	for ended := false; !ended; {
		select {
		case <-s.done:
			ended = true
		case <-time.After(20 * time.Millisecond):
			for p := range before {
				h := holds(t, p)
				most[p] = held{max(h.files, most[p].files), max(h.threads, most[p].threads), h.mostMiB}
			}
		}
	}
	if status := s.wait(); status != 0 {
		t.Fatalf("dian send ended with %d: %s", status, s.errors())
	}
	for deadline := time.Now().Add(patience); files(l) < n && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	results, once := s.all("result"), map[string]bool{}
	for _, e := range results {
		if e.number("code") != 0 || e.text("receipt") != "stored" || once[e.text("sendId")] {
			t.Fatalf("result %v", e)
		}
		once[e.text("sendId")] = true
	}
	told := map[string]bool{}
	for _, e := range l.all("file") {
		if told[e.text("sendId")] {
			t.Fatalf("told twice: %v", e)
		}
		told[e.text("sendId")] = true
	}
	if len(results) != n-50 || len(told) != n {
		t.Errorf("%d results, want %d; %d files told, want %d", len(results), n-50, len(told), n)
	}
	for i := range n {
		if got, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("file %05d.txt", i))); string(got) != content(i) || err != nil {
			t.Fatalf("file %d has %d bytes, %v", i, len(got), err)
		}
	}
	there, err := os.ReadDir(dir)
	if err != nil || len(there) != n+1 {
		t.Errorf("%d names are there, want %d and .dian: %v", len(there), n, err)
	}
	for p, was := range before {
		var now held
		for deadline := time.Now().Add(patience / 3); ; time.Sleep(50 * time.Millisecond) {
			if now = holds(t, p); now.files <= was.files+4 || time.Now().After(deadline) {
				break
			}
		}
		if now.files > was.files+4 || most[p].files > was.files+256 {
			t.Errorf("%s: %d open files, at most %d; %d before", p.name, now.files, most[p].files, was.files)
		}
		if now.threads > was.threads+64 {
			t.Errorf("%s: %d threads, %d before", p.name, now.threads, was.threads)
		}
		if now.mostMiB > was.mostMiB+96 {
			t.Errorf("%s: up to %d MiB, %d before", p.name, now.mostMiB, was.mostMiB)
		}
		t.Logf("%s: before %+v, at most %+v, after %+v", p.name, was, most[p], now)
	}
}
