package inbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// quickDir is a folder in memory where there is one: these tests make many files and
// are not about a disk.
func quickDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "inbox")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// agedFile makes a file that was last written long ago.
func agedFile(t testing.TB, path string, data []byte, age time.Duration) {
	t.Helper()
	then := time.Now().Add(-age)
	if err := errors.Join(os.WriteFile(path, data, 0o600), os.Chtimes(path, then, then)); err != nil {
		t.Fatal(err)
	}
}

const year = 365 * 24 * time.Hour

// Names that nearly are ours, and ours that are no files, stay whatever their age
// (case 69).
func TestCleanerLeavesNeighboursAlone(t *testing.T) {
	dir := quickDir(t)
	stem := strings.Repeat("a", 32)
	near := []string{
		"notes.txt", ".part", ".file", "part", "a.part", stem, stem + ".", stem + ".jpg", stem + ".PART", stem + ".Part",
		strings.ToUpper(stem) + ".part", strings.Repeat("g", 32) + ".part", stem[1:] + ".part", stem + "a.part", "a" + stem + ".part",
		" " + stem + ".part", stem + " .part", stem + ".part ", stem + ".part.", stem + ".part~", stem + ".part.bak", stem + ".part.tmp",
		stem + ".file.tmp", stem + ".journal.tmp.tmp", stem + ".tmp", stem + "..part", stem + ".parts", stem + ".par", stem + ".filé",
		"-" + stem[1:] + ".part", stem[:31] + "Ａ.part", stem + ".part\n", "\n" + stem + ".part", stem[:16] + "-" + stem[17:] + ".part",
		".dian-" + stem + ".tmp", "ledger.bad", "ledger.old", "lock.tmp", "instance.bak", stem + ".mark.bad", "0x" + stem[2:] + ".mark",
	}
	for _, name := range near {
		agedFile(t, filepath.Join(dir, name), []byte(name), 3*year)
	}
	victim := filepath.Join(quickDir(t), "victim")
	if err := os.Mkdir(victim, 0o700); err != nil {
		t.Fatal(err)
	}
	agedFile(t, filepath.Join(victim, "precious"), []byte("precious"), year)
	made := map[string]string{}
	for kind, wait := range waiters {
		if kind == "second name" || kind == "relative link" {
			continue // a second name is a plain file, and goes; what it is the name of stays
		}
		for _, suffix := range suffixes {
			path := filepath.Join(dir, fmt.Sprintf("%032x%s", len(made), suffix))
			if err := wait(path, victim); errors.Is(err, syscall.EPERM) {
				continue
			} else if err != nil {
				t.Fatal(err)
			}
			info, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			made[path] = fmt.Sprint(info.Mode(), info.Sys().(*syscall.Stat_t).Ino)
		}
	}
	second := filepath.Join(dir, strings.Repeat("f", 32)+".part")
	if err := os.Link(filepath.Join(victim, "precious"), second); err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, victim)
	promptly(t, func() {
		b := open(t, dir, Options{PartBytes: 1})
		for range 2 {
			if err := b.Clean(time.Now().Add(3 * year)); err != nil {
				t.Error(err)
			}
		}
		b.Close()
	})
	for _, name := range near {
		if got, err := os.ReadFile(filepath.Join(dir, name)); string(got) != name || err != nil {
			t.Errorf("%q has %q, %v", name, got, err)
		}
	}
	for path, want := range made {
		if info, err := os.Lstat(path); err != nil || fmt.Sprint(info.Mode(), info.Sys().(*syscall.Stat_t).Ino) != want {
			t.Errorf("%s was %s and is %v, %v", path, want, info, err)
		}
	}
	if _, err := os.Lstat(second); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the second name stays: %v", err)
	}
	if got := snapshot(t, victim); withoutLinks(got["/precious"]) != withoutLinks(before["/precious"]) || len(got) != len(before) {
		t.Errorf("outside there is %v, was %v", got, before)
	}
	t.Logf("%d names that are nearly ours, %d things under names of ours", len(near), len(made))
}

// Whatever a crash may leave of one transfer, in every combination, whole or damaged:
// the inbox opens, goes on with what can be trusted, and cleans up in its time
// (cases 69, 87).
func TestLeftoversOfEveryKind(t *testing.T) {
	// What the files of a real part look like.
	dir := quickDir(t)
	b := open(t, dir, Options{})
	p := begin(t, b, testKey(1), Info{Size: 10_000})
	write(t, p, content(5_000, 1))
	if err := p.Mark(); err != nil {
		t.Fatal(err)
	}
	write(t, p, content(6_000, 1)[5_000:])
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	b.Close()
	real := map[string][]byte{".part": content(6_000, 1), ".file": content(6_000, 1), ".journal.tmp": {1}, ".mark.tmp": {2}}
	for _, suffix := range []string{".journal", ".mark"} {
		data, err := os.ReadFile(filepath.Join(dir, p.stem+suffix))
		if err != nil {
			t.Fatal(err)
		}
		real[suffix] = data
	}
	n := 0
	for set := range 1 << (len(suffixes) + 1) {
		for _, damage := range []string{"whole", "empty", "torn", "other"} {
			n++
			what := fmt.Sprint(damage)
			has := map[string]bool{}
			dir := quickDir(t)
			// With the ledger that was here, a kept file that it does not know is nobody's. If
			// the ledger is away, it is not ours to judge.
			ledger := set&(1<<len(suffixes)) != 0
			if ledger {
				what += " ledger"
				open(t, dir, Options{}).Close()
			}
			for i, suffix := range suffixes {
				if set&(1<<i) == 0 {
					continue
				}
				what, has[suffix] = what+" "+suffix, true
				data := real[suffix]
				switch {
				case damage == "empty":
					data = nil
				case damage == "torn":
					data = data[:len(data)/2]
				case damage == "other" && len(data) > 0:
					data = append([]byte(nil), data...)
					data[len(data)/2]++
				}
				agedFile(t, filepath.Join(dir, p.stem+suffix), data, time.Hour)
			}
			here := func(suffix string) bool {
				_, err := os.Lstat(filepath.Join(dir, p.stem+suffix))
				return err == nil
			}
			b := open(t, dir, Options{})
			e, known := b.Lookup(testKey(1))
			resumable := (has[".part"] || has[".file"]) && (has[".journal"] || has[".mark"])
			if damage == "whole" && known != resumable || damage != "whole" && damage != "other" && known {
				t.Errorf("%s: known %v, %+v", what, known, e)
			}
			if known && !here(".part") {
				t.Errorf("%s: known, and there is no part", what)
			}
			if has[".file"] && !known && here(".file") == ledger {
				t.Errorf("%s: the kept file is there: %v", what, !ledger)
			}
			if known && here(".file") {
				t.Errorf("%s: a name is taken that the part will want", what)
			}
			if err := b.Clean(time.Now().Add(22 * time.Hour)); err != nil {
				t.Error(err)
			}
			if again, _ := b.Lookup(testKey(1)); again != e {
				t.Errorf("%s: %+v became %+v before its time", what, e, again)
			}
			f, err := takeIn(b, testKey(1), content(10_000, 1))
			if damage != "other" && err != nil { // the part's bytes may be what was damaged
				t.Errorf("%s: it cannot be received: %v", what, err)
			} else if err == nil {
				hasContent(t, f, content(10_000, 1))
				f.Notified()
			}
			if err := b.Clean(time.Now().Add(26 * time.Hour)); err != nil {
				t.Error(err)
			}
			for _, suffix := range suffixes {
				if suffix != ".file" && here(suffix) {
					t.Errorf("%s: %s stays after its time", what, suffix)
				}
			}
			if has[".file"] && !known && here(".file") == ledger {
				t.Errorf("%s: the kept file went with the parts: %v", what, !ledger)
			}
			if err := b.Clean(time.Now().Add(8 * 24 * time.Hour)); err != nil {
				t.Error(err)
			}
			var want []string
			if has[".file"] && !known && !ledger {
				want = []string{".file"}
			}
			if got := left(t, dir); !slices.Equal(got, want) {
				t.Errorf("%s: after 8 days there is %v, want %v", what, got, want)
			}
			b.Close()
			os.RemoveAll(dir)
		}
	}
	t.Logf("%d combinations", n)
}

// The cleaner, at a time when everything is too old, beside transfers that run: what
// is open is never touched, and what is idle may begin anew (case 69).
func TestCleanerNeverTouchesWhatIsOpen(t *testing.T) {
	b := open(t, quickDir(t), Options{PartBytes: 1})
	done := make(chan struct{})
	var cleaning, receiving sync.WaitGroup
	cleaned := 0
	cleaning.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if err := b.Clean(time.Now().Add(year)); err != nil {
				t.Error(err)
			}
			cleaned++
		}
	})
	for i := range 4 {
		receiving.Go(func() {
			for j := range 100 {
				key, data := testKey(1_000*i+j), content(3_000, byte(j))
				for step := 0; step < 3; {
					p, err := b.Begin(key, Info{Size: 3_000})
					if err != nil {
						t.Errorf("Begin: %v", err)
						return
					}
					if p.Offset() == 0 {
						step = 0
					}
					if _, err := p.Write(data[step*1_000 : (step+1)*1_000]); err != nil {
						t.Errorf("Write: %v", err)
					}
					if err := p.Mark(); err != nil {
						t.Errorf("Mark: %v", err)
					}
					if step++; step < 3 {
						if err := p.Close(); err != nil {
							t.Errorf("Close: %v", err)
						}
						if j%4 == 0 {
							step = 3 // it stays as it is
						}
						continue
					}
					if err := p.Verify("", nil); err != nil {
						t.Errorf("Verify: %v", err)
					}
					f, err := p.Keep()
					if err != nil {
						t.Errorf("Keep: %v", err)
						return
					}
					hasContent(t, f, data)
				}
			}
		})
	}
	receiving.Wait()
	close(done)
	cleaning.Wait()
	if cleaned < 10 {
		t.Errorf("cleaned %d times", cleaned)
	}
}
