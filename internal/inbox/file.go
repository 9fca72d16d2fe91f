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

	mu    sync.Mutex // guards saved and busy
	saved string     // where SaveAs put it
	busy  bool       // SaveAs is at it
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
			out = append(out, newFile(b, *e))
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
	return nil
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
// The folder is held open, so swapping it for a link does not redirect the file. On
// Windows, where a rename goes by path, that holds for copies only.
func (f *File) SaveAs(dest string) (string, error) {
	if err := f.begin(); err != nil {
		return "", err
	}
	saved, err := f.saveAs(dest)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.busy = false
	if err != nil {
		return "", fmt.Errorf("save file: %w", err)
	}
	f.saved = saved
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

func (f *File) saveAs(dest string) (string, error) {
	dir, name := filepath.Split(dest)
	if info, err := os.Stat(dest); name == "" || err == nil && info.IsDir() {
		dir, name = dest, SafeName(f.Info.Name)
	} else if dir == "" {
		dir = "."
	}
	to, err := openPlace(dir)
	if err != nil {
		return "", err
	}
	defer to.close()
	source := f.box.place
	path, err := moveNumbered(source, f.name, to, name)
	if !isCrossDevice(err) {
		return path, err
	}
	temp, err := copyInto(source, f.name, to)
	if err != nil {
		return "", err
	}
	if path, err = moveNumbered(to, temp, to, name); err != nil {
		to.Remove(temp)
		return "", err
	}
	source.Remove(f.name) // the copy is on the disk
	return path, nil
}

// moveNumbered moves a file to the first free name made of name, flushes the folder
// and returns the new path. After an error the file is where it was.
func moveNumbered(from *place, old string, to *place, name string) (string, error) {
	for i := range mostCopies {
		free := numbered(name, i)
		err := moveBetween(from, old, to, free)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		if err := to.SyncDir(); err != nil {
			return "", errors.Join(writeError("flush folder", err), moveBetween(to, free, from, old))
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
