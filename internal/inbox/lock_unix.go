//go:build darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd

package inbox

import (
	"errors"
	"os"
	"syscall"
)

// lock takes the exclusive lock of an open file, which its process holds until it
// closes the file or dies.
func lock(f *os.File) error {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EWOULDBLOCK):
			return ErrInUse
		}
		return err
	}
}

// unlock gives it back before the file is closed: a program that this process has just
// begun to start has the file open too, for a moment, and would hold the lock.
func unlock(f *os.File) { _ = syscall.Flock(int(f.Fd()), syscall.LOCK_UN) }
