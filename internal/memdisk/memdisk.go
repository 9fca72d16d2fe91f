// Package memdisk is a disk in memory, for tests: it can say what a loss of power
// leaves of it, and fail at any step.
package memdisk

import (
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/dian-im/dian/internal/disk"
)

// A Disk remembers what was flushed and what came after it. Its methods may be
// called by several goroutines at once.
type Disk struct {
	now func() time.Time

	mu      sync.Mutex
	names   map[string]*node
	flushed map[string]*node
	changes []func(map[string]*node) // of names since they were flushed, in order
}

type node struct {
	data    []byte
	flushed []byte
	writes  []write // since then, in order
	modTime time.Time
}

type write struct {
	at   int64
	data []byte // nil: cut at at
}

// New returns an empty disk. now gives modification times; nil is time.Now.
func New(now func() time.Time) *Disk {
	if now == nil {
		now = time.Now
	}
	return &Disk{now: now, names: map[string]*node{}, flushed: map[string]*node{}}
}

func (w write) apply(b []byte) []byte {
	end := int(w.at) + len(w.data)
	if w.data == nil {
		if len(b) > end {
			return b[:end:end]
		}
		return append(b, make([]byte, end-len(b))...)
	}
	if end > len(b) {
		b = append(b, make([]byte, end-len(b))...)
	}
	copy(b[w.at:], w.data)
	return b
}

// PowerLoss returns a disk that may be what is found after a loss of power: of each
// file what was flushed, with any of the later writes, torn or not, in any
// combination; of the folder what was flushed, with some of the later changes (case
// 86). The disk itself stays as it is.
func (d *Disk) PowerLoss(random *rand.Rand) *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	names := map[string]*node{}
	maps.Copy(names, d.flushed)
	for _, change := range d.changes[:random.IntN(len(d.changes)+1)] {
		change(names)
	}
	after := New(d.now)
	for _, name := range slices.Sorted(maps.Keys(names)) { // a seed has one outcome
		n := names[name]
		data := slices.Clone(n.flushed)
		for _, w := range n.writes {
			switch random.IntN(4) {
			case 0: // lost
			case 1: // torn
				if len(w.data) > 0 {
					w.data = w.data[:random.IntN(len(w.data))]
				}
				data = w.apply(data)
			case 2: // its length arrived, its bytes did not
				if w.data != nil {
					w.data = make([]byte, len(w.data))
				}
				data = w.apply(data)
			case 3:
				data = w.apply(data)
			}
		}
		found := &node{data: data, flushed: slices.Clone(data), modTime: n.modTime}
		after.names[name], after.flushed[name] = found, found
	}
	return after
}

func (d *Disk) change(f func(map[string]*node)) {
	f(d.names)
	d.changes = append(d.changes, f)
}

// Create implements disk.Disk.
func (d *Disk) Create(name string) (disk.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.names[name] != nil {
		return nil, fs.ErrExist
	}
	n := &node{modTime: d.now()}
	d.change(func(m map[string]*node) { m[name] = n })
	return &file{d, n}, nil
}

// Open implements disk.Disk.
func (d *Disk) Open(name string) (disk.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.names[name] == nil {
		return nil, fs.ErrNotExist
	}
	return &file{d, d.names[name]}, nil
}

// Rename implements disk.Disk.
func (d *Disk) Rename(from, to string) error { return d.rename(from, to, true) }

// Move implements disk.Disk.
func (d *Disk) Move(from, to string) error { return d.rename(from, to, false) }

func (d *Disk) rename(from, to string, replace bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.names[from]
	switch {
	case n == nil:
		return fs.ErrNotExist
	case !replace && d.names[to] != nil:
		return fs.ErrExist
	}
	d.change(func(m map[string]*node) { delete(m, from); m[to] = n })
	return nil
}

// Remove implements disk.Disk.
func (d *Disk) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.names[name] == nil {
		return fs.ErrNotExist
	}
	d.change(func(m map[string]*node) { delete(m, name) })
	return nil
}

// List implements disk.Disk, in the order of the names.
func (d *Disk) List() ([]disk.Entry, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []disk.Entry
	for _, name := range slices.Sorted(maps.Keys(d.names)) {
		n := d.names[name]
		out = append(out, disk.Entry{Name: name, Size: int64(len(n.data)), ModTime: n.modTime, Links: 1})
	}
	return out, nil
}

// SyncDir implements disk.Disk.
func (d *Disk) SyncDir() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, change := range d.changes {
		change(d.flushed)
	}
	d.changes = nil
	return nil
}

// Flush implements disk.Flusher.
func (d *Disk) Flush() error {
	d.mu.Lock()
	for _, n := range d.names {
		n.flush()
	}
	d.mu.Unlock()
	return d.SyncDir()
}

type file struct {
	disk *Disk
	node *node
}

func (f *file) ReadAt(b []byte, at int64) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if at >= int64(len(f.node.data)) {
		return 0, io.EOF
	}
	n := copy(b, f.node.data[at:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (f *file) WriteAt(b []byte, at int64) (int, error) {
	f.write(write{at, append([]byte{}, b...)})
	return len(b), nil
}

func (f *file) Truncate(size int64) error {
	f.write(write{at: size})
	return nil
}

func (f *file) write(w write) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	f.node.data = w.apply(f.node.data)
	f.node.writes = append(f.node.writes, w)
	f.node.modTime = f.disk.now()
}

func (f *file) Sync() error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	f.node.flush()
	return nil
}

func (n *node) flush() {
	for _, w := range n.writes {
		n.flushed = w.apply(n.flushed)
	}
	n.writes = nil
}

func (f *file) Datasync() error { return f.Sync() }
func (f *file) Close() error    { return nil }

func (f *file) Size() (int64, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	return int64(len(f.node.data)), nil
}

// Bytes returns a copy of a file's content, and whether there is such a file.
func (d *Disk) Bytes(name string) ([]byte, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.names[name]
	if n == nil {
		return nil, false
	}
	return slices.Clone(n.data), true
}

// Flip changes a bit of a file's byte at, as a bad disk does (case 82).
func (d *Disk) Flip(name string, at int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.names[name]
	n.data = slices.Clone(n.data)
	n.data[at] ^= 1
	if at < int64(len(n.flushed)) {
		n.flushed = slices.Clone(n.flushed)
		n.flushed[at] ^= 1
	}
}

// Drop is a flush of a file that fails as Linux's may: what was not on the disk yet
// never gets there, reading still shows it, and the next flush succeeds (case 76).
func (d *Disk) Drop(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n := d.names[name]; n != nil {
		n.writes = nil
	}
}

// Durable returns a disk with what is flushed and nothing else: the least that any
// loss of power leaves.
func (d *Disk) Durable() *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.found(d.flushed, func(n *node) []byte { return n.flushed })
}

// Written returns a disk with everything that was written, which is what a process
// that was killed leaves.
func (d *Disk) Written() *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.found(d.names, func(n *node) []byte { return n.data })
}

// found returns a disk on which the names' files are, all of it flushed.
func (d *Disk) found(names map[string]*node, data func(*node) []byte) *Disk {
	after := New(d.now)
	for name, n := range names {
		found := &node{data: slices.Clone(data(n)), flushed: slices.Clone(data(n)), modTime: n.modTime}
		after.names[name], after.flushed[name] = found, found
	}
	return after
}
