//go:build !linux && !darwin && !windows

package inbox

import "os"

func renameNoReplace(from *place, old string, to *place, new string) error {
	return linkAndRemove(from, old, to, new)
}

func datasync(f *os.File) error { return f.Sync() }
