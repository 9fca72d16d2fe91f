package server

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/dian-im/dian/internal/wire"
)

const (
	maxRevocations = 100_000 // a list that long is one of users to delete from the login service
	maxReasonBytes = 256
	maxJTIBytes    = 512 // a longer one is revoked by the token's SHA-256

	// revocationLinger is how long an entry stays in the file after its end: a
	// clock that is set back must not bring a token to life again (case 94).
	revocationLinger = 24 * time.Hour
)

// A Revocation takes tokens out of service before their time (case 30): all of a
// user, those of a user that are older than a moment, or one token. It counts on
// every path, at once and, with Config.RevocationsFile, after a restart too.
//
// Exactly one of User, JTI and SHA256 is set.
type Revocation struct {
	ID   string `json:"id"` // 16 hexadecimal digits; the server's to choose
	App  string `json:"app"`
	User string `json:"user,omitempty"`

	// JTI is the claim jti of one token, SHA256 the hash of a token's text in
	// lower-case hexadecimal, for tokens that have no jti.
	JTI    string `json:"jti,omitempty"`
	SHA256 string `json:"sha256,omitempty"`

	// IssuedBefore, with User, spares the tokens whose iat is not before it. A
	// token without iat is refused: nobody can tell when it was made. Zero
	// refuses all.
	IssuedBefore time.Time `json:"issuedBefore,omitzero"`

	// Expires is when the revocation ends by itself, zero for never. That of a
	// token can end with the token.
	Expires time.Time `json:"expires,omitzero"`

	Created time.Time `json:"created"`
	Reason  string    `json:"reason,omitempty"` // for people, at most 256 bytes; clients are not told
}

// check says why r cannot be one. Its texts do not repeat r.
func (r *Revocation) check() error {
	named := 0
	for _, name := range []string{r.User, r.JTI, r.SHA256} {
		if name != "" {
			named++
		}
	}
	switch {
	case named != 1:
		return errors.New("exactly one of user, jti and sha256 is needed")
	case len(r.JTI) > maxJTIBytes || !utf8.ValidString(r.JTI):
		return fmt.Errorf("jti is not UTF-8 of at most %d bytes; name the token by its sha256", maxJTIBytes)
	case r.SHA256 != "" && !isHex(r.SHA256, sha256.Size):
		return errors.New("sha256 is not 64 lower-case hexadecimal digits")
	case !r.IssuedBefore.IsZero() && r.User == "":
		return errors.New("issuedBefore goes with user alone")
	case len(r.Reason) > maxReasonBytes || !utf8.ValidString(r.Reason):
		return fmt.Errorf("reason is not UTF-8 of at most %d bytes", maxReasonBytes)
	}
	for _, at := range []time.Time{r.IssuedBefore, r.Expires, r.Created} {
		if year := at.UTC().Year(); !at.IsZero() && (year < 1970 || year > 9999) {
			return errors.New("a time is not between 1970 and 9999")
		}
	}
	if err := wire.CheckApp(r.App); err != nil {
		return err
	}
	if r.User != "" {
		return wire.CheckUser(r.User)
	}
	return nil
}

// isHex reports whether s is n bytes in lower-case hexadecimal.
func isHex(s string, n int) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == n && s == strings.ToLower(s)
}

// counts reports whether r has not ended.
func (r *Revocation) counts(now time.Time) bool { return r.Expires.IsZero() || now.Before(r.Expires) }

// stale reports whether r need not be kept any more.
func (r *Revocation) stale(now time.Time) bool { return !r.counts(now.Add(-revocationLinger)) }

// covers reports whether r refuses all that other does, and for as long.
func (r *Revocation) covers(other *Revocation) bool {
	return r.App == other.App && r.User == other.User && r.JTI == other.JTI && r.SHA256 == other.SHA256 &&
		(r.IssuedBefore.IsZero() || !other.IssuedBefore.IsZero() && !r.IssuedBefore.Before(other.IssuedBefore)) &&
		(r.Expires.IsZero() || !other.Expires.IsZero() && !r.Expires.Before(other.Expires))
}

// A tokenMark is what one token is known by: the hash of its text or of its jti.
// Hashes, because a session keeps them for its life and a jti has no bound.
type tokenMark [sha256.Size]byte

func markOfToken(token string) tokenMark { return sha256.Sum256([]byte(token)) }

// markOfJTI never is a token's: no token begins like this.
func markOfJTI(jti string) tokenMark { return sha256.Sum256([]byte("jti:" + jti)) }

// mark is the tokenMark that r names.
func (r *Revocation) mark() tokenMark {
	if r.JTI != "" {
		return markOfJTI(r.JTI)
	}
	b, _ := hex.DecodeString(r.SHA256) // was checked
	return tokenMark(b)
}

// revocations is the list, and the file that it is kept in.
type revocations struct {
	path string // "": not kept
	now  atomic.Pointer[revocationSet]

	mu      sync.Mutex // guards the rest and the file
	list    []Revocation
	unsaved map[string]bool // ids that are in force and not in the file
	lifted  map[string]time.Time
}

// revocationSet is the list in the form that tokens are held against. It does
// not change.
type revocationSet struct {
	list   []Revocation
	users  map[place][]Revocation
	tokens map[markedToken][]Revocation
}

type markedToken struct {
	app  string
	mark tokenMark
}

func newRevocations(list []Revocation) *revocationSet {
	set := &revocationSet{list: list, users: map[place][]Revocation{}, tokens: map[markedToken][]Revocation{}}
	for _, r := range list {
		if r.User != "" {
			at := place{r.App, r.User}
			set.users[at] = append(set.users[at], r)
			continue
		}
		at := markedToken{r.App, r.mark()}
		set.tokens[at] = append(set.tokens[at], r)
	}
	return set
}

// openRevocations reads the list of path, which is made if it is not there.
func openRevocations(path string) (*revocations, error) {
	v := &revocations{path: path, unsaved: map[string]bool{}, lifted: map[string]time.Time{}}
	if path != "" {
		list, err := loadRevocations(path, true)
		if err != nil {
			return nil, err
		}
		v.list = list
		if real, err := filepath.EvalSymlinks(path); err == nil {
			v.path = real // a rename replaces the file and not what points to it
		}
	}
	v.now.Store(newRevocations(v.list))
	return v, nil
}

// refuse reports whether a token that says c is revoked. A nil list has none.
func (v *revocations) refuse(c claims, now time.Time) bool {
	if v == nil {
		return false
	}
	set := v.now.Load()
	for _, r := range set.users[place{c.App, c.User}] {
		// A token without iat has the zero time, which is before any.
		if r.counts(now) && (r.IssuedBefore.IsZero() || c.issued.Before(r.IssuedBefore)) {
			return true
		}
	}
	for _, mark := range c.marks {
		for _, r := range set.tokens[markedToken{c.App, mark}] {
			if r.counts(now) {
				return true
			}
		}
	}
	return false
}

// all returns the entries that have not ended, the oldest first. It does not wait for
// the file.
func (v *revocations) all(now time.Time) []Revocation {
	return slices.DeleteFunc(slices.Clone(v.now.Load().list), func(r Revocation) bool { return !r.counts(now) })
}

// count is how many those are.
func (v *revocations) count(now time.Time) (n int) {
	list := v.now.Load().list
	for i := range list {
		if list[i].counts(now) {
			n++
		}
	}
	return n
}

// errTooManyRevocations is what add answers at its bound.
var errTooManyRevocations = fmt.Errorf("there are %d revocations; lift those that are not needed, or change the key", maxRevocations)

// add puts r, which was checked, into force and returns it as it stands: with an
// id, or the older one that covers it. After an error of the file it is in force
// all the same, until a restart.
func (v *revocations) add(r Revocation, now time.Time) (kept Revocation, fresh bool, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, old := range v.list {
		if old.counts(now) && old.covers(&r) {
			if v.unsaved[old.ID] {
				err = v.saveLocked(now)
			}
			return old, false, err
		}
	}
	if len(v.list) >= maxRevocations {
		if v.dropStaleLocked(now); len(v.list) >= maxRevocations {
			return Revocation{}, false, errTooManyRevocations
		}
	}
	var id [8]byte
	rand.Read(id[:]) // never fails
	r.ID, r.Created = hex.EncodeToString(id[:]), now.UTC().Truncate(time.Millisecond)
	v.list = append(v.list, r)
	v.unsaved[r.ID] = true
	v.now.Store(newRevocations(v.list))
	return r, true, v.saveLocked(now)
}

// merge puts entries of another list into force, which were checked, and takes out
// those that were lifted there. It reports whether anything has changed.
func (v *revocations) merge(list []Revocation, lifted []string, now time.Time) (changed bool, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	kept := slices.DeleteFunc(slices.Clone(v.list), func(r Revocation) bool { return slices.Contains(lifted, r.ID) })
	changed = len(kept) != len(v.list)
	for _, id := range lifted {
		if isHex(id, 8) {
			delete(v.unsaved, id)
			v.liftedLocked(id, now)
		}
	}
	known := make(map[string]bool, len(kept))
	for _, r := range kept {
		known[r.ID] = true
	}
	for _, r := range list {
		if _, gone := v.lifted[r.ID]; gone || known[r.ID] || !r.counts(now) || len(kept) >= maxRevocations {
			continue
		}
		known[r.ID], v.unsaved[r.ID], changed = true, true, true
		kept = append(kept, r)
	}
	if !changed {
		return false, nil
	}
	v.list = kept
	v.now.Store(newRevocations(v.list))
	return true, v.saveLocked(now)
}

// lift takes an entry out. Before the file says so it stays in force.
func (v *revocations) lift(id string, now time.Time) (lifted Revocation, found bool, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	at := slices.IndexFunc(v.list, func(r Revocation) bool { return r.ID == id })
	if at < 0 {
		return Revocation{}, false, nil
	}
	before := v.list
	v.list = slices.Delete(slices.Clone(before), at, at+1)
	if err := v.saveLocked(now); err != nil {
		v.list = before
		return before[at], true, err
	}
	delete(v.unsaved, id)
	v.liftedLocked(id, now)
	v.now.Store(newRevocations(v.list))
	return before[at], true, nil
}

// maxLifted bounds the ids that are remembered as lifted, each for revocationLinger: a
// node of a cluster that was away when they were may still have them in force.
const maxLifted = 10_000

func (v *revocations) liftedLocked(id string, now time.Time) {
	for old, at := range v.lifted {
		if now.Sub(at) > revocationLinger || len(v.lifted) >= maxLifted {
			delete(v.lifted, old)
		}
	}
	v.lifted[id] = now
}

// liftedIDs returns the ids that were lifted in the last day by this process or told to
// it.
func (v *revocations) liftedIDs() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Sorted(maps.Keys(v.lifted))
}

// reread takes over what the file says now, and keeps what could not be written to
// it. First it calls last, whose error leaves the list as it was.
func (v *revocations) reread(last func() error) error {
	v.mu.Lock() // until the end: what is added meanwhile is in the file then
	defer v.mu.Unlock()
	if v.path == "" {
		return last()
	}
	list, err := loadRevocations(v.path, false)
	if err != nil {
		return err
	}
	if err := last(); err != nil {
		return err
	}
	for _, r := range v.list {
		if v.unsaved[r.ID] && !slices.ContainsFunc(list, func(o Revocation) bool { return o.ID == r.ID }) {
			list = append(list, r)
		}
	}
	v.list = list
	v.now.Store(newRevocations(list))
	return nil
}

func (v *revocations) dropStaleLocked(now time.Time) {
	v.list = slices.DeleteFunc(slices.Clone(v.list), func(r Revocation) bool { return r.stale(now) })
}

// saveLocked writes the file. Without a path there is none to write.
func (v *revocations) saveLocked(now time.Time) error {
	v.dropStaleLocked(now)
	if v.path == "" {
		return nil
	}
	if err := saveRevocations(v.path, v.list); err != nil {
		return err
	}
	clear(v.unsaved)
	return nil
}
