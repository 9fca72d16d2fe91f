package inbox

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dian-im/dian/internal/x3b"
)

// waiters are the things that may wait where a file of ours is expected. Each makes
// itself at path; victim is a folder outside with a file "precious".
var waiters = map[string]func(path, victim string) error{
	"link to a file":     func(path, victim string) error { return os.Symlink(filepath.Join(victim, "precious"), path) },
	"relative link":      func(path, victim string) error { return os.Symlink("../victim/precious", path) },
	"link to a folder":   func(path, victim string) error { return os.Symlink(victim, path) },
	"link to a sibling":  func(path, _ string) error { return os.Symlink("sibling", path) },
	"link to nothing":    func(path, victim string) error { return os.Symlink(filepath.Join(victim, "new"), path) },
	"link to itself":     func(path, _ string) error { return os.Symlink(filepath.Base(path), path) },
	"empty folder":       func(path, _ string) error { return os.Mkdir(path, 0o700) },
	"full folder":        func(path, _ string) error { return os.MkdirAll(filepath.Join(path, "in"), 0o700) },
	"FIFO":               func(path, _ string) error { return syscall.Mkfifo(path, 0o600) },
	"socket":             listenAt,
	"second name":        func(path, victim string) error { return os.Link(filepath.Join(victim, "precious"), path) },
	"null device":        func(path, _ string) error { return unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))) },
	"device that blocks": func(path, _ string) error { return unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(5, 1))) },
}

func listenAt(path, _ string) error {
	at, err := os.MkdirTemp(filepath.Dir(filepath.Dir(path)), "s") // the name of a socket may not be long
	if err != nil {
		return err
	}
	defer os.RemoveAll(at)
	folder, err := os.Open(at)
	if err != nil {
		return err
	}
	defer folder.Close()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: fmt.Sprintf("/proc/self/fd/%d/s", folder.Fd())})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false)
	defer l.Close()
	return os.Rename(filepath.Join(at, "s"), path)
}

// snapshot describes everything below dir: names, kinds, modes, links and content.
func snapshot(t testing.TB, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		stat := info.Sys().(*syscall.Stat_t)
		text := fmt.Sprintf("%v links %d inode %d", info.Mode(), stat.Nlink, stat.Ino)
		switch {
		case info.Mode().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += fmt.Sprintf(" %q", data)
		case info.IsDir():
			text = info.Mode().String()
		}
		all[strings.TrimPrefix(path, dir)] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// promptly fails the test if f does not return: something waits for a FIFO. It is a
// bound for what would never end, no measure.
func promptly(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("it hangs")
	}
}

// takeIn receives data from where the inbox stands.
func takeIn(b *Inbox, key Key, data []byte) (*File, error) {
	p, err := b.Begin(key, Info{Size: int64(len(data)), Name: "a.txt"})
	if err != nil {
		return nil, err
	}
	defer p.Close()
	if _, err := p.Write(data[p.Offset():]); err != nil {
		return nil, err
	}
	p.Mark()
	sum := x3b.Bytes(data)
	if err := p.Verify("x3b", sum[:]); err != nil {
		return nil, err
	}
	return p.Keep()
}

// Whatever waits under a name of ours is not followed, not waited for, not written
// to, and nothing outside changes; the folder can be used, or the error says why not
// (cases 64, 68, 69).
func TestWhateverWaitsUnderOurNamesHarmsNothing(t *testing.T) {
	stem := strings.Repeat("a", 32)
	ran := 0
	for _, name := range []string{
		"lock", "instance", "ledger", "instance.tmp", "ledger.tmp", "ledger.bad",
		stem + ".part", stem + ".journal", stem + ".mark", stem + ".journal.tmp", stem + ".mark.tmp", stem + ".file",
	} {
		for kind, wait := range waiters {
			t.Run(name[max(0, len(name)-12):]+" is a "+kind, func(t *testing.T) {
				top := quickDir(t)
				dir, victim, dest := filepath.Join(top, "inbox"), filepath.Join(top, "victim"), filepath.Join(top, "dest")
				for _, d := range []string{dir, victim, dest} {
					if err := os.Mkdir(d, 0o700); err != nil {
						t.Fatal(err)
					}
				}
				for _, f := range []string{filepath.Join(victim, "precious"), filepath.Join(dir, "sibling")} {
					if err := os.WriteFile(f, []byte("precious"), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				stems := []string{stem, strings.Repeat("b", 32), strings.Repeat("c", 32), strings.Repeat("d", 32), strings.Repeat("e", 32)}
				next := 0
				options := Options{NewStem: func() string { next++; return stems[min(next, len(stems))-1] }}
				data := content(10_000, 1)

				// An earlier life has left a part and a kept file. Then something takes one name.
				b := open(t, dir, options)
				p := begin(t, b, testKey(1), Info{Size: 10_000})
				write(t, p, data[:6_000])
				if err := errors.Join(p.Mark(), p.Close()); err != nil {
					t.Fatal(err)
				}
				put(t, b, 2, "kept.txt", data)
				b.Close()
				path := filepath.Join(dir, name)
				if err := os.RemoveAll(path); err != nil {
					t.Fatal(err)
				}
				if err := wait(path, victim); errors.Is(err, syscall.EPERM) {
					t.Log("not allowed to make it")
					return
				} else if err != nil {
					t.Fatal(err)
				}
				ran++
				outside := snapshot(t, victim)
				sibling := filepath.Join(dir, "sibling")

				promptly(t, func() {
					b, err := Open(dir, options)
					if err != nil {
						if name != "lock" && name != "instance" && name != "ledger" && name != "ledger.bad" && name != "instance.tmp" && name != "ledger.tmp" {
							t.Errorf("Open = %v", err)
						}
						return
					}
					defer b.Close()
					for i := range 4 {
						f, err := takeIn(b, testKey(i), data)
						if errors.Is(err, ErrWrite) && strings.HasSuffix(name, ".file") {
							f, err = takeIn(b, testKey(i), data) // a part gets another name
						}
						if errors.Is(err, ErrHave) {
							continue
						}
						if err != nil {
							t.Errorf("transfer %d: %v", i, err)
							continue
						}
						hasContent(t, f, data)
						if _, err := f.SaveAs(dest); err != nil {
							t.Errorf("SaveAs %d = %v", i, err)
						}
					}
					for _, f := range b.Unnotified() {
						if r, err := f.Open(); err == nil {
							if info, err := r.Stat(); err != nil || !info.Mode().IsRegular() {
								t.Errorf("opened %v, %v", info.Mode(), err)
							}
							r.Close()
						}
						f.SaveAs(dest)
					}
					if err := b.Clean(time.Now().Add(1000 * time.Hour)); err != nil {
						t.Errorf("Clean = %v", err)
					}
				})
				if got := snapshot(t, victim); fmt.Sprint(got) != fmt.Sprint(outside) && kind != "second name" {
					t.Errorf("outside there is %v, was %v", got, outside)
				}
				if got, err := os.ReadFile(filepath.Join(victim, "precious")); string(got) != "precious" || err != nil {
					t.Errorf("the file outside has %d bytes, %v", len(got), err)
				}
				if got, err := os.ReadFile(sibling); string(got) != "precious" || err != nil {
					t.Errorf("the file beside has %d bytes, %v", len(got), err)
				}
				all, err := os.ReadDir(dest)
				if err != nil {
					t.Fatal(err)
				}
				for _, e := range all {
					got, err := os.ReadFile(filepath.Join(dest, e.Name()))
					if !e.Type().IsRegular() || err != nil || !bytes.Equal(got, data) && !(kind == "second name" && string(got) == "precious") {
						t.Errorf("saved %v %s of %d bytes, %v", e.Type(), e.Name(), len(got), err)
					}
				}
				if strings.HasSuffix(kind, "folder") && kind != "link to a folder" {
					if info, err := os.Lstat(path); err != nil || !info.IsDir() {
						t.Errorf("the folder is %v, %v", info, err)
					}
				}
			})
		}
	}
	t.Logf("%d cases", ran)
}

// The receive folder, a folder above it and the target of SaveAs may be anything.
func TestWhateverIsNoFolderIsRefused(t *testing.T) {
	for kind, wait := range waiters {
		if strings.Contains(kind, "folder") {
			continue
		}
		t.Run(kind, func(t *testing.T) {
			top := quickDir(t)
			victim := filepath.Join(top, "victim")
			if err := os.Mkdir(victim, 0o700); err != nil {
				t.Fatal(err)
			}
			for _, f := range []string{filepath.Join(victim, "precious"), filepath.Join(top, "sibling")} {
				if err := os.WriteFile(f, []byte("precious"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			path := filepath.Join(top, "thing")
			if err := wait(path, victim); errors.Is(err, syscall.EPERM) {
				t.Log("not allowed to make it")
				return
			} else if err != nil {
				t.Fatal(err)
			}
			b := open(t, filepath.Join(top, "inbox"), Options{})
			f := put(t, b, 1, "x", []byte("x"))
			before := snapshot(t, victim)
			promptly(t, func() {
				for _, dir := range []string{path, filepath.Join(path, "inbox"), filepath.Join(path, "a", "b")} {
					if other, err := Open(dir, Options{}); err == nil {
						other.Close()
						t.Errorf("Open(%s) works", dir)
					} else if !errors.Is(err, ErrFolder) {
						t.Errorf("Open(%s) = %v, want ErrFolder", dir, err)
					}
				}
				for _, dest := range []string{filepath.Join(path, "y"), path + "/"} {
					if got, err := f.SaveAs(dest); err == nil {
						t.Errorf("SaveAs(%s) = %s", dest, got)
					}
				}
				// As the name of a file it is taken, and the next number is free.
				if got, err := f.SaveAs(path); got != path+" (1)" || err != nil {
					t.Errorf("SaveAs = %s, %v", got, err)
				}
			})
			if got := snapshot(t, victim); fmt.Sprint(got) != fmt.Sprint(before) {
				t.Errorf("outside there is %v, was %v", got, before)
			}
		})
	}
}
