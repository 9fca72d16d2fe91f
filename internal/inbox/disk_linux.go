package inbox

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// renameNoReplace renames by handles with RENAME_NOREPLACE. Older kernels and some
// file systems do not know it; a hard link never replaces either.
func renameNoReplace(from *place, old string, to *place, new string) error {
	for {
		err := unix.Renameat2(int(from.dir.Fd()), old, int(to.dir.Fd()), new, unix.RENAME_NOREPLACE)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.ENOTSUP):
			return linkAndRemove(from, old, to, new)
		}
		return &os.LinkError{Op: "rename", Old: old, New: new, Err: err}
	}
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
