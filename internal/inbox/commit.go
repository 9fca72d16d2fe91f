package inbox

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
)

// committer is the queue in front of commitLoop, the only goroutine that renames
// parts to kept files and writes the ledger. It is what makes the flushes shared:
// whoever waits is in the next batch.
type committer struct {
	queue   sync.Mutex // guards waiting and told
	waiting []*commit  // bounded by its callers, who wait
	told    map[Key]bool
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
	moved  bool
	err    error
	answer chan error
}

func (b *Inbox) startCommitter() {
	b.told = map[Key]bool{}
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
// told. It is at most one record per kept file.
func (b *Inbox) notified(key Key) {
	b.queue.Lock()
	b.told[key] = true
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
	b.waiting, b.told = nil, map[Key]bool{}
	b.queue.Unlock()
	if len(batch) == 0 && len(told) == 0 {
		return
	}
	if b.ledger.broken {
		if err := b.ledger.rewrite(b.content()); err != nil {
			for _, c := range batch {
				c.answer <- err
			}
			return
		}
	}
	b.moveParts(batch)
	b.writeLedger(batch, told)
	for _, c := range batch {
		c.answer <- c.err
	}
	if b.ledger.size > b.ledger.limit && !b.ledger.broken {
		if err := b.ledger.rewrite(b.content()); err != nil {
			b.log.Error("ledger cannot be written anew", "error", err)
		}
	}
}

// moveParts gives the batch's parts the names of kept files and flushes the folder,
// once for all of them.
func (b *Inbox) moveParts(batch []*commit) {
	any := false
	for _, c := range batch {
		if c.kind != commitHave {
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
func (b *Inbox) writeLedger(batch []*commit, told map[Key]bool) {
	var records []byte
	sync := false
	for _, c := range batch {
		if c.err == nil {
			records = appendRecord(records, b.ledger.seed, c.entry.payload())
			sync = true
		}
	}
	for key := range told {
		records = appendRecord(records, b.ledger.seed, notifiedPayload(key))
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
