package main

import (
	"io/fs"
	"syscall"
)

// identify says what a file's metadata says about its content.
func identify(info fs.FileInfo) source {
	s := source{Size: info.Size(), Modified: info.ModTime().UnixNano()}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		s.Device, s.Inode = uint64(stat.Dev), uint64(stat.Ino)
		s.Changed = stat.Ctim.Nano()
	}
	return s
}
