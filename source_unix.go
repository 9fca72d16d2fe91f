//go:build unix

package dian

import "syscall"

// openNonblock keeps open from waiting, should a FIFO have taken the file's place.
const openNonblock = syscall.O_NONBLOCK
