package inbox

import (
	"cmp"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"time"
)

// Clean removes, as of now, what the Options say is too old or too much: parts
// nobody writes to, ledger entries, kept files whose entry ends and of which the
// application was told, and what crashes left over. It touches only names of the
// inbox's own pattern in its own folder (case 69), never an open part, and never a
// kept file the application does not know of. Open cleans by itself; a program that
// runs for long calls it every hour or so.
func (b *Inbox) Clean(now time.Time) error {
	b.cleaning.Lock()
	defer b.cleaning.Unlock()
	if b.isClosed() {
		return ErrClosed
	}
	files, err := ownFiles(b.disk) // before looking at the maps: what is newer is not in it
	if err != nil {
		return err
	}
	b.cleanEntries(now, files)
	b.cleanParts(now)
	b.cleanRemains(now, files)
	return nil
}

func (b *Inbox) isClosed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}

// cleanEntries forgets old ledger entries, and their files.
func (b *Inbox) cleanEntries(now time.Time, files map[string]stemFiles) {
	var gone []string
	b.mu.Lock()
	for key, e := range b.entries {
		switch {
		case e.state == Cancelled && now.Sub(e.at) > b.options.KeepCancelled:
			delete(b.entries, key)
		case e.state == Have && e.notified && now.Sub(e.at) > b.options.KeepFiles:
			delete(b.entries, key)
			gone = append(gone, e.stem)
		}
	}
	b.mu.Unlock()
	for _, stem := range gone {
		if _, here := files[stem][".file"]; here {
			b.discard(stem + ".file")
			delete(files[stem], ".file")
		}
	}
}

// cleanParts removes parts that are too old, and the oldest of those that are too
// much.
func (b *Inbox) cleanParts(now time.Time) {
	type candidate struct {
		key Key
		*storedPart
	}
	var idle []candidate
	var total int64
	var gone []string
	b.mu.Lock()
	for key, s := range b.parts {
		if b.active[key] != nil {
			continue
		}
		idle = append(idle, candidate{key, s})
		total += s.bytes
	}
	slices.SortFunc(idle, func(x, y candidate) int { return cmp.Or(x.at.Compare(y.at), cmp.Compare(x.stem, y.stem)) })
	for _, c := range idle {
		old := now.Sub(c.at) > b.options.KeepParts
		if old || b.options.PartBytes > 0 && total > b.options.PartBytes {
			delete(b.parts, c.key)
			gone = append(gone, c.stem)
			total -= c.bytes
		}
	}
	b.mu.Unlock()
	for _, stem := range gone {
		b.removePart(stem)
	}
}

// cleanRemains removes files of ours that belong to nothing: after a crash, or after
// a removal that failed. Kept files without a ledger entry are given the time a kept
// file has, and are let alone if the ledger was damaged after they were written.
func (b *Inbox) cleanRemains(now time.Time, files map[string]stemFiles) {
	known := map[string]bool{}
	b.mu.Lock()
	for _, p := range b.active {
		known[p.stem] = true
	}
	for _, s := range b.parts {
		known[s.stem] = true
	}
	for _, e := range b.entries {
		known[e.stem] = true
	}
	b.mu.Unlock()
	for _, stem := range slices.Sorted(maps.Keys(files)) {
		if known[stem] {
			continue
		}
		for _, suffix := range suffixes {
			e, here := files[stem][suffix]
			if !here {
				continue
			}
			age := now.Sub(e.ModTime)
			if suffix == ".file" {
				if age > b.options.KeepFiles && !e.ModTime.Before(b.damaged) {
					b.discard(e.Name)
				}
			} else if age > b.options.KeepParts {
				b.discard(e.Name)
			}
		}
	}
}

func (b *Inbox) discard(name string) {
	if err := b.disk.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		b.log.Warn("file stays on the disk", "file", name, "error", err)
	}
}
