package inbox

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
)

func put(t testing.TB, b *Inbox, n int, name string, data []byte) *File {
	t.Helper()
	f, err := b.Put(testKey(n), Info{Size: int64(len(data)), Name: name}, data)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// cases 57, 58, 62, 67
func TestSaveAsNeverReplacesAndNeverEscapes(t *testing.T) {
	top := t.TempDir()
	b := open(t, filepath.Join(top, "inbox"), Options{})
	dest := filepath.Join(top, "dest")
	if err := os.Mkdir(dest, 0o755); err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct{ name, dest, want string }{
		{"photo.jpg", dest, "dest/photo.jpg"},
		{"photo.jpg", dest, "dest/photo (1).jpg"},
		{"../../photo.jpg", dest + string(filepath.Separator), "dest/photo (2).jpg"},
		{`C:\Windows\photo.jpg`, dest, "dest/photo (3).jpg"},
		{"..", dest, "dest/unnamed"},
		{"", dest, "dest/unnamed (1)"},
		{".bashrc", dest, "dest/.bashrc"},
		{"x", filepath.Join(dest, ".bashrc"), "dest/.bashrc (1)"},
		{"x", filepath.Join(dest, "my name.tar.gz"), "dest/my name.tar.gz"},
		{"x", filepath.Join(dest, "my name.tar.gz"), "dest/my name.tar (1).gz"},
	} {
		data := content(1_000, byte(i))
		f := put(t, b, i, c.name, data)
		got, err := f.SaveAs(c.dest)
		if want := filepath.Join(top, filepath.FromSlash(c.want)); got != want || err != nil || f.Path() != want {
			t.Errorf("SaveAs of %q = %q, %v, want %q", c.name, got, err, want)
			continue
		}
		hasContent(t, f, data)
		if info, err := os.Stat(got); err != nil || runtime.GOOS != "windows" && info.Mode() != 0o600 { // case 68
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
		_, err = f.SaveAs(c.dest)
		wantErr(t, "SaveAs again", err, ErrTaken)
		f.Notified()
	}
	f := put(t, b, 50, "x", []byte("x"))
	for _, nowhere := range []string{filepath.Join(dest, "none", "x"), filepath.Join(dest, "none") + string(filepath.Separator)} {
		_, err := f.SaveAs(nowhere)
		wantErr(t, "SaveAs into no folder", err, os.ErrNotExist)
	}
	hasContent(t, f, []byte("x"))
	t.Chdir(dest)
	if got, err := f.SaveAs("here"); got != filepath.Join(dest, "here") || err != nil {
		t.Errorf("SaveAs = %q, %v", got, err)
	}
	f.Notified()
	b.Close() // its own names go when the new ones are flushed
	if names := left(t, filepath.Join(top, "inbox")); len(names) != 0 {
		t.Errorf("inbox still has %v", names)
	}
	b = open(t, filepath.Join(top, "inbox"), Options{})
	if files := b.Unnotified(); len(files) != 0 {
		t.Errorf("%d files to tell of that were taken away", len(files))
	}
}

// A process that is killed after it has saved a file and before it has told anybody
// tells of it in its next life, and then has it once.
func TestFileSavedBeforeAKillIsToldOfAndKeptOnce(t *testing.T) {
	top := t.TempDir()
	dir, dest := filepath.Join(top, "inbox"), filepath.Join(top, "dest")
	if err := os.Mkdir(dest, 0o755); err != nil {
		t.Fatal(err)
	}
	b := open(t, dir, Options{})
	data := content(1_000, 1)
	for i, name := range []string{"photo.jpg", "photo.jpg", "other.jpg"} {
		f := put(t, b, i, name, data)
		if i == 1 { // the name that was taken then is free when it is told of
			defer func() {
				if got, err := os.ReadDir(dest); err != nil || len(got) != 2 {
					t.Errorf("folder has %v (%v), want two files", got, err)
				}
			}()
		}
		if _, err := f.SaveAs(dest); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			f.Notified()
		}
	}
	b.Close()
	if err := os.Remove(filepath.Join(dest, "photo.jpg")); err != nil {
		t.Fatal(err)
	}
	for range 2 { // killed again before it was told
		b = open(t, dir, Options{})
		files := b.Unnotified()
		if len(files) != 2 {
			t.Fatalf("%d files to tell of, want 2", len(files))
		}
		for _, f := range files {
			want := map[string]string{"photo.jpg": "photo (1).jpg", "other.jpg": "other.jpg"}[f.Info.Name]
			if got, err := f.SaveAs(dest); err != nil || got != filepath.Join(dest, want) {
				t.Errorf("SaveAs = %q, %v, want %q again", got, err, want)
			}
			hasContent(t, f, data)
		}
		b.Close()
	}
	b = open(t, dir, Options{})
	for _, f := range b.Unnotified() {
		if err := f.Notified(); err != nil {
			t.Error(err)
		}
	}
	b.Close()
	b = open(t, dir, Options{}) // the names it had here are found and removed
	if files, names := b.Unnotified(), left(t, dir); len(files) != 0 || runtime.GOOS != "windows" && len(names) != 0 {
		t.Errorf("%d files to tell of, folder has %v, want nothing", len(files), names)
	}
}

// case 67
func TestRacingSaversGetNamesOfTheirOwn(t *testing.T) {
	b, dest := open(t, t.TempDir(), Options{}), t.TempDir()
	const n = 40
	var all sync.WaitGroup
	for i := range n {
		f := put(t, b, i, "same.txt", content(1_000, byte(i)))
		all.Go(func() {
			if _, err := f.SaveAs(dest); err != nil {
				t.Error(err)
			}
			hasContent(t, f, content(1_000, byte(i)))
		})
	}
	all.Wait()
	if names, err := os.ReadDir(dest); len(names) != n || err != nil {
		t.Errorf("%d files, want %d", len(names), n)
	}
}

// otherFileSystem returns a folder that a rename from the temp folder does not reach.
func otherFileSystem(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "inbox")
	if err != nil {
		t.Skip("no second file system at /dev/shm")
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestSaveAsCopiesToAnotherFileSystem(t *testing.T) {
	b, dest := open(t, t.TempDir(), Options{}), otherFileSystem(t)
	for i, want := range []string{"a.txt", "a (1).txt"} {
		data := content(300_000, byte(i))
		f := put(t, b, i, "a.txt", data)
		was := f.Path()
		got, err := f.SaveAs(dest)
		if got != filepath.Join(dest, want) || err != nil {
			t.Errorf("SaveAs = %q, %v, want %s", got, err, want)
		}
		hasContent(t, f, data)
		if _, err := os.Stat(was); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the file is still at its old place: %v", err)
		}
	}
	if names, err := os.ReadDir(dest); len(names) != 2 || err != nil {
		t.Errorf("%d files, want 2", len(names))
	}
}

// The ways for file systems that cannot rename without replacing.
func TestEveryWayOfMovingRefusesToReplace(t *testing.T) {
	for name, move := range map[string]func(*place, string, *place, string) error{
		"rename": moveBetween, "link": linkAndRemove, "reserve": reserveAndRename,
	} {
		t.Run(name, func(t *testing.T) {
			dir, other := t.TempDir(), t.TempDir()
			from, err := openPlace(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer from.close()
			to, err := openPlace(other)
			if err != nil {
				t.Fatal(err)
			}
			defer to.close()
			for path, text := range map[string]string{filepath.Join(dir, "a"): "a", filepath.Join(other, "b"): "b"} {
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			wantErr(t, "move onto a file", move(from, "a", to, "b"), os.ErrExist)
			wantErr(t, "move of nothing", move(from, "none", to, "d"), os.ErrNotExist)
			if err := errors.Join(move(from, "a", to, "c"), move(to, "c", to, "e")); err != nil {
				t.Error(err)
			}
			for name, want := range map[string]string{"b": "b", "e": "a"} {
				if got, err := os.ReadFile(filepath.Join(other, name)); string(got) != want || err != nil {
					t.Errorf("%s has %q, %v, want %q", name, got, err, want)
				}
			}
			if names, err := os.ReadDir(other); len(names) != 2 || err != nil {
				t.Errorf("%d files, want 2: %v", len(names), names)
			}
		})
	}
}

// The inbox keeps its name of a saved file as long as the new one is not on the disk,
// and the application is told again in its next life.
func TestSavedNameIsFlushedBeforeTheInboxForgets(t *testing.T) {
	top := t.TempDir()
	dir, dest := filepath.Join(top, "inbox"), filepath.Join(top, "dest")
	if err := os.Mkdir(dest, 0o700); err != nil {
		t.Fatal(err)
	}
	b := open(t, dir, Options{})
	data := content(1_000, 1)
	f := put(t, b, 1, "x", data)
	if _, err := f.SaveAs(dest); err != nil {
		t.Fatal(err)
	}
	f.to.dir.Close() // so that it cannot be flushed
	f.Notified()
	b.Close()
	if names := left(t, dir); len(names) != 1 {
		t.Errorf("inbox has %v, want its own name of the file", names)
	}
	b = open(t, dir, Options{})
	files := b.Unnotified()
	if len(files) != 1 {
		t.Fatalf("%d files to tell of, want 1", len(files))
	}
	got, err := files[0].SaveAs(dest)
	if want := filepath.Join(dest, "x"); got != want || err != nil {
		t.Errorf("SaveAs = %q, %v, want %q as before", got, err, want)
	}
	files[0].Notified()
	b.Close()
	if names := left(t, dir); len(names) != 0 {
		t.Errorf("inbox still has %v", names)
	}
}
