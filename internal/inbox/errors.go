package inbox

import (
	"errors"
	"fmt"
)

// What can go wrong. Errors of this package wrap one of these where a caller may
// want to tell them apart.
var (
	ErrInUse       = errors.New("inbox is in use by another process")
	ErrFolder      = errors.New("inbox folder cannot be used")
	ErrClosed      = errors.New("inbox is closed")
	ErrInfo        = errors.New("transfer's description is not acceptable")
	ErrBusy        = errors.New("transfer is being received already")
	ErrHave        = errors.New("transfer was received already")
	ErrCancelled   = errors.New("transfer was cancelled")
	ErrMismatch    = errors.New("transfer differs from the part that is here")
	ErrOffset      = errors.New("bytes do not continue the part")
	ErrTooMuch     = errors.New("more bytes than the transfer's size")
	ErrNoSpace     = errors.New("no space left")
	ErrWrite       = errors.New("write failed")
	ErrDigest      = errors.New("content does not match its digest or length")
	ErrAlgorithm   = errors.New("digest algorithm is not known")
	ErrNotVerified = errors.New("part is not verified")
	ErrEnded       = errors.New("part is not open any more")
	ErrTaken       = errors.New("file was saved elsewhere already")
)

// errNotAFile says that something else is where a file of ours was.
var errNotAFile = errors.New("not a plain file of the inbox")

// writeError says that op failed on the disk, as ErrNoSpace or ErrWrite.
func writeError(op string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrNoSpace), errors.Is(err, ErrWrite):
		return err
	case isNoSpace(err):
		return fmt.Errorf("%s: %w: %w", op, ErrNoSpace, err)
	}
	return fmt.Errorf("%s: %w: %w", op, ErrWrite, err)
}
