//go:build unix

package server

import "syscall"

// maxFiles returns how many files and connections the process may have open, 0 if
// that is not known.
func maxFiles() int64 {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil || limit.Cur > 1<<30 {
		return 0
	}
	return int64(limit.Cur)
}
