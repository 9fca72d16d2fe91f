package inbox

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/dian-im/dian/internal/disk"

	"github.com/dian-im/dian/internal/x3b"
)

// Key says which transfer something is about: SendIDs are unique per source only.
type Key struct {
	Source string // the sending user
	SendID string // canonical UUID, or whatever the server let through
}

// Info is what the sender said about a transfer. Nothing here is trusted; see
// SafeName for Name.
type Info struct {
	Size         int64
	Name, Type   string
	Meta, Header []byte
	SHA256       []byte // what the content must have, or nil
}

// Options are the choices of an Inbox. The zero value is good.
type Options struct {
	Logger        *slog.Logger  // nil discards
	KeepParts     time.Duration // how long an unfinished part can be gone on with; 0 means 24 h
	KeepFiles     time.Duration // how long "have" is answered; 0 means 7 days
	KeepCancelled time.Duration // how long "cancelled" is answered; 0 means 24 h
	PartBytes     int64         // cap for unfinished parts that nobody writes to; 0 means none

	// Stepped is for a simulator, which needs every step at a time of its choosing:
	// the inbox starts no goroutine. Commits run in their caller's, a Part's journal
	// is written by Part.Journal, and what File.Notified notes by Settle.
	Stepped bool
	Now     func() time.Time // nil means time.Now
	NewStem func() string    // a new name, 32 hexadecimal digits; nil means 128 random bits
}

// State is what the inbox knows of a transfer.
type State uint8

// The states of an Entry.
const (
	Partial   State = iota + 1 // some bytes are here
	Have                       // kept: verified and flushed, receipt stored
	Cancelled                  // must not be received again
)

// Entry is the answer to Lookup.
type Entry struct {
	State    State
	Offset   int64  // Partial: bytes that are here; Begin may have to start lower. Have: Size
	Size     int64  // 0 for Cancelled
	Code     uint32 // of the verdict or the cancel
	Notified bool   // Have: the application was told
}

// An Inbox is one folder of received files. All methods may be called at any time
// from any goroutine.
type Inbox struct {
	// Set by Open, then only read.
	disk     disk.Disk
	place    *place // the disk, where files can leave it; nil for a test's disk
	held     *os.File
	log      *slog.Logger
	options  Options
	instance [16]byte
	step     int64
	damaged  time.Time // since when unknown files may be what a damaged ledger listed

	committer
	ledger     *ledger   // commitLoop's
	flushAgain time.Time // commitLoop's: the whole file system is not flushed before
	closed     bool      // guarded by mu

	cleaning sync.Mutex // one Clean at a time; Close waits for it

	mu      sync.Mutex // guards the maps and what says so; never held across I/O
	entries map[Key]*entry
	active  map[Key]*Part
	parts   map[Key]*storedPart
}

// storedPart is a part on the disk that nobody writes to.
type storedPart struct {
	stem   string
	size   int64 // of the transfer
	offset int64 // that journal or mark promise
	bytes  int64 // that the part takes on the disk
	at     time.Time
}

// Open opens the folder dir and makes it (0700) if it is not there; what the mode
// of an existing folder is, is its owner's choice. It returns ErrInUse if somebody
// has it open, and ErrFolder if it is not a folder one can write to. The result
// must be closed.
func Open(dir string, options Options) (*Inbox, error) {
	if err := makeFolder(dir); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFolder, err)
	}
	place, err := openPlace(dir)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFolder, err)
	}
	held, err := place.root.OpenFile("lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		place.close()
		return nil, fmt.Errorf("%w: %w", ErrFolder, err)
	}
	if err := lock(held); err != nil {
		held.Close()
		place.close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	b, err := OpenOn(place, options)
	if err != nil {
		unlock(held)
		held.Close()
		place.close()
		return nil, fmt.Errorf("open inbox %s: %w", dir, err)
	}
	b.place, b.held = place, held
	return b, nil
}

// makeFolder makes dir and what is missing above it, 0700, and flushes the names.
func makeFolder(dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(dir)
	if parent == dir { // a drive that is not there
		return fs.ErrNotExist
	}
	if err := makeFolder(parent); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	above, err := os.Open(asFolder(parent))
	if errors.Is(err, fs.ErrPermission) {
		return nil // one may make names there and not read them
	}
	if err != nil {
		return err
	}
	defer above.Close()
	return syncFolder(above)
}

// OpenOn is Open for a disk that is no folder of the file system, as a test has it.
// Nobody else may use the disk. Its files cannot be saved elsewhere.
func OpenOn(d disk.Disk, options Options) (*Inbox, error) {
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	if options.Now == nil {
		options.Now = time.Now
	}
	if options.NewStem == nil {
		options.NewStem = newStem
	}
	options.KeepParts = or(options.KeepParts, 24*time.Hour)
	options.KeepFiles = or(options.KeepFiles, 7*24*time.Hour)
	options.KeepCancelled = or(options.KeepCancelled, 24*time.Hour)
	b := &Inbox{
		disk: d, log: options.Logger, options: options, step: journalStep,
		active: map[Key]*Part{}, parts: map[Key]*storedPart{},
	}
	if err := b.load(); err != nil {
		return nil, err
	}
	b.startCommitter()
	if err := b.Clean(options.Now()); err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

func or(d, otherwise time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return otherwise
}

// Instance returns the random id of this receiving place. It stays with the folder.
func (b *Inbox) Instance() [16]byte { return b.instance }

// Close ends all parts as Part.Close does, waits for what is being kept and releases
// the folder. Later calls return ErrClosed.
func (b *Inbox) Close() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return ErrClosed
	}
	b.closed = true
	var open []*Part
	for _, p := range b.active {
		open = append(open, p)
	}
	b.mu.Unlock()
	var errs []error
	for _, p := range open {
		if err := p.Close(); err != nil {
			errs = append(errs, fmt.Errorf("close part: %w", err))
		}
	}
	b.cleaning.Lock()
	defer b.cleaning.Unlock()
	b.stopCommitter()
	errs = append(errs, b.ledger.close())
	if b.place != nil {
		unlock(b.held)
		errs = append(errs, b.place.close(), b.held.Close())
	}
	return errors.Join(errs...)
}

// Lookup says what the inbox knows of a transfer, and whether it knows anything.
func (b *Inbox) Lookup(key Key) (Entry, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := b.entries[key]; e != nil {
		answer := Entry{State: e.state, Code: e.code, Notified: e.notified || e.telling}
		if e.state == Have {
			answer.Offset, answer.Size = e.info.Size, e.info.Size
		}
		return answer, true
	}
	if p := b.active[key]; p != nil {
		return Entry{State: Partial, Offset: p.taken.Load(), Size: p.info.Size}, true
	}
	if s := b.parts[key]; s != nil {
		return Entry{State: Partial, Offset: s.offset, Size: s.size}, true
	}
	return Entry{}, false
}

// Stored returns what was recorded of a part that can be gone on with and is not
// open, so that a process that has restarted knows what it was receiving.
func (b *Inbox) Stored(key Key) (Info, bool) {
	b.mu.Lock()
	s := b.parts[key]
	b.mu.Unlock()
	if s == nil {
		return Info{}, false
	}
	for _, suffix := range []string{".journal", ".mark"} {
		if r, err := readRecord(b.disk, s.stem+suffix, s.bytes); err == nil && r.key == key {
			return r.info, true
		}
	}
	return Info{}, false
}

// Begin starts the part of a transfer or goes on with the one that is here; what the
// peer says now replaces what it said then. The caller must end the Part by Keep,
// Close or Drop. Errors: ErrInfo, ErrBusy if the part is open already, ErrHave,
// ErrCancelled, ErrMismatch if size or SHA-256 are not those of the part that is
// here, ErrNoSpace, ErrWrite, ErrClosed.
func (b *Inbox) Begin(key Key, info Info) (*Part, error) {
	p, stored, err := b.reserve(key, info)
	if err != nil {
		return nil, err
	}
	defer p.turn.Unlock()
	if stored != nil {
		err = p.reopen(stored)
		if errors.Is(err, errStale) {
			b.log.Warn("part cannot be trusted, starting again", "part", stored.stem, "offset", stored.offset, "reason", err)
			b.removePart(stored.stem)
			stored, err = nil, nil
		}
	}
	if stored == nil && err == nil {
		// The first mark says what the part is before there is a byte of it: a process
		// that is killed in its first second knows afterwards what it was receiving.
		if err = p.create(); err == nil {
			err = p.Mark()
		}
	}
	if err != nil {
		p.abandon(stored != nil)
		return nil, err
	}
	if len(p.info.SHA256) > 0 && p.hash.Len() == 0 {
		p.sha = sha256.New()
	}
	p.asked = p.hash.Len()
	p.taken.Store(p.asked)
	p.journalNow = make(chan struct{}, 1)
	p.journalStop = make(chan struct{})
	p.journalDone = make(chan struct{})
	if b.options.Stepped {
		close(p.journalDone)
	} else {
		go p.journalLoop() // ends with stopJournal
	}
	return p, nil
}

// Put keeps content that is here as a whole: Begin, Write, Verify and Keep in one,
// without a journal. len(data) must be info.Size. A part of the same transfer that
// nobody writes to gives way.
func (b *Inbox) Put(key Key, info Info, data []byte) (*File, error) {
	if int64(len(data)) != info.Size {
		return nil, fmt.Errorf("%w: %d bytes of %d", ErrDigest, len(data), info.Size)
	}
	if len(info.SHA256) > 0 {
		sum := sha256.Sum256(data)
		if err := same("sha-256", sum[:], info.SHA256); err != nil {
			return nil, err
		}
	}
	p, stored, err := b.reserve(key, info)
	if err != nil {
		return nil, err
	}
	if stored != nil {
		b.removePart(stored.stem)
	}
	p.markless = true
	if err = p.create(); err == nil && len(data) > 0 {
		_, err = p.file.WriteAt(data, 0)
		err = writeError("write part", err)
	}
	if err != nil {
		p.endLocked(false)
		p.turn.Unlock()
		return nil, err
	}
	p.taken.Store(info.Size)
	p.verified = true
	p.turn.Unlock()
	return p.Keep()
}

// reserve makes this caller the one who receives key, and returns the Part with its
// turn taken, and what is on the disk for it.
func (b *Inbox) reserve(key Key, info Info) (*Part, *storedPart, error) {
	if !check(key, info) {
		return nil, nil, ErrInfo
	}
	info.Meta, info.Header = bytes.Clone(info.Meta), bytes.Clone(info.Header)
	info.SHA256 = bytes.Clone(info.SHA256)
	p := &Part{box: b, key: key, info: info, hash: x3b.New(), marked: -1}
	p.turn.Lock()
	b.mu.Lock()
	defer b.mu.Unlock()
	stored := b.parts[key]
	switch e := b.entries[key]; {
	case b.closed:
		return nil, nil, ErrClosed
	case e != nil && e.state == Have:
		return nil, nil, ErrHave
	case e != nil:
		return nil, nil, ErrCancelled
	case b.active[key] != nil:
		return nil, nil, ErrBusy
	case stored != nil && stored.size != info.Size:
		return nil, nil, fmt.Errorf("%w: size %d, here %d", ErrMismatch, info.Size, stored.size)
	}
	b.active[key] = p
	if stored != nil {
		p.stem = stored.stem
	}
	return p, stored, nil
}

// abandon undoes reserve after a failure. It needs the turn.
func (p *Part) abandon(stored bool) {
	if !stored {
		p.endLocked(false)
		return
	}
	p.ended = true
	p.box.mu.Lock()
	delete(p.box.active, p.key)
	p.box.mu.Unlock()
	if p.file != nil {
		p.file.Close()
		p.file = nil
	}
}

// create makes a new part under a new random name. A name that is taken, by whatever
// it may be, is left alone (case 64).
func (p *Part) create() error {
	for {
		stem := p.box.options.NewStem()
		p.box.mu.Lock()
		p.stem = stem
		p.box.mu.Unlock()
		f, err := p.box.disk.Create(stem + ".part")
		if err == nil {
			p.file = f
			return nil
		}
		if !errors.Is(err, fs.ErrExist) {
			return writeError("create part", err)
		}
	}
}

// newStem returns 128 random bits as hex.
func newStem() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// Cancelled writes down that a transfer must not be received again, with the code
// that said so, and removes what is here of it. It returns ErrHave, and changes
// nothing, if the transfer was kept already: then that is the answer (case 81).
func (b *Inbox) Cancelled(key Key, code uint32) error {
	if !check(key, Info{}) {
		return ErrInfo
	}
	p, err := b.seize(key)
	if p == nil {
		return err
	}
	defer p.turn.Unlock()
	p.stopJournal()
	p.fail(ErrCancelled)
	err = b.commit(&commit{kind: commitCancelled, entry: entry{state: Cancelled, key: key, code: code, at: p.box.options.Now()}})
	p.endLocked(false)
	return err
}

// seize returns the Part of key with its turn taken; if there is none, one that has
// only the name of what is stored, so that nobody begins meanwhile. It returns nil
// if there is nothing left to do.
func (b *Inbox) seize(key Key) (*Part, error) {
	for {
		b.mu.Lock()
		e, p := b.entries[key], b.active[key]
		switch {
		case b.closed:
			b.mu.Unlock()
			return nil, ErrClosed
		case e != nil && e.state == Have:
			b.mu.Unlock()
			return nil, ErrHave
		case e != nil:
			b.mu.Unlock()
			return nil, nil
		case p == nil:
			p = &Part{box: b, key: key, hash: x3b.New(), marked: -1}
			p.turn.Lock()
			if s := b.parts[key]; s != nil {
				p.stem, p.info.Size = s.stem, s.size
			}
			b.active[key] = p
			b.mu.Unlock()
			return p, nil
		}
		b.mu.Unlock()
		p.turn.Lock()
		if !p.ended {
			return p, nil
		}
		p.turn.Unlock() // it ended, and the inbox knew before we got the turn
	}
}

// Drop is p.Drop.
func (b *Inbox) Drop(p *Part) error { return p.Drop() }

// removePart removes everything a part has on the disk, journal first: a part
// without a journal means nothing.
func (b *Inbox) removePart(stem string) {
	if stem == "" {
		return
	}
	for _, suffix := range []string{".journal", ".mark", ".part"} {
		if err := b.disk.Remove(stem + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			b.log.Warn("part stays on the disk", "part", stem+suffix, "error", err)
		}
	}
}
