package dian_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/dian-im/dian"
	"github.com/dian-im/dian/diantest"
)

// openFiles counts this process's open files.
func openFiles(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// settles waits until a count is back at what it was, with a little room for what
// belongs to nobody in particular, and returns where it ends.
func settles(was, room int, now func() int) int {
	n := now()
	for deadline := time.Now().Add(20 * time.Second); n > was+room && time.Now().Before(deadline); n = now() {
		<-time.After(20 * time.Millisecond)
	}
	return n
}

// Ten thousand small files, given all at once: each arrives once, and nothing of them
// is left open, running or in memory (case 77).
func TestTenThousandFilesLeaveNothing(t *testing.T) {
	const files, names = 10_000, 100
	relay := diantest.New(t)
	receive := t.TempDir()
	if quick, err := os.MkdirTemp("/dev/shm", "dian"); err == nil { // nothing here is about a disk
		t.Cleanup(func() { os.RemoveAll(quick) })
		receive = quick
	}
	var mu sync.Mutex
	came := map[string]int{}
	done := make(chan struct{})
	relay.Client("bob", dian.WithReceiveDir(receive), dian.WithHandler(dian.Handler{NotifyFileData: func(f dian.FileData) {
		mu.Lock()
		defer mu.Unlock()
		came[f.SendID]++
		if f.Size != 1<<10 || f.Receipt != dian.Stored {
			t.Errorf("%+v", f)
		}
		if len(came) == files {
			close(done)
		}
	}}))
	alice := relay.Client("alice")
	dir := t.TempDir()
	for i := range names {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), noise(1<<10), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	send := func(n int) {
		tasks := make([]*dian.Task, n)
		for i := range tasks {
			tasks[i] = alice.SendFile("bob", filepath.Join(dir, fmt.Sprint(i%names)))
		}
		for i, task := range tasks {
			if err := task.Wait(t.Context()); err != nil {
				t.Fatalf("file %d: %v", i, err)
			}
		}
	}
	heap := func() int {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc >> 20)
	}
	send(names) // connections, pools and the like are there from now on
	routines, open, memory := runtime.NumGoroutine(), openFiles(t), heap()
	most, stop, watched := 0, make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		for {
			most = max(most, openFiles(t))
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	send(files - names)
	wait(t, done)
	close(stop)
	<-watched
	mu.Lock()
	defer mu.Unlock()
	for id, n := range came {
		if n != 1 {
			t.Errorf("%s came %d times", id, n)
		}
	}
	if kept, _ := filepath.Glob(filepath.Join(receive, "*.file")); len(kept) != files {
		t.Errorf("%d files are kept, want %d", len(kept), files)
	}
	if left, _ := filepath.Glob(filepath.Join(receive, "*.[pjm]*")); len(left) > 0 {
		t.Errorf("%d other files are left: %v", len(left), left[0])
	}
	if n := settles(routines, 16, runtime.NumGoroutine); n > routines+16 {
		t.Errorf("%d goroutines, %d before", n, routines)
	}
	if n := settles(open, 16, func() int { return openFiles(t) }); n > open+16 {
		t.Errorf("%d open files, %d before", n, open)
	}
	if most > open+256 {
		t.Errorf("up to %d open files, %d before", most, open)
	}
	// The receiver remembers for days what it has: a few hundred bytes for each.
	if n := settles(memory, 32, heap); n > memory+32 {
		t.Errorf("%d MiB in use, %d before", n, memory)
	}
	t.Logf("goroutines %d to %d, files %d to %d (at most %d), MiB %d to %d", routines, runtime.NumGoroutine(), open, openFiles(t), most, memory, heap())
}
