//go:build unix

package inbox

import (
	"errors"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// linkBetween gives a file a second name in another folder, by handles, and never
// replaces. Where there are no hard links it returns errors.ErrUnsupported.
func linkBetween(from *place, old string, to *place, new string) error {
	for {
		err := unix.Linkat(int(from.dir.Fd()), old, int(to.dir.Fd()), new, 0)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EPERM), errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EMLINK):
			return errors.ErrUnsupported
		}
		return &os.LinkError{Op: "link", Old: old, New: new, Err: err}
	}
}

// names returns how many names a file has.
func names(info fs.FileInfo) int {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(s.Nlink)
	}
	return 1
}
