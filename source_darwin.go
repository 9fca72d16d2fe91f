package dian

import (
	"os"
	"syscall"
)

// changeTime returns when a file's content, mode or names were last changed, which
// nobody can set back.
func changeTime(info os.FileInfo) int64 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return stat.Ctimespec.Nano()
	}
	return 0
}
