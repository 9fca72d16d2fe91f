package inbox

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/dian-im/dian/internal/disk"

	"github.com/zeebo/xxh3"

	"github.com/dian-im/dian/internal/x3b"
)

const (
	journalMagic = "dianJ\x00\x00\x01"
	journalEvery = time.Second
	journalStep  = 64 << 20 // bytes between two records at most, as far as the disk follows
)

// A record is the content of a journal or a mark: how far a part had come.
type record struct {
	key    Key
	info   Info
	offset int64
	blocks []x3b.Sum // of the complete blocks below offset
	tail   x3b.Sum   // of the bytes after them, zero if none
}

// encode returns magic, length, payload and the payload's XXH3-128.
func (r *record) encode() []byte {
	e := encoder(make([]byte, len(journalMagic)+8, maxRecord/8+len(r.blocks)*x3b.Size))
	e.key(r.key)
	e.describe(r.info)
	e.uint(uint64(r.offset))
	e.fixed(r.tail[:])
	for i := range r.blocks {
		e.fixed(r.blocks[i][:])
	}
	payload := e[len(journalMagic)+8:]
	copy(e, journalMagic)
	binary.LittleEndian.PutUint64(e[len(journalMagic):], uint64(len(payload)))
	sum := xxh3.Hash128(payload).Bytes()
	return append(e, sum[:]...)
}

var errBadRecord = errors.New("record is damaged")

// decodeRecord reads what encode wrote, or says that b is not that: torn, empty,
// longer or with any bit changed (case 87).
func decodeRecord(b []byte) (*record, error) {
	head := len(journalMagic) + 8
	if len(b) < head+x3b.Size || string(b[:len(journalMagic)]) != journalMagic {
		return nil, errBadRecord
	}
	payload, sum := b[head:len(b)-x3b.Size], b[len(b)-x3b.Size:]
	want := xxh3.Hash128(payload).Bytes()
	if binary.LittleEndian.Uint64(b[len(journalMagic):]) != uint64(len(payload)) || !bytes.Equal(sum, want[:]) {
		return nil, errBadRecord
	}
	d := decoder{rest: payload}
	r := &record{key: d.key(), info: d.describe(), offset: d.size()}
	copy(r.tail[:], d.fixed(x3b.Size))
	if d.bad || !check(r.key, r.info) || r.offset > r.info.Size || int64(len(d.rest)) != r.offset/x3b.BlockSize*x3b.Size {
		return nil, errBadRecord
	}
	for s := range slices.Chunk(d.rest, x3b.Size) {
		r.blocks = append(r.blocks, x3b.Sum(s))
	}
	return r, nil
}

// readRecord reads a journal or mark of a part that has size bytes. What cannot be
// read or does not fit such a part is an error.
func readRecord(d disk.Disk, name string, size int64) (*record, error) {
	b, err := readAll(d, name, maxRecord+size/x3b.BlockSize*x3b.Size)
	if err != nil {
		return nil, err
	}
	r, err := decodeRecord(b)
	if err != nil {
		return nil, err
	}
	if r.offset > size {
		return nil, fmt.Errorf("%w: offset %d of a part of %d bytes", errBadRecord, r.offset, size)
	}
	return r, nil
}

// snapshot returns how far p is. The blocks are shared, which is safe: the hasher
// only adds to them.
func (p *Part) snapshot() (*record, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failed != nil {
		return nil, p.failed
	}
	return &record{key: p.key, info: p.info, offset: p.hash.Len(), blocks: p.hash.Blocks(), tail: p.hash.Tail()}, nil
}

// journalLoop writes the journal while bytes come in. It owns p.recorded until it
// has ended.
func (p *Part) journalLoop() {
	defer close(p.journalDone)
	tick := time.NewTicker(journalEvery)
	defer tick.Stop()
	for {
		select {
		case <-p.journalStop:
			return
		case <-tick.C:
		case <-p.journalNow:
		}
		if p.Journal() != nil {
			return
		}
	}
}

// Journal writes down how far the part is, so that it survives a loss of power. The
// inbox does it by itself, except with Options.Stepped: then the caller does, not
// beside anything else of the part. After an error the part has failed.
func (p *Part) Journal() error {
	err := p.journal()
	if err != nil {
		p.fail(err)
		p.unrecord()
	}
	return err
}

// unrecord removes journal and mark after a failed flush, at once: the page cache
// could still show what the disk does not have, to whoever compares it after a
// restart (case 76).
func (p *Part) unrecord() {
	p.marking.Lock()
	defer p.marking.Unlock()
	for _, suffix := range []string{".journal", ".mark"} {
		p.box.discard(p.stem + suffix)
	}
}

// journal flushes the part and then writes down how far it was before the flush.
// Running out of space for the journal is no harm: the older one still stands. Any
// other failure is the part's (case 76).
func (p *Part) journal() error {
	r, err := p.snapshot()
	if err != nil {
		return err
	}
	if r.offset == p.recorded {
		return nil
	}
	if err := p.file.Datasync(); err != nil {
		return fmt.Errorf("flush part: %w: %w", ErrWrite, err)
	}
	d := p.box.disk
	err = writeWhole(d, p.stem+".journal", r.encode(), true)
	if err == nil && p.recorded == 0 {
		err = d.SyncDir() // the names of part and journal
	}
	if err != nil && isNoSpace(err) {
		p.box.log.Warn("no space for a journal", "part", p.stem, "offset", r.offset)
		return nil
	}
	if err != nil {
		return fmt.Errorf("write journal: %w: %w", ErrWrite, err)
	}
	p.recorded = r.offset
	return nil
}

// Mark writes down at once, and without a flush, how far the part is: enough to
// survive the end of this process, not a loss of power. A receiver calls it before
// it confirms an offset. It may be called beside Write.
func (p *Part) Mark() error {
	p.marking.Lock() // one mark after the other; nobody else waits here
	defer p.marking.Unlock()
	if p.markless {
		return ErrEnded
	}
	r, err := p.snapshot()
	if err != nil {
		return err
	}
	if r.offset == p.marked {
		return nil
	}
	if err := writeWhole(p.box.disk, p.stem+".mark", r.encode(), false); err != nil {
		return writeError("write mark", err)
	}
	p.marked = r.offset
	return nil
}

// stopJournal ends journal and marks. It returns when neither writes any more.
func (p *Part) stopJournal() {
	p.marking.Lock()
	first := !p.markless
	p.markless = true
	p.marking.Unlock()
	if first && p.journalStop != nil {
		close(p.journalStop)
		<-p.journalDone
	}
}
