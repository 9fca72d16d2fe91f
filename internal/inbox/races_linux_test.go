package inbox

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// racesWanted says how many races the tests of this file run in all: a few thousand,
// or DIAN_RACES, as `make races` sets it. A race is one operation of the inbox during
// which somebody else has swapped something.
func racesWanted(t *testing.T) int {
	text := os.Getenv("DIAN_RACES")
	if text == "" {
		return 4_000
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("DIAN_RACES=%s is no number", text)
	}
	return n
}

// An arena is a folder with everything that races are about:
//
//	parent/inbox   the receive folder, where it is when nobody has swapped it
//	dest           where files are saved
//	victim         what must not change: nothing of it is meant
//	stage          what the swappers put in the place of something
type arena struct {
	top    string
	before map[string]string // of victim
	swaps  *atomic.Int64     // by anybody, in memory that a child shares
	races  atomic.Int64
	ops    atomic.Int64
	saved  atomic.Int64 // files that came through
}

// names that a careless program would write to, below a victim that has taken the
// place of the receive folder or of what is above it.
var tempting = []string{"precious", "lock", "instance", "ledger", "ledger.tmp", "photo.jpg", "photo (1).jpg", "inbox/lock", "inbox/ledger", "inbox/instance"}

func newArena(t *testing.T) *arena {
	t.Helper()
	top, err := os.MkdirTemp("/dev/shm", "races") // nothing here is about a disk's speed
	if err != nil {
		top = t.TempDir()
	} else {
		t.Cleanup(func() { os.RemoveAll(top) })
	}
	a := &arena{top: top}
	for _, dir := range []string{"parent", "dest", "victim/inbox", "stage"} {
		if err := os.MkdirAll(a.at(dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range tempting {
		if err := os.WriteFile(a.at("victim", name), []byte("precious "+name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a.before = snapshot(t, a.at("victim"))
	a.swaps = shared(t, a.at("swaps"))
	return a
}

func (a *arena) at(names ...string) string {
	return filepath.Join(append([]string{a.top}, names...)...)
}

// shared maps a counter that a child process can map too.
func shared(t testing.TB, path string) *atomic.Int64 {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(4096); err != nil {
		t.Fatal(err)
	}
	memory, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	return (*atomic.Int64)(unsafe.Pointer(&memory[0])) // mapped for the life of the process
}

// race runs an operation and counts it if anything was swapped meanwhile.
func (a *arena) race(op func()) {
	was := a.swaps.Load()
	op()
	a.ops.Add(1)
	if a.swaps.Load() != was {
		a.races.Add(1)
	}
}

// unharmed sees that nothing outside has changed.
func (a *arena) unharmed(t *testing.T) {
	t.Helper()
	after := snapshot(t, a.at("victim"))
	for name, is := range after {
		// A name that a swapper gave a victim's file counts in its links, and goes with the arena.
		if was := a.before[name]; withoutLinks(is) != withoutLinks(was) {
			t.Errorf("ESCAPE: %s is %s, was %q", name, is, was)
		}
	}
	for name := range a.before {
		if _, here := after[name]; !here {
			t.Errorf("ESCAPE: %s is gone", name)
		}
	}
}

// withoutLinks cuts the number of links out of a line of snapshot.
func withoutLinks(text string) string {
	before, rest, _ := strings.Cut(text, " links ")
	_, after, _ := strings.Cut(rest, " inode ")
	return before + after
}

func exchange(x, y string) error {
	return unix.Renameat2(unix.AT_FDCWD, x, unix.AT_FDCWD, y, unix.RENAME_EXCHANGE)
}

// swapping runs f over and over in some goroutines until stop is called, which waits.
func (a *arena) swapping(n int, f func(random *rand.Rand) error) (stop func()) {
	var all sync.WaitGroup
	done := make(chan struct{})
	for i := range n {
		all.Go(func() {
			random := rand.New(rand.NewPCG(3, uint64(i)))
			for {
				select {
				case <-done:
					return
				default:
				}
				if f(random) == nil {
					a.swaps.Add(1)
				}
			}
		})
	}
	return func() { close(done); all.Wait() }
}

// swappedPath makes something and exchanges it with name in the folder that dir leads
// to now, and back, so that at any moment one of them is there.
func (a *arena) swappedPath(t *testing.T, dir, name string, other func(at string) error) (swap func(*rand.Rand) error) {
	t.Helper()
	stage := a.at("stage", fmt.Sprint(name, rand.Uint64()))
	if err := other(stage); err != nil {
		t.Fatal(err)
	}
	fd, err := -1, error(nil)
	for tries := 0; fd < 0 && tries < 1_000_000; tries++ { // others may be swapping it
		fd, err = unix.Open(dir, unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return func(*rand.Rand) error {
		return unix.Renameat2(fd, name, unix.AT_FDCWD, stage, unix.RENAME_EXCHANGE)
	}
}

// The receive folder and what is above it are swapped all the time for links, FIFOs,
// files and folders: by handle nothing goes astray, and nothing even fails (case 65).
func TestRacesForTheReceiveFolder(t *testing.T) {
	runRaces(t, 4, func(t *testing.T, a *arena, enough func() bool) {
		b := open(t, a.at("parent", "inbox"), Options{})
		link := func(to string) func(string) error { return func(at string) error { return os.Symlink(to, at) } }
		fifo := func(at string) error { return syscall.Mkfifo(at, 0o600) }
		file := func(at string) error { return os.WriteFile(at, nil, 0o600) }
		stops := []func(){
			a.swapping(1, a.swappedPath(t, a.at("parent"), "inbox", link(a.at("victim")))),
			a.swapping(1, a.swappedPath(t, a.top, "parent", link(a.at("victim")))),
			a.swapping(1, a.swappedPath(t, a.at("parent"), "inbox", fifo)),
			a.swapping(1, a.swappedPath(t, a.top, "parent", file)),
			a.child(t, "folder"),
		}
		folder, err := os.OpenRoot(a.at("dest"))
		if err != nil {
			t.Fatal(err)
		}
		defer folder.Close()
		a.work(t, b, folder, enough, true)
		for _, stop := range stops {
			stop()
		}
		b.Close()
	})
}

// work receives, keeps, opens, saves, cancels and cleans from several goroutines.
// With exact, everything must come out right; otherwise errors are fine and what is
// saved must only be a plain file.
func (a *arena) work(t *testing.T, b *Inbox, folder *os.Root, enough func() bool, exact bool) {
	var all sync.WaitGroup
	var id atomic.Int64
	fails := func(what string, err error) bool {
		if err == nil {
			return false
		}
		if exact {
			t.Errorf("%s: %v", what, err)
		}
		return true
	}
	for range 3 {
		all.Go(func() {
			for !enough() && !t.Failed() {
				n := int(id.Add(1))
				key, data := testKey(n), content(2_000+n%50, byte(n))
				var f *File
				var err error
				switch n % 4 {
				case 0:
					a.race(func() { f, err = b.Put(key, Info{Size: int64(len(data)), Name: "photo.jpg"}, data) })
					if fails("Put", err) {
						continue
					}
				case 1:
					a.race(func() { err = b.Cancelled(key, 1105) })
					fails("Cancelled", err)
					continue
				default:
					var p *Part
					a.race(func() { p, err = b.Begin(key, Info{Size: int64(len(data)), Name: "photo.jpg"}) })
					if fails("Begin", err) {
						continue
					}
					if n%4 == 3 { // it is left and gone on with
						a.race(func() {
							_, err = p.Write(data[:1_000])
							p.Mark()
							err = errors.Join(err, p.Close())
						})
						fails("Write, Close", err)
						a.race(func() { p, err = b.Begin(key, Info{Size: int64(len(data)), Name: "photo.jpg"}) })
						if fails("Begin again", err) {
							continue
						}
						if exact && p.Offset() != 1_000 {
							t.Errorf("Offset = %d", p.Offset())
						}
					}
					a.race(func() {
						if _, err = p.Write(data[p.Offset():]); err == nil {
							err = p.Mark()
						}
						err = errors.Join(err, p.Verify("", nil))
					})
					if fails("Write, Mark, Verify", err) {
						p.Drop()
						continue
					}
					a.race(func() { f, err = p.Keep() })
					if fails("Keep", err) {
						continue
					}
				}
				a.race(func() {
					r, failed := f.Open()
					if fails("Open", failed) {
						return
					}
					defer r.Close()
					if got, err := io.ReadAll(r); exact && !bytes.Equal(got, data) {
						t.Errorf("opened %d bytes (%v), want these %d", len(got), err, len(data))
					}
				})
				var path string
				a.race(func() { path, err = f.SaveIn(folder) })
				if fails("SaveIn", err) {
					continue
				}
				a.saved.Add(1)
				got, err := folder.Open(filepath.Base(path))
				if fails("open what was saved", err) {
					continue
				}
				text, _ := io.ReadAll(got)
				if exact && !bytes.Equal(text, data) {
					t.Errorf("saved %d bytes, want these %d", len(text), len(data))
				}
				got.Close()
				folder.Remove(filepath.Base(path)) // or each next one tries all names before it
				f.Notified()
				if n%64 == 0 {
					a.race(func() { err = b.Clean(time.Now()) })
					fails("Clean", err)
				}
			}
		})
	}
	all.Wait()
}

// runRaces gives each test an equal share of the races and reports what came out.
func runRaces(t *testing.T, share int, f func(t *testing.T, a *arena, enough func() bool)) {
	want := int64((racesWanted(t) + share - 1) / share)
	a := newArena(t)
	promise := make(chan struct{})
	go func() {
		defer close(promise)
		f(t, a, func() bool { return a.races.Load() >= want })
	}()
	last, quiet := int64(-1), 0
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-promise:
			a.unharmed(t)
			escapes := "0 escapes"
			if t.Failed() {
				escapes = "FAILED"
			}
			t.Logf("%d races in %d operations, %d swaps, %d files saved: %s", a.races.Load(), a.ops.Load(), a.swaps.Load(), a.saved.Load(), escapes)
			if !t.Failed() && (a.races.Load() < want || a.saved.Load() == 0) {
				t.Errorf("%d races, want %d; %d files saved", a.races.Load(), want, a.saved.Load())
			}
			return
		case <-tick.C:
			if quiet++; a.ops.Load() != last {
				last, quiet = a.ops.Load(), 0
			}
			if quiet > 5 {
				t.Fatal("it hangs")
			}
		}
	}
}

// The names in the receive folder are swapped for links to files outside and inside,
// FIFOs, folders, second names and each other. Then a transfer may fail; nothing
// outside changes, nothing hangs, and only plain files are saved (cases 64, 69).
func TestRacesForNamesInTheReceiveFolder(t *testing.T) {
	runRaces(t, 4, func(t *testing.T, a *arena, enough func() bool) {
		b := open(t, a.at("parent", "inbox"), Options{})
		folder, err := os.OpenRoot(a.at("dest"))
		if err != nil {
			t.Fatal(err)
		}
		defer folder.Close()
		stops := []func(){
			a.swapping(2, func(random *rand.Rand) error { return a.disturb(a.at("parent", "inbox"), ours, random) }),
			a.child(t, "names"),
		}
		a.work(t, b, folder, enough, false)
		for _, stop := range stops {
			stop()
		}
		b.Close()
		plainFilesOnly(t, a.at("dest"))
	})
}

func ours(name string) bool { _, _, ok := ownName(name); return ok }

func plainFilesOnly(t *testing.T, dir string) {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		if !e.Type().IsRegular() {
			t.Errorf("ESCAPE: %s in the target is %v", e.Name(), e.Type())
		}
	}
}

// disturb swaps one of the names that fit in dir for something else. What it makes it
// may take away again, as somebody who is hostile would.
func (a *arena) disturb(dir string, fits func(string) bool, random *rand.Rand) error {
	all, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(e os.DirEntry) bool { return !fits(e.Name()) })
	if len(all) == 0 {
		return fs.ErrNotExist
	}
	some := func() string { return filepath.Join(dir, all[random.IntN(len(all))].Name()) }
	path, stage := some(), a.at("stage", fmt.Sprint("d", random.Uint64()))
	precious := a.at("victim", tempting[random.IntN(len(tempting))])
	switch random.IntN(8) {
	case 0:
		err = os.Symlink(precious, stage)
	case 1:
		err = os.Symlink(filepath.Base(some()), stage)
	case 2:
		err = os.Symlink(a.at("victim"), stage)
	case 3:
		err = syscall.Mkfifo(stage, 0o600)
	case 4:
		err = os.Mkdir(stage, 0o700)
	case 5:
		err = os.Link(precious, stage)
	case 6:
		err = os.Symlink(a.at("victim", "new"), stage)
	case 7:
		return exchange(path, some())
	}
	if err != nil {
		return err
	}
	err = exchange(path, stage)
	if err == nil && random.IntN(2) == 0 {
		exchange(path, stage) // and back
	}
	os.RemoveAll(stage)
	return err
}
