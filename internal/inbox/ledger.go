package inbox

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"math/rand/v2"
	"time"

	"github.com/dian-im/dian/internal/disk"

	"github.com/zeebo/xxh3"
)

// The ledger is a header and records, only ever appended to until it is written
// anew as a whole:
//
//	header  twice: magic (8), seed (8), XXH3-64 of these (8)
//	record  mark (4), payload length (4), XXH3-64 of length and payload under seed (8), payload
//
// The seed is random and stays on this disk, so that no sender can put bytes into
// its meta that a search for the next readable record would take for one.
const (
	ledgerName   = "ledger"
	ledgerMagic  = "dianL\x00\x00\x01"
	ledgerCopy   = 24
	ledgerHeader = 2 * ledgerCopy
	recordMark   = "\xd1\xa9rc"
	recordHead   = 16
	ledgerLimit  = 1 << 30 // bytes; more is not read
	ledgerSlack  = 1 << 20 // bytes; below this it is not worth writing anew
)

// Kinds of ledger records.
const (
	ledgerHave = iota + 1
	ledgerNotified
	ledgerCancelled
	ledgerDamaged
)

// entry is what the ledger says about a transfer. What is in the map is replaced,
// never changed, except notified and what goes with it, under the inbox's mu.
type entry struct {
	state    State
	key      Key
	info     Info // of a kept file; without meta and header once notified
	stem     string
	code     uint32
	notified bool
	telling  bool // told, but not written down before the name that it was saved under is flushed
	at       time.Time
}

// ledger is the open file. It belongs to the committer.
type ledger struct {
	disk   disk.Disk
	file   disk.File
	size   int64
	seed   uint64
	limit  int64 // of size, before it is worth writing anew
	broken bool  // what the file holds is not known; only a rewrite helps
}

func ledgerHeaderBytes(seed uint64) []byte {
	one := binary.LittleEndian.AppendUint64([]byte(ledgerMagic), seed)
	one = binary.LittleEndian.AppendUint64(one, xxh3.Hash(one))
	return append(one, one...)
}

// ledgerSeed returns the seed if one of the header's copies is whole.
func ledgerSeed(b []byte) (uint64, bool) {
	for i := 0; i+ledgerCopy <= min(len(b), ledgerHeader); i += ledgerCopy {
		c := b[i : i+ledgerCopy]
		if string(c[:8]) == ledgerMagic && binary.LittleEndian.Uint64(c[16:]) == xxh3.Hash(c[:16]) {
			return binary.LittleEndian.Uint64(c[8:]), true
		}
	}
	return 0, false
}

// appendRecord adds a record with this payload to b.
func appendRecord(b []byte, seed uint64, payload []byte) []byte {
	b = append(b, recordMark...)
	start := len(b)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	b = append(b, make([]byte, 8)...)
	b = append(b, payload...)
	binary.LittleEndian.PutUint64(b[start+4:], recordSum(seed, b[start:start+4], payload))
	return b
}

func recordSum(seed uint64, length, payload []byte) uint64 {
	h := xxh3.NewSeed(seed)
	h.Write(length)
	h.Write(payload)
	return h.Sum64()
}

// recordAt returns the payload of the record that b begins with.
func recordAt(b []byte, seed uint64) ([]byte, bool) {
	if len(b) < recordHead || string(b[:4]) != recordMark {
		return nil, false
	}
	n := binary.LittleEndian.Uint32(b[4:])
	if n > maxRecord || int(n) > len(b)-recordHead {
		return nil, false
	}
	payload := b[recordHead : recordHead+int(n)]
	return payload, binary.LittleEndian.Uint64(b[8:]) == recordSum(seed, b[4:8], payload)
}

// ledgerPiece is a readable record, or bytes that are none.
type ledgerPiece struct {
	payload    []byte // nil if unreadable
	start, end int
}

// ledgerPieces yields everything behind the header. What cannot be read is one
// piece up to the next record that can.
func ledgerPieces(b []byte, seed uint64) iter.Seq[ledgerPiece] {
	return func(yield func(ledgerPiece) bool) {
		for at := ledgerHeader; at < len(b); {
			next := at
			payload, ok := recordAt(b[at:], seed)
			if ok {
				next += recordHead + len(payload)
			} else {
				for next = at + 1; next < len(b); next++ {
					i := bytes.Index(b[next:], []byte(recordMark))
					if i < 0 {
						next = len(b)
						break
					}
					next += i
					if _, found := recordAt(b[next:], seed); found {
						break
					}
				}
				payload = nil
			}
			if !yield(ledgerPiece{payload, at, next}) {
				return
			}
			at = next
		}
	}
}

// payload returns the record of e: all of it, or what is needed once notified.
func (e *entry) payload() []byte {
	var out encoder
	switch e.state {
	case Have:
		out.uint(ledgerHave)
		out.key(e.key)
		out.describe(e.info)
		out.text(e.stem)
		out.uint(uint64(e.code))
		out.moment(e.at)
		out.uint(map[bool]uint64{true: 1}[e.notified])
	case Cancelled:
		out.uint(ledgerCancelled)
		out.key(e.key)
		out.uint(uint64(e.code))
		out.moment(e.at)
	}
	return out
}

func notifiedPayload(k Key) []byte {
	var out encoder
	out.uint(ledgerNotified)
	out.key(k)
	return out
}

func damagedPayload(t time.Time) []byte {
	var out encoder
	out.uint(ledgerDamaged)
	out.moment(t)
	return out
}

// ledgerContent is what a ledger says, all records applied.
type ledgerContent struct {
	entries map[Key]*entry
	damaged time.Time
	fresh   bool // there was no ledger
}

// apply reads one payload, and reports whether it made sense.
func (c *ledgerContent) apply(payload []byte) bool {
	d := decoder{rest: payload}
	switch d.uint() {
	case ledgerHave:
		e := &entry{
			state: Have, key: d.key(), info: d.describe(), stem: d.text(64),
			code: uint32(d.uint()), at: d.moment(), notified: d.uint() == 1,
		}
		if d.bad || !isStem(e.stem) || !check(e.key, e.info) {
			return false
		}
		c.entries[e.key] = e
	case ledgerNotified:
		k := d.key()
		if d.bad {
			return false
		}
		if e := c.entries[k]; e != nil {
			e.notice()
		}
	case ledgerCancelled:
		e := &entry{state: Cancelled, key: d.key(), code: uint32(d.uint()), at: d.moment()}
		if d.bad {
			return false
		}
		c.entries[e.key] = e
	case ledgerDamaged:
		if t := d.moment(); !d.bad && t.After(c.damaged) {
			c.damaged = t
		}
	}
	return !d.bad // a kind of a later version is no damage
}

// notice notes that the application was told. What only that needed can go.
func (e *entry) notice() {
	e.notified, e.telling = true, false
	e.info.Meta, e.info.Header = nil, nil
}

// loadLedger reads the ledger or begins one. It cuts off a torn end, keeps what can
// be read around a damaged record, and reports damage to warn.
func loadLedger(d disk.Disk, now time.Time, warn func(msg string, args ...any)) (*ledger, *ledgerContent, error) {
	l := &ledger{disk: d}
	c := &ledgerContent{entries: map[Key]*entry{}}
	b, err := readAll(d, ledgerName, ledgerLimit)
	if errors.Is(err, fs.ErrNotExist) {
		c.fresh = true
		return l, c, l.rewrite(c)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read ledger: %w", err)
	}
	seed, ok := ledgerSeed(b)
	if !ok {
		warn("ledger is not readable, beginning a new one", "bytes", len(b))
		if err := d.Rename(ledgerName, ledgerName+".bad"); err != nil {
			return nil, nil, fmt.Errorf("set ledger aside: %w", err)
		}
		c.damaged = now
		return l, c, l.rewrite(c)
	}
	l.seed = seed
	end, worn := ledgerHeader, !bytes.Equal(b[:min(len(b), ledgerHeader)], ledgerHeaderBytes(seed))
	for piece := range ledgerPieces(b, seed) {
		if piece.payload != nil && c.apply(piece.payload) {
			end = piece.end
			continue
		}
		if piece.end == len(b) && torn(b[piece.start:]) {
			warn("ledger ends in an unfinished record", "at", piece.start, "bytes", piece.end-piece.start)
			continue
		}
		warn("ledger has a damaged record", "at", piece.start, "bytes", piece.end-piece.start)
		c.damaged, worn = now, true
	}
	if worn {
		return l, c, l.rewrite(c)
	}
	if l.file, err = d.Open(ledgerName); err != nil {
		return nil, nil, fmt.Errorf("open ledger: %w", err)
	}
	l.size = int64(end)
	if end < len(b) {
		err = l.file.Truncate(l.size)
	}
	// A process that was killed before its flush has left records that only the page
	// cache knows. They will be answered for, so they have to be on the disk.
	if err = errors.Join(err, l.file.Sync()); err != nil {
		l.file.Close()
		return nil, nil, writeError("flush ledger", err)
	}
	l.limit = max(ledgerSlack, 2*int64(len(l.encode(c))))
	return l, c, nil
}

// torn reports whether rest, the end of a ledger, is what a crash leaves of records
// being appended: nothing but zeros, or a record that is shorter than it says.
func torn(rest []byte) bool {
	if len(bytes.TrimLeft(rest, "\x00")) == 0 || len(rest) < recordHead {
		return true
	}
	n := binary.LittleEndian.Uint32(rest[4:])
	return string(rest[:4]) == recordMark && n <= maxRecord && int(n) > len(rest)-recordHead
}

// encode returns a whole ledger with this content.
func (l *ledger) encode(c *ledgerContent) []byte {
	b := ledgerHeaderBytes(l.seed)
	if !c.damaged.IsZero() {
		b = appendRecord(b, l.seed, damagedPayload(c.damaged))
	}
	for _, e := range c.entries {
		b = appendRecord(b, l.seed, e.payload())
	}
	return b
}

// rewrite replaces the ledger by a new file with this content. The old one stands
// until the new one is on the disk.
func (l *ledger) rewrite(c *ledgerContent) error {
	if l.file != nil {
		l.file.Close() // Windows does not replace an open file
		l.file = nil
	}
	l.broken = true
	l.seed = rand.Uint64()
	b := l.encode(c)
	if err := writeWhole(l.disk, ledgerName, b, true); err != nil {
		return writeError("write ledger", err)
	}
	if err := l.disk.SyncDir(); err != nil {
		return writeError("flush folder", err)
	}
	f, err := l.disk.Open(ledgerName)
	if err != nil {
		return writeError("open ledger", err)
	}
	l.file, l.size, l.limit, l.broken = f, int64(len(b)), max(ledgerSlack, 2*int64(len(b))), false
	return nil
}

// append adds records and, if asked, flushes them. After an error the ledger is as
// before, or broken.
func (l *ledger) append(records []byte, sync bool) error {
	if _, err := l.file.WriteAt(records, l.size); err != nil {
		if l.file.Truncate(l.size) != nil {
			l.broken = true
		}
		return writeError("write ledger", err)
	}
	if sync {
		if err := l.file.Sync(); err != nil {
			l.broken = true // the kernel may have dropped it, or not (case 76)
			return fmt.Errorf("flush ledger: %w: %w", ErrWrite, err)
		}
	}
	l.size += int64(len(records))
	return nil
}

func (l *ledger) close() error {
	if l.file == nil {
		return nil
	}
	return l.file.Close()
}
