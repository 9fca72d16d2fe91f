package inbox

import (
	"os"
	"path/filepath"
	"sync"
)

// A File is a received file that is kept: complete, verified and on the disk. It is
// the application's from now on.
type File struct {
	Key  Key
	Info Info

	box  *Inbox
	name string // in the inbox's folder

	mu     sync.Mutex // guards what follows
	saved  string     // where SaveAs put it
	linked bool       // its old name is still here, until the application was told
	to     *place     // where saved is, until that name is flushed; nil: it is
	before bool       // an earlier life may have saved it, and was killed before it told of it
	busy   bool       // SaveAs is at it
}

func newFile(b *Inbox, e entry) *File {
	return &File{Key: e.key, Info: e.info, box: b, name: e.stem + ".file"}
}

// Unnotified returns the kept files of which the application may not have been told:
// whose Notified was not called, or not written down before a crash. A program asks
// once, after Open.
func (b *Inbox) Unnotified() []*File {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []*File
	for _, e := range b.entries {
		if e.state == Have && !e.notified && !e.telling {
			f := newFile(b, *e)
			f.before = true
			out = append(out, f)
		}
	}
	return out
}

// Path returns where the file is, as an absolute path.
func (f *File) Path() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.saved != "" {
		return f.saved
	}
	return filepath.Join(f.box.place.path, f.name)
}

// Open opens the file for reading. The caller closes it. What has taken the file's
// place, a link, a FIFO or a folder, is not opened.
func (f *File) Open() (*os.File, error) {
	f.mu.Lock()
	saved := f.saved
	f.mu.Unlock()
	if saved == "" {
		return f.box.place.openFile(f.name, os.O_RDONLY)
	}
	file, err := os.OpenFile(saved, os.O_RDONLY|careful, 0)
	if err != nil {
		return nil, err
	}
	if err := own(file, ""); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// Notified notes that the application was told of the file. It does not wait for the
// disk: after a crash the application may be told once more.
func (f *File) Notified() error {
	b := f.box
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return ErrClosed
	}
	to := f.unflushed()
	e := b.entries[f.Key]
	first := e != nil && e.state == Have && !e.notified && !e.telling
	switch {
	case first && to != nil:
		e.telling = true
	case first:
		e.notice()
	}
	b.mu.Unlock()
	if first || to != nil {
		b.notified(toldFile{f, first, to})
	}
	if to == nil {
		f.unlink()
	}
	return nil
}

// unflushed returns where the file was saved, for who flushes that.
func (f *File) unflushed() *place {
	f.mu.Lock()
	defer f.mu.Unlock()
	to := f.to
	f.to = nil
	return to
}

// unlink removes the name in the inbox of a file that was saved elsewhere, once the
// application was told of it.
func (f *File) unlink() {
	f.mu.Lock()
	linked := f.linked
	f.linked = false
	f.mu.Unlock()
	if linked {
		f.box.discard(f.name)
	}
}

// told reports whether the application was told of the file.
func (f *File) told() bool {
	b := f.box
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entries[f.Key]
	return e == nil || e.notified || e.telling
}

// KeptName returns the name on the disk of a kept file, "" if there is none.
func (b *Inbox) KeptName(key Key) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := b.entries[key]; e != nil && e.state == Have {
		return e.stem + ".file"
	}
	return ""
}
