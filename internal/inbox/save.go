package inbox

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/dian-im/dian/internal/filename"
)

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
// Notified, and flushes the new one before it removes that: after a kill or a loss of
// power in between the application is told again, and the same SaveAs finds the file
// where the first has put it, or puts it there again.
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
	saved, to, err := f.moveTo(target)
	f.mu.Lock()
	f.busy = false
	if err == nil {
		f.saved, f.linked, f.to = saved, to != nil, to
	}
	f.mu.Unlock()
	if err != nil {
		return "", fmt.Errorf("save file: %w", err)
	}
	if f.told() {
		if to := f.unflushed(); to != nil { // else Notified has come meanwhile, and has seen to it
			f.box.notified(toldFile{file: f, saved: to})
		}
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

// moveTo gives the file its name elsewhere. linked is that folder if the inbox's own
// name is still there too: then the new one is to be flushed before that goes.
func (f *File) moveTo(target func() (*place, string, error)) (path string, linked *place, err error) {
	to, name, err := target()
	if err != nil {
		return "", nil, err
	}
	defer func() {
		if linked == nil {
			to.close()
		}
	}()
	source := f.box.place
	kept, err := plain(source, f.name)
	if err != nil {
		return "", nil, err
	}
	if f.before {
		if path, ok := sameFileIn(kept, to); ok {
			return path, to, nil
		}
	}
	path, err = placeNumbered(source, f.name, kept, to, name, linkBetween)
	if err == nil {
		return path, to, nil
	}
	if !errors.Is(err, errors.ErrUnsupported) && !isCrossDevice(err) {
		return "", nil, err
	}
	path, err = placeNumbered(source, f.name, kept, to, name, moveBetween)
	if err == nil {
		return path, nil, flushNamed(source, f.name, to, path)
	}
	if !isCrossDevice(err) {
		return "", nil, err
	}
	temp, copied, err := copyInto(source, f.name, kept, to)
	if err != nil {
		return "", nil, err
	}
	path, err = placeNumbered(to, temp, copied, to, name, moveBetween)
	if err == nil {
		err = flushNamed(to, temp, to, path)
	}
	if err != nil {
		to.Remove(temp)
		return "", nil, err
	}
	source.Remove(f.name) // the copy is on the disk
	return path, nil, nil
}

// flushNamed flushes the folder in which a file was moved to path; if that fails it
// moves the file back.
func flushNamed(from *place, old string, to *place, path string) error {
	if err := to.SyncDir(); err != nil {
		return errors.Join(writeError("flush folder", err), unnamed(moveBetween(to, filepath.Base(path), from, old)))
	}
	return nil
}

// sameFileIn returns the path in a folder of a file, if it has a name there.
func sameFileIn(want os.FileInfo, in *place) (string, bool) {
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

// plain looks at a name, which must be a file's and no link's.
func plain(p *place, name string) (os.FileInfo, error) {
	info, err := p.root.Lstat(name)
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%w: %v", errNotAFile, info.Mode().Type())
	}
	return info, err
}

// A naming gives a file another name, which is not replaced (fs.ErrExist). The old one
// may stay.
type naming func(from *place, old string, to *place, new string) error

// linkBetween gives a file a second name. Where there are no hard links it returns
// errors.ErrUnsupported.
func linkBetween(from *place, old string, to *place, new string) error {
	err := linkAt(from, old, to, new)
	if err == nil || errors.Is(err, fs.ErrExist) || errors.Is(err, fs.ErrNotExist) || isCrossDevice(err) {
		return err
	}
	return errors.ErrUnsupported // moving tells what is wrong
}

// placeNumbered gives the file that is the first free name made of name, and returns
// the new path. The folder is the caller's to flush. After an error the file is where
// it was. The error does not have the name, which is its sender's.
func placeNumbered(from *place, old string, is os.FileInfo, to *place, name string, way naming) (string, error) {
	for i := range mostCopies {
		free := filename.Numbered(name, i)
		err := way(from, old, to, free)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if link, ok := errors.AsType[*os.LinkError](err); ok {
			return "", fmt.Errorf("%s: %w", link.Op, link.Err)
		}
		if err != nil {
			return "", err
		}
		undo := func() error {
			if _, gone := from.root.Lstat(old); gone == nil { // a second name
				return to.Remove(free)
			}
			return unnamed(moveBetween(to, free, from, old))
		}
		// A name cannot be given only if it is a certain file's. If something had taken
		// its place that goes back: a link among somebody's documents leads elsewhere.
		if got, err := plain(to, free); err != nil || !os.SameFile(got, is) {
			return "", errors.Join(errNotAFile, undo())
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
		to.Remove(name)
		return "", nil, writeError("copy", err)
	}
	return name, copied, nil
}
