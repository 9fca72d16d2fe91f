//go:build !windows

package inbox

import (
	"errors"
	"os"
	"syscall"
)

// isNoSpace reports whether err means that the disk, a quota or a limit on the
// file's size leaves no room (cases 54, 75).
func isNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG)
}

func isCrossDevice(err error) bool { return errors.Is(err, syscall.EXDEV) }

// syncFolder flushes a folder. File systems that cannot (some of FUSE and SMB) say
// EINVAL or ENOTSUP; there the names are as safe as that system makes them.
func syncFolder(dir *os.File) error {
	err := dir.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	return err
}
