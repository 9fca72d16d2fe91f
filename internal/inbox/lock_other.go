//go:build !(darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd || windows)

package inbox

import (
	"errors"
	"os"
)

// lock refuses: without a lock two processes would spoil each other's parts.
func lock(*os.File) error { return errors.ErrUnsupported }

func unlock(*os.File) {}
