package inbox

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/dian-im/dian/internal/disk"
)

// committer is the queue in front of commitLoop, the only goroutine that renames
// parts to kept files and writes the ledger. It is what makes the flushes shared:
// whoever waits is in the next batch.
type committer struct {
	queue   sync.Mutex // guards waiting and told
	waiting []*commit  // bounded by its callers, who wait
	told    []toldFile // at most one for each kept file
	wake    chan struct{}
	quit    chan struct{}
	done    chan struct{}
}

type commitKind uint8

const (
	commitHave commitKind = iota + 1
	commitCancelled
)

// commit is one caller's wish.
type commit struct {
	kind   commitKind
	entry  entry
	file   disk.File // of a small part, to be flushed and closed; nil: that is done
	moved  bool
	err    error
	answer chan error
}

// toldFile is a kept file that the application was told of.
type toldFile struct {
	file  *File
	first bool   // it had not been told before
	saved *place // where it was saved with a name that is to be flushed; nil: nowhere
}

func (b *Inbox) startCommitter() {
	if b.options.Stepped {
		return
	}
	b.wake = make(chan struct{}, 1)
	b.quit = make(chan struct{})
	b.done = make(chan struct{})
	go b.commitLoop() // ends with stopCommitter
}

// stopCommitter ends the committer after everything that waits.
func (b *Inbox) stopCommitter() {
	if b.options.Stepped {
		b.commitWaiting()
		return
	}
	close(b.quit)
	<-b.done
}

// commit waits until c is on the disk and in the ledger, or has failed. Its caller
// holds the turn of an active part, which is what keeps the committer running.
func (b *Inbox) commit(c *commit) error {
	c.answer = make(chan error, 1)
	b.queue.Lock()
	b.waiting = append(b.waiting, c)
	b.queue.Unlock()
	if b.options.Stepped {
		b.commitWaiting()
	} else {
		b.wakeUp()
	}
	return <-c.answer
}

// Settle writes down what waits to be, for an inbox with Options.Stepped.
func (b *Inbox) Settle() { b.commitWaiting() }

// notified has the committer write down, some time soon, that the application was
// told, and remove the inbox's name of a file that was saved elsewhere.
func (b *Inbox) notified(t toldFile) {
	b.queue.Lock()
	b.told = append(b.told, t)
	b.queue.Unlock()
	b.wakeUp()
}

func (b *Inbox) wakeUp() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

func (b *Inbox) commitLoop() {
	defer close(b.done)
	for {
		select {
		case <-b.wake:
			b.commitWaiting()
		case <-b.quit:
			b.commitWaiting()
			return
		}
	}
}

// commitWaiting commits everybody who waits, as one batch.
func (b *Inbox) commitWaiting() {
	b.queue.Lock()
	batch, told := b.waiting, b.told
	b.waiting, b.told = nil, nil
	b.queue.Unlock()
	if len(batch) == 0 && len(told) == 0 {
		return
	}
	if b.ledger.broken {
		if err := b.ledger.rewrite(b.content()); err != nil {
			for _, c := range batch {
				if c.file != nil {
					c.file.Close()
				}
				c.answer <- err
			}
			b.queue.Lock()
			b.told = append(told, b.told...)
			b.queue.Unlock()
			return
		}
	}
	b.flushParts(batch)
	b.moveParts(batch)
	told = b.flushSaved(told)
	b.writeLedger(batch, told)
	for _, c := range batch {
		c.answer <- c.err
	}
	for _, t := range told {
		if t.saved != nil {
			t.file.unlink()
		}
	}
	if b.ledger.size > b.ledger.limit && !b.ledger.broken {
		if err := b.ledger.rewrite(b.content()); err != nil {
			b.log.Error("ledger cannot be written anew", "error", err)
		}
	}
}

// flushTogether is from how many small files on the whole file system is flushed for
// them, and flushMost how long that may have taken last: others may be writing much.
const (
	flushTogether = 4
	flushMost     = 100 * time.Millisecond
	flushPause    = 10 * time.Second // before it is tried again
)

// flushParts flushes and closes the parts of a batch that are not.
func (b *Inbox) flushParts(batch []*commit) {
	n := 0
	for _, c := range batch {
		if c.file != nil {
			n++
		}
	}
	flushed := n >= flushTogether && b.flushAll()
	for _, c := range batch {
		if c.file == nil {
			continue
		}
		if !flushed {
			c.err = writeError("flush part", c.file.Sync())
		}
		if err := c.file.Close(); c.err == nil {
			c.err = writeError("close part", err)
		}
	}
}

// flushAll flushes the whole file system, and reports whether that was done.
func (b *Inbox) flushAll() bool {
	all, ok := b.disk.(disk.Flusher)
	begun := b.options.Now()
	if !ok || begun.Before(b.flushAgain) {
		return false
	}
	err := all.Flush()
	if took := b.options.Now().Sub(begun); err != nil || took > flushMost {
		b.flushAgain = begun.Add(took + flushPause)
	}
	return err == nil // otherwise each file's own flush tells whether it was that one's
}

// flushSaved flushes the names under which files were saved, a folder once, and
// returns those of which may be written down that the application was told. The
// others it will be told of again, should this process end.
func (b *Inbox) flushSaved(told []toldFile) []toldFile {
	type flushed struct {
		folder os.FileInfo
		err    error
	}
	var done []flushed
	flush := func(to *place) error {
		folder, err := to.dir.Stat()
		if err != nil {
			return err
		}
		for _, f := range done {
			if os.SameFile(f.folder, folder) {
				return f.err
			}
		}
		err = to.SyncDir()
		done = append(done, flushed{folder, err})
		return err
	}
	var good []toldFile
	for _, t := range told {
		if t.saved != nil {
			err := flush(t.saved)
			t.saved.close()
			if err != nil {
				b.log.Error("folder of a saved file cannot be flushed", "file", t.file.name, "error", err)
				continue
			}
			b.mu.Lock()
			if e := b.entries[t.file.Key]; e != nil {
				e.notice()
			}
			b.mu.Unlock()
		}
		good = append(good, t)
	}
	return good
}

// moveParts gives the batch's parts the names of kept files and flushes the folder,
// once for all of them.
func (b *Inbox) moveParts(batch []*commit) {
	any := false
	for _, c := range batch {
		if c.kind != commitHave || c.err != nil {
			continue
		}
		stem := c.entry.stem
		if err := b.disk.Move(stem+".part", stem+".file"); err != nil {
			c.err = writeError("name kept file", err)
			continue
		}
		c.moved, any = true, true
	}
	if !any {
		return
	}
	if err := b.disk.SyncDir(); err != nil {
		for _, c := range batch {
			if c.moved {
				c.err = fmt.Errorf("flush folder: %w: %w", ErrWrite, err)
				b.moveBack(c)
			}
		}
	}
}

// moveBack undoes moveParts, for a caller that will be told of a failure.
func (b *Inbox) moveBack(c *commit) {
	stem := c.entry.stem
	c.moved = false
	if err := b.disk.Move(stem+".file", stem+".part"); err != nil {
		b.log.Error("file that was not kept stays", "file", stem, "error", err)
	}
}

// writeLedger writes the records of everybody in the batch who has come this far,
// and of files the application was told of, and flushes them once.
func (b *Inbox) writeLedger(batch []*commit, told []toldFile) {
	var records []byte
	sync := false
	for _, c := range batch {
		if c.err == nil {
			records = appendRecord(records, b.ledger.seed, c.entry.payload())
			sync = true
		}
	}
	for _, t := range told {
		if t.first {
			records = appendRecord(records, b.ledger.seed, notifiedPayload(t.file.Key))
		}
	}
	if len(records) == 0 {
		return
	}
	err := b.ledger.append(records, sync)
	if err == nil {
		b.mu.Lock()
		for _, c := range batch {
			if c.err == nil {
				e := c.entry
				b.entries[e.key] = &e
			}
		}
		b.boundLocked()
		b.mu.Unlock()
		return
	}
	b.log.Error("ledger cannot be written", "error", err)
	if b.ledger.broken {
		// Without these records, it is known again what it says. If that fails too,
		// the files stay: whichever way the next Open finds the ledger, it is true.
		if again := b.ledger.rewrite(b.content()); again != nil {
			b.log.Error("ledger cannot be written anew", "error", again)
			for _, c := range batch {
				c.err = err
			}
			return
		}
	}
	for _, c := range batch {
		if c.err == nil {
			c.err = err
			if c.moved {
				b.moveBack(c)
			}
		}
	}
}

// mostEntries bounds the ledger. A sender could offer and cancel all day.
const mostEntries = 1 << 18

// boundLocked forgets the oldest entries if there are too many, a quarter at a time:
// cancelled ones first, and never a file the application was not told of.
func (b *Inbox) boundLocked() {
	if len(b.entries) <= mostEntries {
		return
	}
	var spare []*entry
	for _, e := range b.entries {
		if e.state == Cancelled || e.notified {
			spare = append(spare, e)
		}
	}
	slices.SortFunc(spare, func(x, y *entry) int {
		return cmp.Or(cmp.Compare(y.state, x.state), x.at.Compare(y.at)) // Cancelled > Have
	})
	for _, e := range spare[:min(len(spare), mostEntries/4)] {
		delete(b.entries, e.key)
	}
}

// content copies what the ledger should say.
func (b *Inbox) content() *ledgerContent {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := &ledgerContent{entries: make(map[Key]*entry, len(b.entries)), damaged: b.damaged}
	for k, e := range b.entries {
		copied := *e
		c.entries[k] = &copied
	}
	return c
}
