package inbox

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// The tests of this file are about os.Root, on which the receive folder rests: each
// known way out of it stays closed (case 66). go.mod refuses the Go releases that
// have one of them open.

// rootArena makes a root and, beside it, an outside with a file of 7 bytes.
func rootArena(t *testing.T) (root *os.Root, inside, outside string) {
	t.Helper()
	top := t.TempDir()
	inside, outside = filepath.Join(top, "inside"), filepath.Join(top, "outside")
	for _, dir := range []string{inside, outside} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("outside"), 0o600); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(inside)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root, inside, outside
}

// leadsNowhere holds that no method of root gets anywhere by name.
func leadsNowhere(t *testing.T, root *os.Root, name string) {
	t.Helper()
	for what, err := range map[string]error{
		"Open":         closing(root.Open(name)),
		"OpenFile":     closing(root.OpenFile(name, os.O_RDONLY, 0)),
		"OpenFile new": closing(root.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)),
		"OpenRoot":     closing(root.OpenRoot(name)),
		"Stat":         second(root.Stat(name)),
		"ReadFile":     second(root.ReadFile(name)),
		"WriteFile":    root.WriteFile(name, nil, 0o600),
		"Chmod":        root.Chmod(name, 0o777),
		"Mkdir":        root.Mkdir(name, 0o700),
		"ReadDir":      second(fs.ReadDir(root.FS(), strings.TrimSuffix(name, "/"))),
	} {
		if err == nil {
			t.Errorf("%s of %q leads out of the root", what, name)
		}
	}
}

func closing[T interface{ Close() error }](f T, err error) error {
	if err == nil {
		f.Close()
	}
	return err
}

func second[T any](_ T, err error) error { return err }

// CVE-2025-22873: a name that ends in "../" opened the parent of the root.
func TestRootRefusesItsParent(t *testing.T) {
	root, inside, _ := rootArena(t)
	if err := os.Mkdir(filepath.Join(inside, "d"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"..", "../", "..//", ".././", "d/../../", "./../", "../.", "../outside", "../outside/", "../outside/secret", "d/../../outside/secret"} {
		leadsNowhere(t, root, name)
		if _, err := root.Lstat(name); err == nil {
			t.Errorf("Lstat of %q leads out of the root", name)
		}
	}
}

// CVE-2026-39822: a link with a slash behind it was followed out of the root.
func TestRootRefusesALinkWithASlash(t *testing.T) {
	root, inside, outside := rootArena(t)
	for name, to := range map[string]string{"absolute": outside, "relative": "../outside", "file": filepath.Join(outside, "secret"), "new": filepath.Join(outside, "new")} {
		if err := os.Symlink(to, filepath.Join(inside, name)); err != nil {
			t.Fatal(err)
		}
		for _, end := range []string{"", "/", "//", "/.", "/./", "/secret", "//secret"} {
			leadsNowhere(t, root, name+end)
		}
	}
	if _, err := os.Lstat(filepath.Join(outside, "new")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("something was made outside: %v", err)
	}
	if info, err := os.Stat(outside); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder outside is %v, %v", info.Mode(), err)
	}
}

// CVE-2026-27139: what a folder's entries told of themselves was looked up by path,
// and could be about a file outside.
func TestRootListsItsOwnEntries(t *testing.T) {
	root, inside, outside := rootArena(t)
	if err := errors.Join(os.Mkdir(filepath.Join(inside, "d"), 0o700), os.WriteFile(filepath.Join(inside, "d", "secret"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	dir, err := root.Open("d")
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	if err != nil || len(entries) != 1 {
		t.Fatalf("%v, %v", entries, err)
	}
	if err := errors.Join(os.RemoveAll(filepath.Join(inside, "d")), os.Symlink(outside, filepath.Join(inside, "d"))); err != nil {
		t.Fatal(err)
	}
	if info, err := entries[0].Info(); err == nil && info.Size() == 7 {
		t.Errorf("the entry tells of a file outside: %v, %d bytes", info.Mode(), info.Size())
	}

	// The same for the receive folder's own list, with its path swapped.
	folder := filepath.Join(inside, "folder")
	if err := errors.Join(os.Mkdir(folder, 0o700), os.WriteFile(filepath.Join(folder, "secret"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	p, err := openPlace(folder)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	if err := errors.Join(os.Rename(folder, folder+".away"), os.Symlink(outside, folder)); err != nil {
		t.Fatal(err)
	}
	list, err := p.List()
	if err != nil || len(list) != 1 || list[0].Size != 0 {
		t.Errorf("the list is %v, %v", list, err)
	}
}

// CVE-2026-32282: a file that became a link while its mode was changed had the mode
// of the link's target changed. The inbox changes no modes; whoever begins to is safe.
func TestRootChangesNoModeOutside(t *testing.T) {
	root, inside, outside := rootArena(t)
	file, link, secret := filepath.Join(inside, "f"), filepath.Join(inside, "l"), filepath.Join(outside, "secret")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Symlink(secret, link)); err != nil {
		t.Fatal(err)
	}
	a := &arena{top: inside, swaps: new(atomic.Int64)}
	stop := a.swapping(1, func(*rand.Rand) error {
		return unix.Renameat2(unix.AT_FDCWD, file, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE)
	})
	changed := 0
	for range 20_000 {
		if root.Chmod("f", 0o640) == nil {
			changed++
		}
	}
	stop()
	if info, err := os.Stat(secret); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file outside has mode %v, %v", info.Mode(), err)
	}
	if changed == 0 || a.swaps.Load() == 0 {
		t.Errorf("%d changes of mode, %d swaps: the race was not run", changed, a.swaps.Load())
	}
}

// CVE-2025-0913 (of Windows): a link that leads nowhere was followed by O_EXCL, too.
func TestExclusiveCreationFollowsNoLink(t *testing.T) {
	root, inside, outside := rootArena(t)
	for name, to := range map[string]string{"out": filepath.Join(outside, "new"), "in": "new", "self": "self"} {
		if err := os.Symlink(to, filepath.Join(inside, name)); err != nil {
			t.Fatal(err)
		}
		f, err := root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if !errors.Is(err, fs.ErrExist) {
			t.Errorf("%s: created %v, %v, want ErrExist", name, f, err)
		}
	}
	for _, path := range []string{filepath.Join(outside, "new"), filepath.Join(inside, "new")} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
