package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/google/uuid"
)

const (
	// keepSends is how long an unfinished send can be gone on with: as long as
	// receivers keep parts.
	keepSends = 24 * time.Hour
	// maxRecordBytes bounds a file of the journal: a path and a few names.
	maxRecordBytes = 64 << 10
)

// A journal remembers unfinished sends from one process to the next: a folder of
// the user's cache with one small file for each (server, app, user, target, path),
// and a lock beside it that the sending process holds. Nothing is flushed: after a
// power cut an entry may be gone, and the file is sent anew.
type journal struct{ dir string }

// record is what is written down about a send.
type record struct {
	SendID  string    `json:"sendId"`
	Server  string    `json:"server"`
	App     string    `json:"app"`
	User    string    `json:"user"`
	Target  string    `json:"target"`
	Path    string    `json:"path"`
	Name    string    `json:"name,omitempty"` // of --name
	Peer    string    `json:"peer,omitempty"` // the place that has a part of it, in hex; empty: none that we know
	Source  source    `json:"source"`
	Started time.Time `json:"started"`
	Used    time.Time `json:"used"` // the last process began
}

// instance names a receiving place.
type instance = [16]byte

// source is what must be the same for a file to be unchanged (case 73). Its
// content is checked too, by the transfer's digest.
type source struct {
	Size     int64  `json:"size"`
	Modified int64  `json:"modified"` // Unix time in nanoseconds
	Device   uint64 `json:"device,omitempty"`
	Inode    uint64 `json:"inode,omitempty"`
	Changed  int64  `json:"changed,omitempty"` // ctime, where there is one
}

// openJournal opens the user's journal and removes what is too old.
func openJournal() (*journal, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	j := &journal{filepath.Join(cache, "dian", "sends")}
	if err := os.MkdirAll(j.dir, 0o700); err != nil {
		return nil, err
	}
	j.clean(time.Now())
	return j, nil
}

// An entry is one send in the journal, locked by this process. An entry without a
// journal has an id and nothing else.
type entry struct {
	record  record
	resumed bool     // the id is an earlier process's
	path    string   // of the record; empty without a journal
	lock    *os.File // held; nil without a journal
}

// errSending says that another process sends the same file to the same user.
var errSending = errors.New("another process is sending this")

// open locks and returns the entry for want, whose SendID and times it fills in:
// those of the record that is there if it is young and of the same unchanged
// file, new ones otherwise.
func (j *journal) open(want record, now time.Time) (*entry, error) {
	sum := sha256.Sum256([]byte(strings.Join([]string{want.Server, want.App, want.User, want.Target, want.Path}, "\x00")))
	stem := filepath.Join(j.dir, hex.EncodeToString(sum[:16]))
	lock, err := takeLock(stem + ".lock")
	if err != nil {
		return nil, err
	}
	e := &entry{record: want, path: stem + ".json", lock: lock}
	if had, err := readRecord(e.path); err == nil && had.goesOn(want, now) {
		e.record.SendID, e.record.Peer, e.record.Started, e.resumed = had.SendID, had.Peer, had.Started, true
	} else {
		e.record.SendID, e.record.Started = newSendID(), now
	}
	e.record.Used = now
	if err := e.save(); err != nil {
		e.close()
		return nil, err
	}
	return e, nil
}

// goesOn reports whether a record that was found is about what is wanted.
func (r record) goesOn(want record, now time.Time) bool {
	age := now.Sub(r.Used)
	want.SendID, want.Peer, want.Started, want.Used = r.SendID, r.Peer, r.Started, r.Used
	// A clock that was set back in between makes it look newer than now (case 94).
	return r == want && age.Abs() < keepSends
}

// readRecord reads one file of the journal. Anything that is not what save wrote
// is an error, and then the send begins anew.
func readRecord(path string) (record, error) {
	data, err := readSmall(path, maxRecordBytes)
	if err != nil {
		return record{}, err
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return record{}, err
	}
	if id, err := uuid.Parse(r.SendID); err != nil || id.String() != r.SendID {
		return record{}, fmt.Errorf("%s: not a sendID", path)
	}
	if peer, err := hex.DecodeString(r.Peer); err != nil || len(peer) != 0 && len(peer) != len(instance{}) {
		return record{}, fmt.Errorf("%s: not an instance", path)
	}
	return r, nil
}

// save writes the record, whole or not at all.
func (e *entry) save() error {
	data, err := json.Marshal(e.record)
	if err != nil {
		return err
	}
	temp, err := os.CreateTemp(filepath.Dir(e.path), "*.tmp") // 0600
	if err != nil {
		return err
	}
	_, err = temp.Write(data)
	if err = errors.Join(err, temp.Close()); err == nil {
		err = os.Rename(temp.Name(), e.path)
	}
	if err != nil {
		os.Remove(temp.Name())
	}
	return err
}

// id returns the sendID to use and whether an earlier process has used it.
func (e *entry) id() (sendID string, resumed bool) { return e.record.SendID, e.resumed }

// peer returns the place that has a part of what is sent, if one is known.
func (e *entry) peer() (place instance, ok bool) {
	n, err := hex.Decode(place[:], []byte(e.record.Peer))
	return place, err == nil && n == len(place)
}

// accepted notes which place has a part.
func (e *entry) accepted(place instance) {
	text := hex.EncodeToString(place[:])
	if e.path == "" || text == e.record.Peer {
		return
	}
	e.record.Peer = text
	_ = e.save() // without it the next process asks whatever place it finds
}

// renew gives the entry a new sendID.
func (e *entry) renew() {
	e.record.SendID, e.record.Peer, e.resumed = newSendID(), "", false
	if e.path == "" {
		return
	}
	e.record.Started = e.record.Used
	if e.save() != nil {
		e.forget() // better none than one with the old id
	}
}

// forget removes the record: the send is over.
func (e *entry) forget() {
	if e.path != "" {
		os.Remove(e.path)
	}
}

// close gives the entry back to other processes. A lock without a record is of
// no use to anybody and goes too.
func (e *entry) close() {
	if e.lock == nil {
		return
	}
	if _, err := os.Lstat(e.path); errors.Is(err, fs.ErrNotExist) {
		dropLock(e.lock)
	} else {
		e.lock.Close()
	}
	e.lock = nil
}

// takeLock opens and locks a file without waiting. Whoever removes a lock file
// holds its lock, so a file that is locked and still in its place is the one.
func takeLock(path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		if err := lockFile(f); err != nil {
			f.Close()
			return nil, err
		}
		ours, err := f.Stat()
		if err == nil {
			if there, err := os.Lstat(path); err == nil && os.SameFile(ours, there) {
				return f, nil
			}
		}
		f.Close() // its holder has just removed it
	}
}

// dropLock removes a lock file that this process holds.
func dropLock(f *os.File) {
	os.Remove(f.Name()) // not possible on Windows while it is open; clean does it
	f.Close()
}

// ours is what the journal's files are called; nothing else is ever removed.
var ours = regexp.MustCompile(`^([0-9a-f]{32}\.(json|lock)|[0-9]+\.tmp)$`)

// clean removes entries that nobody has used for a day and nobody holds.
func (j *journal) clean(now time.Time) {
	files, err := os.ReadDir(j.dir)
	if err != nil {
		return // open tells
	}
	for _, f := range files {
		info, err := f.Info()
		if err != nil || !ours.MatchString(f.Name()) || now.Sub(info.ModTime()) < keepSends {
			continue
		}
		path := filepath.Join(j.dir, f.Name())
		stem, ok := strings.CutSuffix(path, ".json")
		switch {
		case strings.HasSuffix(path, ".tmp"):
			os.Remove(path)
		case ok:
			if lock, err := takeLock(stem + ".lock"); err == nil {
				os.Remove(path)
				dropLock(lock)
			}
		default:
			// A lock alone, as Windows leaves them. With a young record it is in use.
			if _, err := os.Lstat(strings.TrimSuffix(path, ".lock") + ".json"); errors.Is(err, fs.ErrNotExist) {
				if lock, err := takeLock(path); err == nil {
					lock.Close()
					os.Remove(path)
				}
			}
		}
	}
}
