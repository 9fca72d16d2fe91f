//go:build !linux && !darwin

package dian

import "os"

// changeTime is not known here: a file whose times were set back looks unchanged.
func changeTime(os.FileInfo) int64 { return 0 }
