package inbox

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/dian-im/dian/internal/filename"
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

// Open opens the file for reading. The caller closes it. What has taken the file's
// place, a link, a FIFO or a folder, is not opened.
func (f *File) Open() (*os.File, error) {
	f.mu.Lock()
	saved := f.saved
	f.mu.Unlock()
	if saved == "" {
		return f.box.place.openFile(f.name, os.O_RDONLY)
	}
	file, err := os.OpenFile(saved, os.O_RDONLY|careful, 0)
	if err != nil {
		return nil, err
	}
	if err := own(file, ""); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
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
// Links in dest are followed, as its owner means them, when it is opened. From then
// on the folder is held, so swapping it for a link does not redirect the file. On
// Windows, where a rename goes by path, that holds for copies only.
func (f *File) SaveAs(dest string) (string, error) {
	return f.save(func() (*place, string, error) {
		dir, name := filepath.Split(dest)
		if info, err := os.Stat(dest); name == "" || err == nil && info.IsDir() {
			dir, name = dest, SafeName(f.Info.Name)
		} else if dir == "" {
			dir = "."
		}
		to, err := openPlace(dir)
		return to, name, err
	})
}

// SaveIn is SaveAs into a folder that is open already, whatever has become of its
// path since. The folder stays open; the path returned begins with its Name.
func (f *File) SaveIn(dir *os.Root) (string, error) {
	return f.save(func() (*place, string, error) {
		to, err := placeIn(dir)
		return to, SafeName(f.Info.Name), err
	})
}

func (f *File) save(target func() (*place, string, error)) (string, error) {
	if err := f.begin(); err != nil {
		return "", err
	}
	saved, err := f.moveTo(target)
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

func (f *File) moveTo(target func() (*place, string, error)) (string, error) {
	to, name, err := target()
	if err != nil {
		return "", err
	}
	defer to.close()
	source := f.box.place
	kept, err := plain(source, f.name)
	if err != nil {
		return "", err
	}
	path, err := moveNumbered(source, f.name, kept, to, name)
	if !isCrossDevice(err) {
		return path, err
	}
	temp, copied, err := copyInto(source, f.name, kept, to)
	if err != nil {
		return "", err
	}
	if path, err = moveNumbered(to, temp, copied, to, name); err != nil {
		to.remove(temp)
		return "", err
	}
	source.remove(f.name) // the copy is on the disk
	return path, nil
}

// plain looks at a name, which must be a file's and no link's.
func plain(p *place, name string) (os.FileInfo, error) {
	info, err := p.root.Lstat(name)
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%w: %v", errNotAFile, info.Mode().Type())
	}
	return info, err
}

// moveNumbered moves the file that is to the first free name made of name, flushes
// the folder and returns the new path. After an error the file is where it was. The
// error does not have the name, which is its sender's.
func moveNumbered(from *place, old string, is os.FileInfo, to *place, name string) (string, error) {
	for i := range mostCopies {
		free := filename.Numbered(name, i)
		err := moveBetween(from, old, to, free)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if link, ok := errors.AsType[*os.LinkError](err); ok {
			return "", fmt.Errorf("%s: %w", link.Op, link.Err)
		}
		if err != nil {
			return "", err
		}
		// A name cannot be moved only if it is a certain file's. If something had taken
		// its place it goes back: a link among somebody's documents leads elsewhere.
		if got, err := plain(to, free); err != nil || !os.SameFile(got, is) {
			return "", errors.Join(errNotAFile, unnamed(moveBetween(to, free, from, old)))
		}
		if err := to.syncDir(); err != nil {
			return "", errors.Join(writeError("flush folder", err), unnamed(moveBetween(to, free, from, old)))
		}
		return filepath.Join(to.path, free), nil
	}
	return "", fmt.Errorf("%d names are taken: %w", mostCopies, fs.ErrExist)
}

// unnamed takes the names out of an error of moving.
func unnamed(err error) error {
	if link, ok := errors.AsType[*os.LinkError](err); ok {
		return fmt.Errorf("move back: %w", link.Err)
	}
	return err
}

// copyInto copies a file to another file system, under a random name that SaveAs
// then renames, and flushes it.
func copyInto(from *place, old string, is os.FileInfo, to *place) (name string, copied os.FileInfo, err error) {
	source, err := from.openFile(old, os.O_RDONLY)
	if err != nil {
		return "", nil, err
	}
	defer source.Close()
	if info, err := source.Stat(); err != nil || !os.SameFile(info, is) {
		return "", nil, errors.Join(errNotAFile, err)
	}
	name = ".dian-" + newStem() + ".tmp"
	target, err := to.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", nil, err
	}
	_, err = io.Copy(target, source)
	if err == nil {
		err = target.Sync()
	}
	if err == nil {
		copied, err = target.Stat()
	}
	err = errors.Join(err, target.Close())
	if err != nil {
		to.remove(name)
		return "", nil, writeError("copy", err)
	}
	return name, copied, nil
}
