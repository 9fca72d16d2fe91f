package inbox

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/dian-im/dian/internal/disk"
)

// suffixes are the ends of all names that follow a stem.
var suffixes = []string{".part", ".journal", ".mark", ".file", ".journal.tmp", ".mark.tmp"}

// isStem reports whether s is the random part of a name of ours.
func isStem(s string) bool {
	if len(s) != 32 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// ownName splits a name of ours. Everything else in the folder is not touched
// (case 69).
func ownName(name string) (stem, suffix string, ok bool) {
	if len(name) < 32 || !isStem(name[:32]) {
		return "", "", false
	}
	for _, s := range suffixes {
		if name[32:] == s {
			return name[:32], s, true
		}
	}
	return "", "", false
}

// stemFiles are the files of one stem, by suffix.
type stemFiles map[string]disk.Entry

// latest returns when any of them was last written.
func (s stemFiles) latest() (t time.Time) {
	for _, e := range s {
		if e.ModTime.After(t) {
			t = e.ModTime
		}
	}
	return t
}

// ownFiles lists the folder's files by stem.
func ownFiles(d disk.Disk) (map[string]stemFiles, error) {
	all, err := d.List()
	if err != nil {
		return nil, fmt.Errorf("list folder: %w", err)
	}
	out := map[string]stemFiles{}
	for _, e := range all {
		if stem, suffix, ok := ownName(e.Name); ok {
			if out[stem] == nil {
				out[stem] = stemFiles{}
			}
			out[stem][suffix] = e
		}
	}
	return out, nil
}

// load reads the folder: instance, ledger, and the parts to go on with. It removes
// what a crash left half done.
func (b *Inbox) load() error {
	d := b.disk
	for _, name := range []string{"instance.tmp", "ledger.tmp"} {
		d.Remove(name) // nobody else has the lock
	}
	if err := b.loadInstance(); err != nil {
		return err
	}
	ledger, content, err := loadLedger(d, b.options.Now(), b.log.Warn)
	if err != nil {
		if ledger != nil {
			ledger.close()
		}
		return err
	}
	b.ledger, b.entries, b.damaged = ledger, content.entries, content.damaged
	files, err := ownFiles(d)
	if err == nil && content.fresh && holdsFiles(files) {
		// Somebody has removed the ledger: what it listed is not ours to judge.
		b.damaged, content.damaged = b.options.Now(), b.options.Now()
		err = ledger.rewrite(content)
	}
	if err == nil {
		b.loadParts(files)
		// What an earlier process has named may be in the page cache alone.
		err = writeError("flush folder", d.SyncDir())
	}
	if err != nil {
		ledger.close()
	}
	return err
}

func holdsFiles(files map[string]stemFiles) bool {
	for _, have := range files {
		if _, ok := have[".file"]; ok {
			return true
		}
	}
	return false
}

// loadInstance reads the instance's id, or makes one.
func (b *Inbox) loadInstance() error {
	raw, err := readAll(b.disk, "instance", 64)
	if err == nil {
		id, bad := hex.DecodeString(strings.TrimSpace(string(raw)))
		if bad == nil && len(id) == len(b.instance) {
			copy(b.instance[:], id)
			return nil
		}
		b.log.Warn("instance id is not readable, making a new one", "bytes", len(raw))
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: read instance: %w", ErrFolder, err)
	}
	rand.Read(b.instance[:]) // never fails
	err = writeWhole(b.disk, "instance", []byte(hex.EncodeToString(b.instance[:])+"\n"), true)
	if err == nil {
		err = b.disk.SyncDir()
	}
	return writeError("write instance", err)
}

// loadParts finds the parts that can be gone on with.
func (b *Inbox) loadParts(files map[string]stemFiles) {
	kept := map[string]bool{}
	for key, e := range b.entries {
		if e.state != Have {
			continue
		}
		kept[e.stem] = true
		file, here := files[e.stem][".file"]
		switch {
		case !here && !e.notified:
			// The application has taken it away, so it was told.
			e.notice()
			b.log.Info("kept file is not here any more", "file", e.stem, "sendId", key.SendID)
		case here && e.notified && file.Links > 1:
			b.discard(file.Name) // it was saved, and our name for it not yet removed
		}
	}
	for _, stem := range slices.Sorted(maps.Keys(files)) { // a simulator's seed has one outcome
		b.loadPart(stem, files[stem], kept[stem])
	}
}

// loadPart looks at the files of one stem: a part to go on with, or remains.
func (b *Inbox) loadPart(stem string, have stemFiles, kept bool) {
	for _, suffix := range []string{".journal.tmp", ".mark.tmp"} {
		if e, ok := have[suffix]; ok {
			b.discard(e.Name)
			delete(have, suffix)
		}
	}
	part, hasPart := have[".part"]
	file, hasFile := have[".file"]
	if hasFile && !kept && !hasPart {
		part = file // stopped after the rename and before the ledger, perhaps
	}
	var best *record
	if !kept {
		for _, suffix := range []string{".journal", ".mark"} {
			if _, ok := have[suffix]; !ok {
				continue
			}
			r, err := readRecord(b.disk, stem+suffix, part.Size)
			if err != nil {
				b.log.Warn("journal is of no use", "file", stem+suffix, "error", err)
				continue
			}
			if best == nil || r.offset > best.offset {
				best = r
			}
		}
	}
	other := b.parts[keyOf(best)]
	switch {
	case best == nil, b.entries[best.key] != nil, other != nil && other.offset >= best.offset:
		for _, suffix := range suffixes {
			if e, here := have[suffix]; here && (suffix != ".file" || !kept && b.unconfirmed(e)) {
				b.discard(e.Name)
			}
		}
		return
	case hasFile && !hasPart:
		if err := b.disk.Move(stem+".file", stem+".part"); err != nil {
			b.log.Warn("file that was not kept stays", "file", stem, "error", err)
			return
		}
	case hasFile:
		// Stopped within a move that takes two steps. The part is whole, and could never
		// be kept while its name is taken.
		b.discard(file.Name)
	}
	if other != nil {
		b.removePart(other.stem)
	}
	b.parts[best.key] = &storedPart{
		stem: stem, size: best.info.Size, offset: best.offset, bytes: part.Size, at: have.latest(),
	}
}

// unconfirmed reports whether a file that the ledger does not know was left by a crash
// between rename and ledger: nobody was told of it, and it comes again. If the ledger
// was damaged, or so full that it forgot, the file may be more than that.
func (b *Inbox) unconfirmed(e disk.Entry) bool {
	return !e.ModTime.Before(b.damaged) && len(b.entries) < mostEntries/2
}

func keyOf(r *record) Key {
	if r == nil {
		return Key{}
	}
	return r.key
}
