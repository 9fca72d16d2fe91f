package inbox

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// renameNoReplace renames by handles with RENAME_EXCL.
func renameNoReplace(from *place, old string, to *place, new string) error {
	err := withFolders(from, to, func(fromFD, toFD int) error {
		return linkError("rename", old, new, unix.RenameatxNp(fromFD, old, toFD, new, unix.RENAME_EXCL))
	})
	if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		return linkAndRemove(from, old, to, new)
	}
	return err
}

// datasync is Sync, which is F_FULLFSYNC here: plain fsync stops at the drive's cache.
func datasync(f *os.File) error { return f.Sync() }
