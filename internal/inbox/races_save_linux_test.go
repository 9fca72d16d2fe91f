package inbox

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func temporary(name string) bool {
	return strings.HasPrefix(name, ".dian-") && strings.HasSuffix(name, ".tmp")
}

// quickElsewhere returns a folder on another file system than /dev/shm, in memory
// where one may mount.
func quickElsewhere(t *testing.T) string {
	dir := t.TempDir()
	if syscall.Mount("races", dir, "tmpfs", 0, "size=256m") == nil {
		t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	}
	return dir
}

// The names in the target of SaveAs are taken by links, FIFOs, folders and files of
// others while files are saved there, by rename and by copy. None of these is
// replaced, and each file gets a name of its own (cases 62, 64, 67).
func TestRacesForNamesInTheTarget(t *testing.T) {
	runRaces(t, 4, func(t *testing.T, a *arena, enough func() bool) {
		boxes := []*Inbox{open(t, a.at("parent", "inbox"), Options{})}
		if strings.HasPrefix(a.top, "/dev/shm/") {
			boxes = append(boxes, open(t, quickElsewhere(t), Options{})) // from here it is a copy
		}
		// What the others put there stays: it is looked for at the end.
		var mu sync.Mutex
		placed := map[string]string{}
		stops := []func(){
			a.swapping(2, func(random *rand.Rand) error {
				name := "photo.jpg"
				if n := random.IntN(40); n > 0 {
					name = fmt.Sprintf("photo (%d).jpg", n)
				}
				path, stage := a.at("dest", name), a.at("stage", fmt.Sprint("t", random.Uint64()))
				var err error
				switch random.IntN(5) {
				case 0:
					err = os.Symlink(a.at("victim", "precious"), stage)
				case 1:
					err = syscall.Mkfifo(stage, 0o600)
				case 2:
					err = os.MkdirAll(filepath.Join(stage, "full"), 0o700)
				case 3:
					err = os.WriteFile(stage, fmt.Append(nil, "others' ", stage), 0o600)
				case 4:
					err = os.Link(a.at("victim", "precious"), stage)
				}
				if err != nil {
					return err
				}
				mu.Lock()
				defer mu.Unlock()
				if err := unix.Renameat2(unix.AT_FDCWD, stage, unix.AT_FDCWD, path, unix.RENAME_NOREPLACE); err != nil {
					os.RemoveAll(stage)
					return err
				}
				info, err := os.Lstat(path)
				if err != nil {
					return err
				}
				placed[path] = fmt.Sprint(info.Mode().Type(), info.Sys().(*syscall.Stat_t).Ino)
				if len(placed) > 30 { // now and then there is room again
					for path := range placed {
						os.RemoveAll(path)
						delete(placed, path)
					}
				}
				return nil
			}),
		}
		var all sync.WaitGroup
		var id atomic.Int64
		for range 3 {
			all.Go(func() {
				for !enough() && !t.Failed() {
					n := int(id.Add(1))
					data := fmt.Appendf(nil, "file %d", n)
					f, err := boxes[n%len(boxes)].Put(testKey(n), Info{Size: int64(len(data)), Name: "../photo.jpg"}, data)
					if err != nil {
						t.Errorf("Put: %v", err)
						return
					}
					var path string
					a.race(func() { path, err = f.SaveAs(a.at("dest")) })
					if err != nil {
						t.Errorf("SaveAs: %v", err)
						return
					}
					info, err := os.Lstat(path)
					got, failed := os.ReadFile(path)
					if err != nil || failed != nil || !info.Mode().IsRegular() || !bytes.Equal(got, data) || filepath.Dir(path) != a.at("dest") {
						t.Errorf("ESCAPE: saved as %s, which has %q (%v, %v)", path, got, err, failed)
					}
					a.saved.Add(1)
					os.Remove(path)
					f.Notified()
				}
			})
		}
		all.Wait()
		for _, stop := range stops {
			stop()
		}
		for path, want := range placed {
			if info, err := os.Lstat(path); err != nil || fmt.Sprint(info.Mode().Type(), info.Sys().(*syscall.Stat_t).Ino) != want {
				t.Errorf("ESCAPE: %s of somebody else is %v, %v", path, info, err)
			}
		}
	})
}

// The names of half-made copies in the target are swapped, and the target itself for
// a link: by handle it stays the one that was opened (case 65).
func TestRacesForTheTarget(t *testing.T) {
	runRaces(t, 4, func(t *testing.T, a *arena, enough func() bool) {
		boxes := []*Inbox{open(t, a.at("parent", "inbox"), Options{})}
		if strings.HasPrefix(a.top, "/dev/shm/") {
			boxes = append(boxes, open(t, quickElsewhere(t), Options{}))
		}
		folder, err := os.OpenRoot(a.at("dest"))
		if err != nil {
			t.Fatal(err)
		}
		defer folder.Close()
		stops := []func(){
			a.swapping(1, a.swappedPath(t, a.top, "dest", func(at string) error { return os.Symlink(a.at("victim"), at) })),
			a.swapping(1, a.swappedPath(t, a.top, "dest", func(at string) error { return syscall.Mkfifo(at, 0o600) })),
			a.child(t, "temps"),
		}
		var all sync.WaitGroup
		var id atomic.Int64
		for range 3 {
			all.Go(func() {
				for !enough() && !t.Failed() {
					n := int(id.Add(1))
					data := fmt.Appendf(nil, "file %d", n)
					f, err := boxes[n%len(boxes)].Put(testKey(n), Info{Size: int64(len(data)), Name: fmt.Sprint(n%50, ".txt")}, data)
					if err != nil {
						t.Errorf("Put: %v", err)
						return
					}
					var path string
					a.race(func() { path, err = f.SaveIn(folder) })
					f.Notified()
					if err != nil {
						continue // a half-made copy was taken away
					}
					a.saved.Add(1)
					got, err := folder.ReadFile(filepath.Base(path))
					if err != nil || !bytes.Equal(got, data) {
						t.Errorf("ESCAPE: saved as %s, which has %q, %v", path, got, err)
					}
					folder.Remove(filepath.Base(path))
				}
			})
		}
		all.Wait()
		for _, stop := range stops {
			stop()
		}
	})
}

// saveChild receives files in an inbox of its own and saves them where others do too.
func saveChild(t *testing.T, a *arena) error {
	dir, err := os.MkdirTemp(a.top, "child")
	if err != nil {
		return err
	}
	saveMany(t, a, open(t, dir, Options{}), os.Getpid(), os.Stdout)
	return nil
}

// Many goroutines of several processes save files of the same few names in one
// folder: no name is given twice, nothing is lost and nothing replaced (case 67).
func TestSaversOfSeveralProcesses(t *testing.T) {
	a := newArena(t)
	var all sync.WaitGroup
	var mu sync.Mutex
	var lines []string
	for range 2 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestRaceChild$")
		cmd.Env = append(os.Environ(), "DIAN_RACE_CHILD=save", "DIAN_RACE_TOP="+a.top, "DIAN_RACES="+strconv.Itoa(racesWanted(t)))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			for scan := bufio.NewScanner(out); scan.Scan(); {
				if text, ok := strings.CutPrefix(scan.Text(), "saved "); ok {
					mu.Lock()
					lines = append(lines, text)
					mu.Unlock()
				}
			}
			if err := cmd.Wait(); err != nil {
				t.Errorf("the other process: %v", err)
			}
		})
	}
	var own bytes.Buffer
	saveMany(t, a, open(t, a.at("parent", "inbox"), Options{}), os.Getpid(), &own)
	all.Wait()
	for line := range strings.Lines(own.String()) {
		lines = append(lines, strings.TrimSuffix(strings.TrimPrefix(line, "saved "), "\n"))
	}
	contents := map[string]string{}
	for _, line := range lines {
		path, text, _ := strings.Cut(line, "|")
		if was, twice := contents[path]; twice {
			t.Errorf("%s was given to %s and to %s", path, was, text)
		}
		contents[path] = text
		if got, err := os.ReadFile(path); string(got) != text || err != nil {
			t.Errorf("%s has %q, %v, want %q", path, got, err, text)
		}
	}
	there, err := os.ReadDir(a.at("dest"))
	if err != nil || len(there) != len(lines) || len(lines) != 3*saversFiles {
		t.Errorf("%d files are there, %d were saved, want %d: %v", len(there), len(lines), 3*saversFiles, err)
	}
	a.unharmed(t)
	t.Logf("%d files of 3 names by 3 processes of 4 goroutines", len(lines))
}

const saversFiles = 400 // of each process

func saveMany(t *testing.T, a *arena, b *Inbox, who int, out io.Writer) {
	var all sync.WaitGroup
	var mu sync.Mutex
	for i := range 4 {
		all.Go(func() {
			for j := range saversFiles / 4 {
				text := fmt.Sprintf("process %d, goroutine %d, file %d", who, i, j)
				n := i*saversFiles + j
				f, err := b.Put(testKey(n), Info{Size: int64(len(text)), Name: []string{"a.txt", "A.txt", "photo"}[j%3]}, []byte(text))
				if err != nil {
					t.Errorf("Put: %v", err)
					return
				}
				dest := a.at("dest")
				if j%5 == 0 {
					dest = a.at("dest", "photo")
				}
				path, err := f.SaveAs(dest)
				if err != nil {
					t.Errorf("SaveAs: %v", err)
					return
				}
				mu.Lock()
				fmt.Fprintf(out, "saved %s|%s\n", path, text)
				mu.Unlock()
			}
		})
	}
	all.Wait()
}
