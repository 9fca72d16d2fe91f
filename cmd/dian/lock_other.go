//go:build !(darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd || windows)

package main

import (
	"errors"
	"os"
)

// lockFile refuses: without locks sends are not remembered.
func lockFile(*os.File) error { return errors.ErrUnsupported }
