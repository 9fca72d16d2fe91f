package inbox

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/windows"
)

// renameNoReplace renames by path: MoveFileEx without its flag for replacing.
func renameNoReplace(from *place, old string, to *place, new string) error {
	oldPath, newPath := filepath.Join(from.path, old), filepath.Join(to.path, new)
	a, err := windows.UTF16PtrFromString(oldPath)
	if err != nil {
		return err
	}
	b, err := windows.UTF16PtrFromString(newPath)
	if err != nil {
		return err
	}
	if err := windows.MoveFileEx(a, b, windows.MOVEFILE_WRITE_THROUGH); err != nil {
		return &os.LinkError{Op: "rename", Old: oldPath, New: newPath, Err: err}
	}
	return nil
}

func datasync(f *os.File) error { return f.Sync() }

// asFolder returns a path that opens only if it is a folder, as every path does here.
func asFolder(path string) string { return path }

// careful are flags for opening a file of ours. There are no FIFOs in folders here,
// and os.Root does not follow a link out of one.
const careful = 0

// own sees that an open file is a plain one.
func own(f *os.File, _ string) error {
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errNotAFile
	}
	return err
}

// openFile opens a plain file, and nothing that has taken its place.
func (p *place) openFile(name string, flag int) (*os.File, error) {
	f, err := p.root.OpenFile(name, flag, 0)
	if err != nil {
		return nil, err
	}
	if err := own(f, name); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (p *place) Remove(name string) error { return p.root.Remove(name) }

func linkAt(from *place, old string, to *place, new string) error {
	return os.Link(filepath.Join(from.path, old), filepath.Join(to.path, new))
}

func renameAt(from *place, old string, to *place, new string) error {
	return os.Rename(filepath.Join(from.path, old), filepath.Join(to.path, new))
}

// syncFolder does nothing: Windows has no flush for folders.
func syncFolder(*os.File) error { return nil }

// isNoSpace reports whether err means that the disk, a quota or a limit on the
// file's size leaves no room (cases 54, 75).
func isNoSpace(err error) bool {
	for _, no := range []windows.Errno{
		windows.ERROR_DISK_FULL, windows.ERROR_HANDLE_DISK_FULL, windows.ERROR_DISK_QUOTA_EXCEEDED,
		windows.ERROR_NOT_ENOUGH_QUOTA, windows.ERROR_FILE_TOO_LARGE,
	} {
		if errors.Is(err, no) {
			return true
		}
	}
	return false
}

func isCrossDevice(err error) bool { return errors.Is(err, windows.ERROR_NOT_SAME_DEVICE) }
