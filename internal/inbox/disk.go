package inbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/dian-im/dian/internal/disk"
)

// A place is a folder held by handle, so that nobody who swaps it or a parent of it
// for a link can send a write elsewhere (case 65).
type place struct {
	root *os.Root
	dir  *os.File // the same folder, for flushes and renames
	path string   // absolute, to show and for the systems that rename by path
}

func openPlace(path string) (*place, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(asFolder(path))
	if err != nil {
		return nil, err
	}
	dir, err := root.Open(".")
	if err != nil {
		root.Close()
		return nil, err
	}
	return &place{root: root, dir: dir, path: path}, nil
}

// placeIn is a place of its own for a folder that is open.
func placeIn(open *os.Root) (*place, error) {
	root, err := open.OpenRoot(".")
	if err != nil {
		return nil, err
	}
	dir, err := root.Open(".")
	if err != nil {
		root.Close()
		return nil, err
	}
	path, err := filepath.Abs(open.Name())
	if err != nil {
		path = open.Name()
	}
	return &place{root: root, dir: dir, path: path}, nil
}

func (p *place) close() error { return errors.Join(p.dir.Close(), p.root.Close()) }

func (p *place) Create(name string) (disk.File, error) {
	f, err := p.root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (p *place) Open(name string) (disk.File, error) {
	f, err := p.openFile(name, os.O_RDWR)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (p *place) Rename(from, to string) error { return p.root.Rename(from, to) }
func (p *place) Move(from, to string) error   { return moveBetween(p, from, p, to) }

func (p *place) List() ([]disk.Entry, error) {
	dir, err := p.root.Open(".") // a fresh one: reading p.dir would move its position
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	all, err := dir.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	var out []disk.Entry
	for _, e := range all {
		if !e.Type().IsRegular() {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, disk.Entry{Name: e.Name(), Size: info.Size(), ModTime: info.ModTime(), Links: linksOf(info)})
	}
	return out, nil
}

func (p *place) SyncDir() error { return syncFolder(p.dir) }

type osFile struct{ *os.File }

func (f osFile) Datasync() error { return datasync(f.File) }

func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// moveBetween renames a file from one folder into another, never over something
// that is there (fs.ErrExist). isCrossDevice tells whether copying could help.
func moveBetween(from *place, old string, to *place, new string) error {
	err := renameNoReplace(from, old, to, new)
	if !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	return reserveAndRename(from, old, to, new)
}

// reserveAndRename is for file systems that know neither a rename that refuses to
// replace nor hard links: it takes the name with an empty file of its own, which
// no two callers can both do, and renames over that. A crash in between leaves an
// empty file.
func reserveAndRename(from *place, old string, to *place, new string) error {
	mine, err := to.Create(new)
	if err != nil {
		return err
	}
	mine.Close()
	if err := renameAt(from, old, to, new); err != nil {
		to.Remove(new)
		return err
	}
	return nil
}

// linkAndRemove moves by a second link, which never replaces.
func linkAndRemove(from *place, old string, to *place, new string) error {
	err := linkAt(from, old, to, new)
	switch {
	case err == nil:
		return from.Remove(old)
	case errors.Is(err, fs.ErrExist), errors.Is(err, fs.ErrNotExist), isCrossDevice(err):
		return err
	case errors.Is(err, errors.ErrUnsupported), errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EINVAL):
		return fmt.Errorf("link: %w", errors.ErrUnsupported)
	}
	return err
}

// readAll returns the content of a file, or an error if it is longer than limit.
func readAll(d disk.Disk, name string, limit int64) ([]byte, error) {
	f, err := d.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size > limit {
		return nil, fmt.Errorf("%s has %d bytes, more than %d", name, size, limit)
	}
	b := make([]byte, size)
	if n, err := f.ReadAt(b, 0); int64(n) < size {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return b, nil
}

// writeWhole makes b the content of the file name: all of it or, after a crash,
// what was there. With sync, it is flushed before it takes the name.
func writeWhole(d disk.Disk, name string, b []byte, sync bool) error {
	temp := name + ".tmp"
	d.Remove(temp) // an older try's
	f, err := d.Create(temp)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, 0)
	if err == nil && sync {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = d.Rename(temp, name)
	}
	if err != nil {
		d.Remove(temp)
	}
	return err
}
