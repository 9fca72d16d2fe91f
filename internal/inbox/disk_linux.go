package inbox

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// renameNoReplace renames by handles with RENAME_NOREPLACE. Older kernels and some
// file systems do not know it; a hard link never replaces either.
func renameNoReplace(from *place, old string, to *place, new string) error {
	err := withFolders(from, to, func(fromFD, toFD int) error {
		return linkError("rename", old, new, unix.Renameat2(fromFD, old, toFD, new, unix.RENAME_NOREPLACE))
	})
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.ENOTSUP) {
		return linkAndRemove(from, old, to, new)
	}
	return err
}

// datasync flushes what reading the file's bytes needs.
func datasync(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		for {
			if failed = unix.Fdatasync(int(fd)); !errors.Is(failed, unix.EINTR) {
				return
			}
		}
	})
	return errors.Join(err, failed)
}
