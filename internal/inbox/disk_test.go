package inbox

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"sync"
	"time"
)

// hookDisk calls hook before each change, with the change's name, and fails with
// what it returns.
type hookDisk struct {
	disk
	hook func(op, name string) error
}

func (d hookDisk) create(name string) (diskFile, error) {
	if err := d.hook("create", name); err != nil {
		return nil, err
	}
	f, err := d.disk.create(name)
	if err != nil {
		return nil, err
	}
	return hookFile{f, d.hook, name}, nil
}

func (d hookDisk) open(name string) (diskFile, error) {
	f, err := d.disk.open(name)
	if err != nil {
		return nil, err
	}
	return hookFile{f, d.hook, name}, nil
}

func (d hookDisk) rename(from, to string) error {
	return errors.Join(d.hook("rename", to), d.disk.rename(from, to))
}

func (d hookDisk) move(from, to string) error {
	if err := d.hook("move", to); err != nil {
		return err
	}
	return d.disk.move(from, to)
}

func (d hookDisk) remove(name string) error {
	if err := d.hook("remove", name); err != nil {
		return err
	}
	return d.disk.remove(name)
}

func (d hookDisk) syncDir() error {
	if err := d.hook("syncDir", "."); err != nil {
		return err
	}
	return d.disk.syncDir()
}

type hookFile struct {
	diskFile
	hook func(op, name string) error
	name string
}

func (f hookFile) WriteAt(b []byte, at int64) (int, error) {
	if err := f.hook("write", f.name); err != nil {
		return 0, err
	}
	return f.diskFile.WriteAt(b, at)
}

func (f hookFile) Truncate(size int64) error {
	if err := f.hook("truncate", f.name); err != nil {
		return err
	}
	return f.diskFile.Truncate(size)
}

func (f hookFile) Sync() error {
	if err := f.hook("sync", f.name); err != nil {
		return err
	}
	return f.diskFile.Sync()
}

func (f hookFile) Datasync() error {
	if err := f.hook("sync", f.name); err != nil {
		return err
	}
	return f.diskFile.Datasync()
}

// lossyDisk is a disk in memory that can say what a power loss leaves of it: of each
// file what was flushed, with any of the later writes, torn or not; of the folder
// what was flushed, with some of the later changes (case 86).
type lossyDisk struct {
	mu      sync.Mutex
	names   map[string]*lossyNode
	flushed map[string]*lossyNode
	changes []func(map[string]*lossyNode) // since then, in order
}

type lossyNode struct {
	data    []byte
	flushed []byte
	writes  []lossyWrite // since then
}

type lossyWrite struct {
	at   int64
	data []byte // nil: cut at at
}

func newLossyDisk() *lossyDisk {
	return &lossyDisk{names: map[string]*lossyNode{}, flushed: map[string]*lossyNode{}}
}

func (w lossyWrite) apply(b []byte) []byte {
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

// powerLoss returns a disk that may be what is found afterwards.
func (d *lossyDisk) powerLoss(random *rand.Rand) *lossyDisk {
	d.mu.Lock()
	defer d.mu.Unlock()
	names := map[string]*lossyNode{}
	maps.Copy(names, d.flushed)
	for _, change := range d.changes[:random.IntN(len(d.changes)+1)] {
		change(names)
	}
	after := newLossyDisk()
	for name, node := range names {
		data := append([]byte(nil), node.flushed...)
		for _, w := range node.writes {
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
		node := &lossyNode{data: data, flushed: append([]byte(nil), data...)}
		after.names[name], after.flushed[name] = node, node
	}
	return after
}

func (d *lossyDisk) change(f func(map[string]*lossyNode)) {
	f(d.names)
	d.changes = append(d.changes, f)
}

func (d *lossyDisk) create(name string) (diskFile, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.names[name] != nil {
		return nil, fs.ErrExist
	}
	node := &lossyNode{}
	d.change(func(m map[string]*lossyNode) { m[name] = node })
	return &lossyFile{d, node}, nil
}

func (d *lossyDisk) open(name string) (diskFile, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.names[name] == nil {
		return nil, fs.ErrNotExist
	}
	return &lossyFile{d, d.names[name]}, nil
}

func (d *lossyDisk) rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	node := d.names[from]
	if node == nil {
		return fs.ErrNotExist
	}
	d.change(func(m map[string]*lossyNode) { delete(m, from); m[to] = node })
	return nil
}

func (d *lossyDisk) move(from, to string) error {
	d.mu.Lock()
	taken := d.names[to] != nil
	d.mu.Unlock()
	if taken {
		return fs.ErrExist
	}
	return d.rename(from, to)
}

func (d *lossyDisk) remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.names[name] == nil {
		return fs.ErrNotExist
	}
	d.change(func(m map[string]*lossyNode) { delete(m, name) })
	return nil
}

func (d *lossyDisk) list() ([]diskEntry, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []diskEntry
	for name, node := range d.names {
		out = append(out, diskEntry{name, int64(len(node.data)), time.Now()})
	}
	return out, nil
}

func (d *lossyDisk) syncDir() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, change := range d.changes {
		change(d.flushed)
	}
	d.changes = nil
	return nil
}

type lossyFile struct {
	disk *lossyDisk
	node *lossyNode
}

func (f *lossyFile) ReadAt(b []byte, at int64) (int, error) {
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

func (f *lossyFile) WriteAt(b []byte, at int64) (int, error) {
	f.write(lossyWrite{at, append([]byte{}, b...)})
	return len(b), nil
}

func (f *lossyFile) Truncate(size int64) error {
	f.write(lossyWrite{at: size})
	return nil
}

func (f *lossyFile) write(w lossyWrite) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	f.node.data = w.apply(f.node.data)
	f.node.writes = append(f.node.writes, w)
}

func (f *lossyFile) Sync() error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	for _, w := range f.node.writes {
		f.node.flushed = w.apply(f.node.flushed)
	}
	f.node.writes = nil
	return nil
}

// drop is a flush that fails as Linux's may: what was not on the disk yet never gets
// there, reading still shows it, and the next flush succeeds (case 76).
func (d *lossyDisk) drop(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if node := d.names[name]; node != nil {
		node.writes = nil
	}
}

func (f *lossyFile) Datasync() error { return f.Sync() }
func (f *lossyFile) Close() error    { return nil }

func (f *lossyFile) Size() (int64, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	return int64(len(f.node.data)), nil
}
