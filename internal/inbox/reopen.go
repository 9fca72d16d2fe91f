package inbox

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/dian-im/dian/internal/x3b"
)

// errStale says that nothing of a stored part can be trusted.
var errStale = errors.New("part is stale")

// reopen goes on with a part on the disk, from its mark if the bytes between journal
// and mark are what the mark says, else from its journal. It sets file, hash and
// what is recorded, and cuts off what is not trusted.
func (p *Part) reopen(stored *storedPart) error {
	d := p.box.disk
	f, err := d.Open(stored.stem + ".part")
	if err != nil {
		return fmt.Errorf("%w: %w", errStale, err)
	}
	p.file = f
	size, err := f.Size()
	if err != nil {
		return writeError("read part", err)
	}
	journal := p.readOwn(".journal", size)
	mark := p.readOwn(".mark", size)
	if mark != nil && (journal == nil || mark.offset > journal.offset) {
		if h, err := continueFrom(f, journal, mark); err == nil {
			return p.goOn(h, journal, mark)
		}
	}
	d.Remove(stored.stem + ".mark") // not needed, or not true
	if journal != nil {
		if h, err := continueFrom(f, journal, journal); err == nil {
			return p.goOn(h, journal, nil)
		}
	}
	f.Close()
	p.file = nil
	return errStale
}

// readOwn reads the part's journal or mark, and returns nil if it is none.
func (p *Part) readOwn(suffix string, size int64) *record {
	r, err := readRecord(p.box.disk, p.stem+suffix, size)
	if err != nil || r.key != p.key || r.info.Size != p.info.Size {
		return nil
	}
	return r
}

// continueFrom returns a hasher at to.offset, with the bytes from the last complete
// block of from on read again and compared with to.
func continueFrom(f io.ReaderAt, from, to *record) (*x3b.Hasher, error) {
	var known []x3b.Sum
	if from != nil {
		known = from.blocks
	}
	if len(known) > len(to.blocks) || !slices.Equal(known, to.blocks[:len(known)]) {
		return nil, errBadRecord
	}
	h := x3b.Resume(known)
	start := h.Len()
	if n, err := io.Copy(h, io.NewSectionReader(f, start, to.offset-start)); err != nil || n != to.offset-start {
		return nil, errors.Join(err, io.ErrUnexpectedEOF)
	}
	if !slices.Equal(h.Blocks(), to.blocks) || h.Tail() != to.tail {
		return nil, errBadRecord
	}
	return h, nil
}

// goOn takes the part over at h's offset.
func (p *Part) goOn(h *x3b.Hasher, journal, mark *record) error {
	known := journal
	if mark != nil {
		known = mark
		p.marked = mark.offset
	}
	switch was := known.info.SHA256; {
	case len(p.info.SHA256) == 0:
		p.info.SHA256 = was
	case len(was) > 0 && !bytes.Equal(was, p.info.SHA256):
		return fmt.Errorf("%w: expected SHA-256", ErrMismatch)
	}
	if err := p.file.Truncate(h.Len()); err != nil {
		return writeError("cut part", err)
	}
	p.hash = h
	if journal != nil {
		p.recorded = journal.offset
	}
	return nil
}
