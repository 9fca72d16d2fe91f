//go:build !windows

package inbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// asFolder returns a path that opens only if it is a folder: opening a FIFO that has
// taken a folder's place would wait for its writer (case 64).
func asFolder(path string) string { return path + "/." }

// careful are the flags for opening a file of ours: what has taken its place is not
// followed and not waited for.
const careful = syscall.O_NOFOLLOW | syscall.O_NONBLOCK

// openFile opens a plain file, and nothing that has taken its place (case 64). Not by
// os.Root: that follows links to other files of the folder, whatever the flags say.
func (p *place) openFile(name string, flag int) (*os.File, error) {
	var fd int
	err := withFolders(p, p, func(dir, _ int) (err error) {
		fd, err = unix.Openat(dir, name, flag|careful|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), filepath.Join(p.path, name))
	if err := own(f, name); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// own sees that an open file is a plain one. A part with a second name is somebody
// else's file as well, which writing would change.
func own(f *os.File, name string) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%w: %v", errNotAFile, info.Mode().Type())
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Nlink > 1 && strings.HasSuffix(name, ".part") {
		return fmt.Errorf("%w: it has %d names", errNotAFile, stat.Nlink)
	}
	return nil
}

// remove removes a file and never a folder, which os.Root.Remove would.
func (p *place) Remove(name string) error {
	return withFolders(p, p, func(fd, _ int) error {
		if err := unix.Unlinkat(fd, name, 0); err != nil {
			return &os.PathError{Op: "unlink", Path: name, Err: err}
		}
		return nil
	})
}

// linkAt gives a file a second name, by handles.
func linkAt(from *place, old string, to *place, new string) error {
	return withFolders(from, to, func(fromFD, toFD int) error {
		return linkError("link", old, new, unix.Linkat(fromFD, old, toFD, new, 0))
	})
}

// renameAt renames by handles, over what is there.
func renameAt(from *place, old string, to *place, new string) error {
	return withFolders(from, to, func(fromFD, toFD int) error {
		return linkError("rename", old, new, unix.Renameat(fromFD, old, toFD, new))
	})
}

func linkError(op, old, new string, err error) error {
	if err == nil {
		return nil
	}
	return &os.LinkError{Op: op, Old: old, New: new, Err: err}
}

// withFolders calls f with the handles of two folders, which stay open until it has
// returned: a number alone could mean another folder by then. f is called again when
// a signal has interrupted it.
func withFolders(a, b *place, f func(aFD, bFD int) error) error {
	rawA, err := a.dir.SyscallConn()
	if err != nil {
		return err
	}
	rawB, err := b.dir.SyscallConn()
	if err != nil {
		return err
	}
	var failed, inner error
	outer := rawA.Control(func(aFD uintptr) {
		inner = rawB.Control(func(bFD uintptr) {
			for {
				if failed = f(int(aFD), int(bFD)); !errors.Is(failed, syscall.EINTR) {
					return
				}
			}
		})
	})
	return errors.Join(outer, inner, failed)
}
