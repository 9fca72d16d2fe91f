package inbox

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"
	"sync/atomic"

	"github.com/dian-im/dian/internal/disk"

	"github.com/dian-im/dian/internal/x3b"
)

// A Part is a transfer whose bytes are coming in. Its methods may be called from
// several goroutines; Write, Verify, Keep, Close and Drop take turns.
type Part struct {
	// Set before anybody else has the Part, then only read.
	box         *Inbox
	key         Key
	info        Info
	stem        string // the random part of its file names; written under box.mu
	journalNow  chan struct{}
	journalStop chan struct{} // nil: no journal (Put)
	journalDone chan struct{}

	// turn is who may move the part on: one writer at a time, each for as long as
	// its write takes, so that a lane which was displaced is out before the next
	// one's bytes come. Only those who want a turn wait for it.
	turn     sync.Mutex
	file     disk.File // nil once closed
	sha      hash.Hash // nil: not wanted, or not contiguous from 0 in this process
	verified bool
	ended    bool // closed, kept or dropped; the inbox has forgotten it by then
	asked    int64

	mu     sync.Mutex // guards hash and failed; held for hashing only
	hash   *x3b.Hasher
	failed error // final
	taken  atomic.Int64

	marking  sync.Mutex // guards marked, markless, and the mark's file
	marked   int64      // offset of the mark, -1: there is none
	markless bool

	recorded int64 // offset of the journal on disk; journalLoop's while that runs
}

// Key returns the transfer's key.
func (p *Part) Key() Key { return p.key }

// Info returns what the sender said about the transfer.
func (p *Part) Info() Info { return p.info }

// Offset returns how many bytes the part has: the next Write goes there.
func (p *Part) Offset() int64 { return p.taken.Load() }

// Write appends b. It returns len(b) or an error, never in between: ErrNoSpace, after
// which the same bytes may be tried again; ErrTooMuch, with nothing taken; ErrEnded;
// or ErrWrite, which is final. It does not keep b, flushes nothing and allocates
// nothing.
func (p *Part) Write(b []byte) (int, error) {
	p.turn.Lock()
	defer p.turn.Unlock()
	return p.write(b)
}

// WriteAt is Write for bytes that belong at offset. It refuses any other place than
// the part's end with ErrOffset.
func (p *Part) WriteAt(b []byte, offset int64) (int, error) {
	p.turn.Lock()
	defer p.turn.Unlock()
	if at := p.taken.Load(); offset != at {
		return 0, fmt.Errorf("%w: %d, want %d", ErrOffset, offset, at)
	}
	return p.write(b)
}

func (p *Part) write(b []byte) (int, error) {
	if err := p.usable(); err != nil {
		return 0, err
	}
	at := p.taken.Load()
	if int64(len(b)) > p.info.Size-at {
		return 0, ErrTooMuch
	}
	if _, err := p.file.WriteAt(b, at); err != nil {
		err = writeError("write part", err)
		if !errors.Is(err, ErrNoSpace) {
			p.fail(err)
		}
		return 0, err
	}
	p.mu.Lock()
	p.hash.Write(b)
	p.mu.Unlock()
	if p.sha != nil {
		p.sha.Write(b)
	}
	p.verified = false
	at = p.taken.Add(int64(len(b)))
	if at-p.asked >= p.box.step {
		p.asked = at
		select {
		case p.journalNow <- struct{}{}:
		default: // it is writing one; the next tick catches up
		}
	}
	return len(b), nil
}

// usable returns why nothing can be done with the part, if so. It needs the turn.
func (p *Part) usable() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.failed != nil:
		return p.failed
	case p.ended:
		return ErrEnded
	}
	return nil
}

// resumable reports whether journal or mark are there to go on from. It needs the
// journal stopped.
func (p *Part) resumable() bool { return p.recorded > 0 || p.marked >= 0 }

// fail makes err the part's last word.
func (p *Part) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failed == nil {
		p.failed = err
	}
}

// Verify checks that all bytes are there and give value under algorithm: "x3b",
// "sha-256", or "" for the length alone. The SHA-256 of Info, if there is one, is
// checked in any case. It returns ErrDigest if the content is not right, and
// ErrAlgorithm. Nothing is removed: that is Drop.
func (p *Part) Verify(algorithm string, value []byte) error {
	p.turn.Lock()
	defer p.turn.Unlock()
	if err := p.usable(); err != nil {
		return err
	}
	if at := p.taken.Load(); at != p.info.Size {
		return fmt.Errorf("%w: %d bytes of %d", ErrDigest, at, p.info.Size)
	}
	switch algorithm {
	case "":
	case "x3b":
		p.mu.Lock()
		sum := p.hash.Sum()
		p.mu.Unlock()
		if err := same(algorithm, sum[:], value); err != nil {
			return err
		}
	case "sha-256":
		if err := p.checkSHA(value); err != nil {
			return err
		}
	default:
		return fmt.Errorf("%w: %q", ErrAlgorithm, algorithm)
	}
	if len(p.info.SHA256) > 0 {
		if err := p.checkSHA(p.info.SHA256); err != nil {
			return err
		}
	}
	p.verified = true
	return nil
}

func same(algorithm string, got, want []byte) error {
	if subtle.ConstantTimeCompare(got, want) != 1 {
		return fmt.Errorf("%w: %s is %x, want %x", ErrDigest, algorithm, got, want)
	}
	return nil
}

// checkSHA compares the content's SHA-256, which it reads the part again for unless
// it was computed on the way.
func (p *Part) checkSHA(want []byte) error {
	if p.sha == nil {
		h := sha256.New()
		n, err := io.Copy(h, io.NewSectionReader(p.file, 0, p.info.Size))
		if err != nil || n != p.info.Size {
			return fmt.Errorf("%w: read part: %d bytes of %d: %w", ErrWrite, n, p.info.Size, errors.Join(err, io.ErrUnexpectedEOF))
		}
		p.sha = h
	}
	return same("sha-256", p.sha.Sum(nil), want)
}

// Keep makes the verified part a kept file, in the order the package comment gives,
// and ends the Part. When it returns nil, the file is on the disk and in the ledger.
// An error that wraps ErrNoSpace leaves what was journalled for another try; after
// any other the part is gone.
func (p *Part) Keep() (*File, error) {
	p.turn.Lock()
	defer p.turn.Unlock()
	if p.ended {
		return nil, p.usable()
	}
	if !p.verified && p.usable() == nil {
		return nil, ErrNotVerified
	}
	p.stopJournal()
	if err := p.usable(); err != nil { // a flush of the journal's may have failed
		p.endLocked(false)
		return nil, err
	}
	c := &commit{kind: commitHave}
	if p.journalStop == nil { // small: it is flushed together with others
		c.file, p.file = p.file, nil
	} else if err := p.flushAndClose(); err != nil {
		p.fail(err)
		p.endLocked(false)
		return nil, err
	}
	c.entry = entry{state: Have, key: p.key, info: p.info, stem: p.stem, at: p.box.options.Now()}
	if err := p.box.commit(c); err != nil {
		// Only a full disk leaves the part as good as it was.
		p.fail(err)
		p.endLocked(errors.Is(err, ErrNoSpace) && p.resumable())
		return nil, err
	}
	p.keptLocked()
	return newFile(p.box, c.entry), nil
}

// flushAndClose has the part's bytes on the disk.
func (p *Part) flushAndClose() error {
	if err := p.file.Sync(); err != nil {
		return writeError("flush part", err)
	}
	err := p.file.Close()
	p.file = nil
	return writeError("close part", err)
}

// Close ends the Part and keeps what it has, for Begin to go on with: it flushes the
// part and writes a last journal record. A part with no bytes, or one that failed, is
// removed. Closing twice is harmless.
func (p *Part) Close() error {
	p.turn.Lock()
	defer p.turn.Unlock()
	if p.ended {
		return nil
	}
	p.stopJournal()
	err := p.usable()
	if err == nil {
		err = p.journal()
	}
	if err != nil {
		p.fail(err)
	}
	p.endLocked(err == nil && p.resumable())
	return err
}

// Drop ends the Part and removes what it has, without a word in the ledger: after a
// failed check or a refusal, the same transfer may come again. Dropping a Part that
// has ended does nothing.
func (p *Part) Drop() error {
	p.turn.Lock()
	defer p.turn.Unlock()
	if p.ended {
		return nil
	}
	p.stopJournal()
	p.endLocked(false)
	return nil
}

// endLocked makes the inbox forget the part and its files, or list it as one to go
// on with. It needs the turn, and the journal stopped.
func (p *Part) endLocked(keep bool) {
	p.ended = true
	if p.file != nil {
		p.file.Close()
		p.file = nil
	}
	b := p.box
	if keep {
		b.mu.Lock()
		b.parts[p.key] = &storedPart{
			stem: p.stem, size: p.info.Size, offset: max(p.recorded, p.marked), bytes: p.taken.Load(), at: p.box.options.Now(),
		}
		delete(b.active, p.key)
		b.mu.Unlock()
		return
	}
	b.removePart(p.stem)
	b.mu.Lock()
	delete(b.parts, p.key)
	delete(b.active, p.key)
	b.mu.Unlock()
}

// keptLocked ends the part after the committer has kept it.
func (p *Part) keptLocked() {
	p.ended = true
	if p.recorded > 0 {
		p.box.disk.Remove(p.stem + ".journal")
	}
	if p.marked >= 0 {
		p.box.disk.Remove(p.stem + ".mark")
	}
	b := p.box
	b.mu.Lock()
	delete(b.parts, p.key)
	delete(b.active, p.key)
	b.mu.Unlock()
}
