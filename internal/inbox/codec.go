package inbox

import (
	"encoding/binary"
	"time"
)

// Limits of what a peer says about a transfer, in bytes. They bound every record.
const (
	maxSource = 1 << 10
	maxSendID = 128
	maxName   = 4 << 10
	maxType   = 1 << 10
	maxMeta   = 16 << 10
	maxSHA256 = 32
	maxRecord = 64 << 10 // of everything together
)

// encoder appends values to a record; decoder reads them back.
type encoder []byte

func (e *encoder) uint(v uint64)      { *e = binary.AppendUvarint(*e, v) }
func (e *encoder) text(s string)      { e.uint(uint64(len(s))); *e = append(*e, s...) }
func (e *encoder) bytes(b []byte)     { e.uint(uint64(len(b))); *e = append(*e, b...) }
func (e *encoder) moment(t time.Time) { e.uint(uint64(max(0, t.UnixMilli()))) }
func (e *encoder) key(k Key)          { e.text(k.Source); e.text(k.SendID) }
func (e *encoder) fixed(b []byte)     { *e = append(*e, b...) }
func (e *encoder) describe(i Info) {
	e.uint(uint64(i.Size))
	e.text(i.Name)
	e.text(i.Type)
	e.bytes(i.Meta)
	e.bytes(i.Header)
	e.bytes(i.SHA256)
}

// decoder reads what encoder wrote. After the first thing that is not right, bad
// is set and everything reads as zero.
type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.bad, d.rest = true, nil
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

// size reads a number that must fit int64.
func (d *decoder) size() int64 {
	v := d.uint()
	if v > 1<<63-1 {
		d.bad = true
		return 0
	}
	return int64(v)
}

// fixed returns the next n bytes, which alias the record.
func (d *decoder) fixed(n int) []byte {
	if n < 0 || n > len(d.rest) {
		d.bad, d.rest = true, nil
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) piece(limit int) []byte {
	n := d.uint()
	if n > uint64(limit) {
		d.bad, d.rest = true, nil
		return nil
	}
	return d.fixed(int(n))
}

func (d *decoder) text(limit int) string { return string(d.piece(limit)) }

func (d *decoder) bytes(limit int) []byte {
	if b := d.piece(limit); len(b) > 0 {
		return append([]byte(nil), b...)
	}
	return nil
}

func (d *decoder) moment() time.Time { return time.UnixMilli(d.size()) }

func (d *decoder) key() Key {
	return Key{Source: d.text(maxSource), SendID: d.text(maxSendID)}
}

func (d *decoder) describe() Info {
	return Info{
		Size: d.size(), Name: d.text(maxName), Type: d.text(maxType),
		Meta: d.bytes(maxMeta), Header: d.bytes(maxMeta), SHA256: d.bytes(maxSHA256),
	}
}

// check reports whether k and i can be written down at all.
func check(k Key, i Info) bool {
	return k.Source != "" && len(k.Source) <= maxSource &&
		k.SendID != "" && len(k.SendID) <= maxSendID &&
		i.Size >= 0 && len(i.Name) <= maxName && len(i.Type) <= maxType &&
		len(i.Meta) <= maxMeta && len(i.Header) <= maxMeta &&
		(len(i.SHA256) == 0 || len(i.SHA256) == maxSHA256)
}
