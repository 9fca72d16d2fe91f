package inbox

import (
	"errors"
	"fmt"
	"os"
	"sync"

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

// Flush flushes the whole file system: for many small files that is one commit of its
// journal and one flush of the drive. Linux tells of failed writes there since 5.8.
func (p *place) Flush() error {
	if !tellsOfFlushes() {
		return errors.ErrUnsupported
	}
	raw, err := p.dir.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = unix.Syncfs(int(fd)) })
	return errors.Join(err, failed)
}

var tellsOfFlushes = sync.OnceValue(func() bool {
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return false
	}
	var major, minor int
	n, _ := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor)
	return n == 2 && (major > 5 || major == 5 && minor >= 8)
})

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
