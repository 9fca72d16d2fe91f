package inbox

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/dian-im/dian/internal/filename"
	"github.com/dian-im/dian/internal/filename/names"
)

// Every hostile name, on every way into a folder: the inbox's own file has a random
// name, and a saved one its safe name, the next number, or what the application
// chose (cases 57, 58, 60 to 63, 67, 68).
func TestHostileNamesOnDisk(t *testing.T) {
	top := t.TempDir()
	if quick, err := os.MkdirTemp("/dev/shm", "inbox"); err == nil { // nothing here is about a disk
		t.Cleanup(func() { os.RemoveAll(quick) })
		top = quick
	}
	box := filepath.Join(top, "inbox")
	b := open(t, box, Options{})
	outside := filepath.Join(top, "x")
	if err := os.WriteFile(outside, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, row := range names.All(t) {
		if len(row.In) > maxName {
			if _, err := b.Put(testKey(0), Info{Name: row.In}, nil); err == nil {
				t.Errorf("%s: a name of %d bytes is taken", row.Name, len(row.In))
			}
			continue
		}
		dest := filepath.Join(top, "dest")
		if err := os.Mkdir(dest, 0o700); err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenRoot(dest)
		if err != nil {
			t.Fatal(err)
		}
		want := []string{row.Safe, filename.Numbered(row.Safe, 1), "chosen", filename.Numbered(row.Safe, 2)}
		for i, name := range want {
			n++
			data := content(100, byte(n))
			f := put(t, b, n, row.In, data)
			if f.Info.Name != row.In {
				t.Errorf("%s: the name became %q", row.Name, f.Info.Name)
			}
			if stem, suffix, ok := ownName(filepath.Base(f.Path())); !ok || suffix != ".file" || filepath.Dir(f.Path()) != box {
				t.Errorf("%s: kept as %s (%s %s)", row.Name, f.Path(), stem, suffix)
			}
			var got string
			switch i {
			case 0:
				got, err = f.SaveAs(dest)
			case 1:
				got, err = f.SaveAs(dest + string(filepath.Separator))
			case 2:
				got, err = f.SaveAs(filepath.Join(dest, "chosen"))
			case 3:
				got, err = f.SaveIn(root)
			}
			if got != filepath.Join(dest, name) || err != nil {
				t.Errorf("%s: saved as %q, %v, want %q", row.Name, got, err, name)
				continue
			}
			hasContent(t, f, data)
			f.Notified()
			if info, err := os.Lstat(got); err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o177 != 0 {
				t.Errorf("%s: %v, %v", row.Name, info.Mode(), err)
			}
			for _, broken := range names.Broken(filepath.Base(got)) {
				t.Errorf("%s: saved as %q, which %s", row.Name, got, broken)
			}
		}
		root.Close()
		all, err := os.ReadDir(dest)
		if err != nil || len(all) != len(want) {
			t.Errorf("%s: %d files are there, want %d", row.Name, len(all), len(want))
		}
		if err := os.RemoveAll(dest); err != nil {
			t.Fatal(err)
		}
	}
	all, err := os.ReadDir(top)
	if err != nil || len(all) != 2 {
		t.Errorf("beside the folders there is %v, %v", all, err)
	}
	if got, err := os.ReadFile(outside); string(got) != "precious" || err != nil {
		t.Errorf("the file outside has %q, %v", got, err)
	}
	b.Close() // its own names go when the new ones are flushed
	if got := left(t, box); len(got) != 0 {
		t.Errorf("the inbox still has %v", got)
	}
	t.Logf("%d files", n)
}
