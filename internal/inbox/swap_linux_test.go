package inbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// swapper makes top with a receive folder, a victim and a target, and an inbox that
// has a part of 6,000 bytes and a kept file.
func swapper(t *testing.T) (top string, b *Inbox, p *Part, f *File) {
	t.Helper()
	top = quickDir(t)
	for _, name := range []string{"victim", "dest"} {
		if err := os.Mkdir(filepath.Join(top, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	b = open(t, filepath.Join(top, "inbox"), Options{})
	for _, name := range []string{"victim/precious", "inbox/sibling"} {
		if err := os.WriteFile(filepath.Join(top, name), content(10_000, 9), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p = begin(t, b, testKey(1), Info{Size: 10_000})
	write(t, p, content(6_000, 1))
	if err := errors.Join(p.Mark(), p.Close()); err != nil {
		t.Fatal(err)
	}
	return top, b, p, put(t, b, 2, "kept.txt", content(10_000, 2))
}

// What takes the place of a part or a kept file while the inbox is open is not gone
// on with, not opened and not saved (cases 64, 65).
func TestWhatTakesTheirPlaceIsNotTaken(t *testing.T) {
	elsewhere := t.TempDir() // not the file system of quickDir, where there is one
	for kind, wait := range waiters {
		t.Run(kind, func(t *testing.T) {
			top, b, p, f := swapper(t)
			part, file, victim := filepath.Join(top, "inbox", p.stem+".part"), f.Path(), filepath.Join(top, "victim")
			for _, path := range []string{part, file} {
				if err := os.Rename(path, path+".away"); err != nil {
					t.Fatal(err)
				}
				if err := wait(path, victim); errors.Is(err, syscall.EPERM) {
					t.Log("not allowed to make it")
					return
				} else if err != nil {
					t.Fatal(err)
				}
			}
			before := snapshot(t, victim)
			promptly(t, func() {
				if kind != "second name" { // of which one cannot see that it was not ours
					if r, err := f.Open(); err == nil {
						t.Errorf("Open opens it")
						r.Close()
					}
					for _, dest := range []string{filepath.Join(top, "dest"), filepath.Join(top, "dest", "name"), elsewhere} {
						if got, err := f.SaveAs(dest); err == nil {
							t.Errorf("SaveAs saves it as %s", got)
						}
					}
					for _, dir := range []string{filepath.Join(top, "dest"), elsewhere} {
						if all, err := os.ReadDir(dir); err != nil || len(all) != 0 {
							t.Errorf("the target has %v, %v", all, err)
						}
					}
				}
				got, err := takeIn(b, testKey(1), content(10_000, 1))
				if err != nil {
					t.Errorf("the part cannot be received anew: %v", err)
					return
				}
				hasContent(t, got, content(10_000, 1))
			})
			if got := snapshot(t, victim); fmt.Sprint(got) != fmt.Sprint(before) && kind != "second name" {
				t.Errorf("outside there is %v, was %v", got, before)
			}
			for _, name := range []string{"victim/precious", "inbox/sibling"} {
				if got, err := os.ReadFile(filepath.Join(top, name)); string(got) != string(content(10_000, 9)) || err != nil {
					t.Errorf("%s has changed: %d bytes, %v", name, len(got), err)
				}
			}
		})
	}
}

// A part that got a second name, by a backup or by somebody who waits for what comes,
// is not written to any more.
func TestPartWithASecondNameIsLeftAlone(t *testing.T) {
	top, b, p, _ := swapper(t)
	backup := filepath.Join(top, "victim", "backup")
	if err := os.Link(filepath.Join(top, "inbox", p.stem+".part"), backup); err != nil {
		t.Fatal(err)
	}
	f, err := takeIn(b, testKey(1), content(10_000, 1))
	if err != nil {
		t.Fatal(err)
	}
	hasContent(t, f, content(10_000, 1))
	if got, err := os.ReadFile(backup); string(got) != string(content(6_000, 1)) || err != nil {
		t.Errorf("the second name has %d bytes, %v", len(got), err)
	}
}

// A saved file is opened by its path, and what has taken that place is not.
func TestSavedFileIsOpenedAsAFileOnly(t *testing.T) {
	for kind, wait := range waiters {
		if kind == "second name" {
			continue
		}
		top, _, _, f := swapper(t)
		path, err := f.SaveAs(filepath.Join(top, "dest"))
		if err != nil {
			t.Fatal(err)
		}
		hasContent(t, f, content(10_000, 2))
		if err := errors.Join(os.Remove(path), wait(path, filepath.Join(top, "victim"))); errors.Is(err, syscall.EPERM) {
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		promptly(t, func() {
			if r, err := f.Open(); err == nil {
				t.Errorf("%s: Open opens it", kind)
				r.Close()
			}
		})
	}
}

// What is swapped between the look and the naming comes back, or gets no second name:
// nothing but the file itself is left in the target.
func TestSwapBetweenLookAndNamingIsUndone(t *testing.T) {
	for kind, wait := range waiters {
		for how, way := range map[string]naming{"link": linkBetween, "move": moveBetween} {
			top, b, _, f := swapper(t)
			to, err := openPlace(filepath.Join(top, "dest"))
			if err != nil {
				t.Fatal(err)
			}
			defer to.close()
			is, err := plain(b.place, f.name)
			if err != nil {
				t.Fatal(err)
			}
			path := f.Path()
			if err := errors.Join(os.Rename(path, path+".away"), wait(path, filepath.Join(top, "victim"))); errors.Is(err, syscall.EPERM) {
				continue
			} else if err != nil {
				t.Fatal(err)
			}
			got, err := placeNumbered(b.place, f.name, is, to, "x", way)
			folder := how == "link" && errors.Is(err, errors.ErrUnsupported) // has no second name
			if !errors.Is(err, errNotAFile) && !folder {
				t.Errorf("%s, %s: placed at %q, %v", kind, how, got, err)
			}
			if all, err := os.ReadDir(to.path); err != nil || len(all) != 0 {
				t.Errorf("%s, %s: the target has %v, %v", kind, how, all, err)
			}
			if _, err := os.Lstat(path); err != nil {
				t.Errorf("%s, %s: it is not back: %v", kind, how, err)
			}
			if _, _, err := copyInto(b.place, f.name, is, to); err == nil {
				t.Errorf("%s: copied", kind)
			}
		}
	}
}
