// Package disk says what the inbox asks of a folder on a file system. The real one
// is internal/inbox's own, held through os.Root; internal/memdisk has one in memory
// that fails and forgets on demand.
package disk

import (
	"io"
	"time"
)

// A Disk is one folder. Names are base names. Its methods may be called by several
// goroutines at once.
type Disk interface {
	Create(name string) (File, error) // new, mode 0600, or fs.ErrExist
	Open(name string) (File, error)   // existing, for reading and writing, or fs.ErrNotExist
	Rename(from, to string) error     // replaces
	Move(from, to string) error       // never replaces: fs.ErrExist
	Remove(name string) error
	List() ([]Entry, error) // plain files only
	SyncDir() error         // flushes the names
}

// A Flusher is a Disk that can flush all its files and names at once, which for many
// small files takes a fraction of flushing each. ErrUnsupported: it cannot here. After
// another error nothing is known of any file.
type Flusher interface {
	Flush() error
}

// A File is an open file of a Disk.
type File interface {
	io.ReaderAt
	io.WriterAt
	Truncate(size int64) error
	Sync() error
	Datasync() error // Sync without what reading the bytes does not need
	Size() (int64, error)
	Close() error
}

// An Entry is one plain file of a List.
type Entry struct {
	Name    string
	Size    int64 // bytes
	ModTime time.Time
	Links   int // hard links to the file, 1 where that is not known
}
