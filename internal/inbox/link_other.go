//go:build !unix

package inbox

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// linkBetween gives a file a second name in another folder and never replaces. Where
// there are no hard links it returns errors.ErrUnsupported.
func linkBetween(from *place, old string, to *place, new string) error {
	err := os.Link(filepath.Join(from.path, old), filepath.Join(to.path, new))
	if err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrNotExist) {
		return errors.ErrUnsupported // moving tells what is wrong
	}
	return err
}

// names returns how many names a file has, as far as that is told.
func names(fs.FileInfo) int { return 1 }
