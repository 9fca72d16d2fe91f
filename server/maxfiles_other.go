//go:build !unix

package server

// maxFiles returns how many files and connections the process may have open, 0 if
// that is not known.
func maxFiles() int64 { return 0 }
