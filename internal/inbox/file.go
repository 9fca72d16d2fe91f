package inbox

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
)

// A File is a received file that is kept: complete, verified and on the disk. It is
// the application's from now on.
type File struct {
	Key  Key
	Info Info

	box  *Inbox
	name string // in the inbox's folder

	mu     sync.Mutex // guards what follows
	saved  string     // where SaveAs put it
	linked bool       // its old name is still here, until the application was told
	before bool       // an earlier life may have saved it, and was killed before it told of it
	busy   bool       // SaveAs is at it
}

func newFile(b *Inbox, e entry) *File {
	return &File{Key: e.key, Info: e.info, box: b, name: e.stem + ".file"}
}

// Unnotified returns the kept files of which the application may not have been told:
// whose Notified was not called, or not written down before a crash. A program asks
// once, after Open.
func (b *Inbox) Unnotified() []*File {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []*File
	for _, e := range b.entries {
		if e.state == Have && !e.notified {
			f := newFile(b, *e)
			f.before = true
			out = append(out, f)
		}
	}
	return out
}

// Path returns where the file is, as an absolute path.
func (f *File) Path() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.saved != "" {
		return f.saved
	}
	return filepath.Join(f.box.place.path, f.name)
}

// Open opens the file for reading. The caller closes it.
func (f *File) Open() (*os.File, error) {
	f.mu.Lock()
	saved := f.saved
	f.mu.Unlock()
	if saved != "" {
		return os.Open(saved)
	}
	return f.box.place.root.Open(f.name)
}

// Notified notes that the application was told of the file. It does not wait for the
// disk: after a crash the application may be told once more.
func (f *File) Notified() error {
	b := f.box
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return ErrClosed
	}
	e := b.entries[f.Key]
	first := e != nil && e.state == Have && !e.notified
	if first {
		e.notice()
	}
	b.mu.Unlock()
	if first {
		b.notified(f.Key)
	}
	f.unlink()
	return nil
}

// unlink removes the name in the inbox of a file that was saved elsewhere, once the
// application was told of it.
func (f *File) unlink() {
	f.mu.Lock()
	linked := f.linked
	f.linked = false
	f.mu.Unlock()
	if linked {
		f.box.discard(f.name)
	}
}

// told reports whether the application was told of the file.
func (f *File) told() bool {
	b := f.box
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entries[f.Key]
	return e == nil || e.notified
}

// mostCopies bounds the numbers that SaveAs tries.
const mostCopies = 10_000

// SaveAs moves the file out of the inbox and returns its new absolute path. If dest
// is a folder, the file goes there under the SafeName of what its sender called it;
// else dest names the file. It never replaces: if the name is taken it becomes
// "photo (1).jpg" and so on, which is settled by the file system, so that several
// savers cannot take the same one (case 67). Mode 0600 stays, and nothing about the
// file but its bytes and, in a folder, its name comes from the sender (case 68). To
// another file system it copies. A file can be saved once: then ErrTaken.
//
// Where the file system has hard links the inbox keeps its own name for the file until
// Notified: after a kill in between the application is told again, and the same SaveAs
// finds the file where the first has put it.
//
// The folder is held open, so swapping it for a link does not redirect the file. On
// Windows, where a rename goes by path, that holds for copies only.
func (f *File) SaveAs(dest string) (string, error) {
	if err := f.begin(); err != nil {
		return "", err
	}
	saved, linked, err := f.saveAs(dest)
	f.mu.Lock()
	f.busy = false
	if err == nil {
		f.saved, f.linked = saved, linked
	}
	f.mu.Unlock()
	if err != nil {
		return "", fmt.Errorf("save file: %w", err)
	}
	if f.told() {
		f.unlink()
	}
	return saved, nil
}

// begin keeps others from saving the same file.
func (f *File) begin() error {
	if f.box.isClosed() {
		return ErrClosed
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.saved != "" || f.busy {
		return ErrTaken
	}
	f.busy = true
	return nil
}

func (f *File) saveAs(dest string) (path string, linked bool, err error) {
	dir, name := filepath.Split(dest)
	if info, err := os.Stat(dest); name == "" || err == nil && info.IsDir() {
		dir, name = dest, SafeName(f.Info.Name)
	} else if dir == "" {
		dir = "."
	}
	to, err := openPlace(dir)
	if err != nil {
		return "", false, err
	}
	defer to.close()
	source := f.box.place
	if f.before {
		if path, ok := sameFileIn(source, f.name, to); ok {
			return path, true, nil
		}
	}
	path, err = placeNumbered(source, f.name, to, name, linkBetween)
	if !errors.Is(err, errors.ErrUnsupported) && !isCrossDevice(err) {
		return path, true, err
	}
	path, err = moveNumbered(source, f.name, to, name)
	if !isCrossDevice(err) {
		return path, false, err
	}
	temp, err := copyInto(source, f.name, to)
	if err != nil {
		return "", false, err
	}
	if path, err = moveNumbered(to, temp, to, name); err != nil {
		to.Remove(temp)
		return "", false, err
	}
	source.Remove(f.name) // the copy is on the disk
	return path, false, nil
}

// sameFileIn returns the path in a folder of the file that from calls name, if it
// has a name there too.
func sameFileIn(from *place, name string, in *place) (string, bool) {
	want, err := from.root.Lstat(name)
	if err != nil {
		return "", false
	}
	entries, err := fs.ReadDir(in.root.FS(), ".")
	if err != nil {
		return "", false
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && os.SameFile(info, want) {
			return filepath.Join(in.path, e.Name()), true
		}
	}
	return "", false
}

// moveNumbered moves a file to the first free name made of name, flushes the folder
// and returns the new path. After an error the file is where it was.
func moveNumbered(from *place, old string, to *place, name string) (string, error) {
	return placeNumbered(from, old, to, name, moveBetween)
}

// placeNumbered is moveNumbered with a way to give a file another name, which never
// replaces.
func placeNumbered(from *place, old string, to *place, name string, way func(*place, string, *place, string) error) (string, error) {
	for i := range mostCopies {
		free := numbered(name, i)
		err := way(from, old, to, free)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		if err := to.SyncDir(); err != nil {
			err = writeError("flush folder", err)
			if _, gone := from.root.Lstat(old); gone == nil { // a second name
				return "", errors.Join(err, to.Remove(free))
			}
			return "", errors.Join(err, moveBetween(to, free, from, old))
		}
		return filepath.Join(to.path, free), nil
	}
	return "", fmt.Errorf("%s: %w", name, fs.ErrExist)
}

// numbered returns the name to try after i taken ones.
func numbered(name string, i int) string {
	if i == 0 {
		return name
	}
	stem, ext := splitExt(name)
	return stem + " (" + strconv.Itoa(i) + ")" + ext
}

// copyInto copies a file to another file system, under a random name that SaveAs
// then renames, and flushes it.
func copyInto(from *place, old string, to *place) (name string, err error) {
	source, err := from.root.Open(old)
	if err != nil {
		return "", err
	}
	defer source.Close()
	name = ".dian-" + newStem() + ".tmp"
	target, err := to.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(target, source)
	if err == nil {
		err = target.Sync()
	}
	err = errors.Join(err, target.Close())
	if err != nil {
		to.Remove(name)
		return "", writeError("copy", err)
	}
	return name, nil
}

// KeptName returns the name on the disk of a kept file, "" if there is none.
func (b *Inbox) KeptName(key Key) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := b.entries[key]; e != nil && e.state == Have {
		return e.stem + ".file"
	}
	return ""
}
