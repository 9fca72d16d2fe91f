package inbox

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// renameNoReplace renames by handles with RENAME_EXCL.
func renameNoReplace(from *place, old string, to *place, new string) error {
	err := unix.RenameatxNp(int(from.dir.Fd()), old, int(to.dir.Fd()), new, unix.RENAME_EXCL)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		return linkAndRemove(from, old, to, new)
	}
	return &os.LinkError{Op: "rename", Old: old, New: new, Err: err}
}

// datasync is Sync, which is F_FULLFSYNC here: plain fsync stops at the drive's cache.
func datasync(f *os.File) error { return f.Sync() }
