package memdisk

import (
	"errors"

	"github.com/dian-im/dian/internal/disk"
)

// Hook returns d with hook called before each change, with the change's name
// (create, rename, move, remove, syncDir, flush, write, truncate, sync) and the file's. An
// error of hook is the change's, which then has not happened.
func Hook(d disk.Disk, hook func(op, name string) error) disk.Disk { return hooked{d, hook} }

type hooked struct {
	disk.Disk
	hook func(op, name string) error
}

func (d hooked) Create(name string) (disk.File, error) {
	if err := d.hook("create", name); err != nil {
		return nil, err
	}
	f, err := d.Disk.Create(name)
	if err != nil {
		return nil, err
	}
	return hookedFile{f, d.hook, name}, nil
}

func (d hooked) Open(name string) (disk.File, error) {
	f, err := d.Disk.Open(name)
	if err != nil {
		return nil, err
	}
	return hookedFile{f, d.hook, name}, nil
}

func (d hooked) Rename(from, to string) error {
	if err := d.hook("rename", to); err != nil {
		return err
	}
	return d.Disk.Rename(from, to)
}

func (d hooked) Move(from, to string) error {
	if err := d.hook("move", to); err != nil {
		return err
	}
	return d.Disk.Move(from, to)
}

func (d hooked) Remove(name string) error {
	if err := d.hook("remove", name); err != nil {
		return err
	}
	return d.Disk.Remove(name)
}

func (d hooked) SyncDir() error {
	if err := d.hook("syncDir", "."); err != nil {
		return err
	}
	return d.Disk.SyncDir()
}

// Flush implements disk.Flusher, if d does.
func (d hooked) Flush() error {
	f, ok := d.Disk.(disk.Flusher)
	if !ok {
		return errors.ErrUnsupported
	}
	if err := d.hook("flush", "."); err != nil {
		return err
	}
	return f.Flush()
}

type hookedFile struct {
	disk.File
	hook func(op, name string) error
	name string
}

func (f hookedFile) WriteAt(b []byte, at int64) (int, error) {
	if err := f.hook("write", f.name); err != nil {
		return 0, err
	}
	return f.File.WriteAt(b, at)
}

func (f hookedFile) Truncate(size int64) error {
	if err := f.hook("truncate", f.name); err != nil {
		return err
	}
	return f.File.Truncate(size)
}

func (f hookedFile) Sync() error {
	if err := f.hook("sync", f.name); err != nil {
		return err
	}
	return f.File.Sync()
}

func (f hookedFile) Datasync() error {
	if err := f.hook("sync", f.name); err != nil {
		return err
	}
	return f.File.Datasync()
}
