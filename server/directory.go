package server

import (
	"hash/maphash"
	"maps"
	"sync"
	"time"
)

// place is a user's place in an app: where it can be addressed.
type place struct{ app, user string }

// shards is how many parts the directory has, so that logins and look-ups on
// many cores do not wait for one lock.
const shards = 16

// A directory knows the listening session of every place. It only remembers:
// whoever takes or leaves a place tells everybody who has to know. No lock is
// held when it returns, so nobody sends under one.
type directory struct {
	seed   maphash.Seed
	shards [shards]shard
	clock  epochClock
}

type shard struct {
	mu        sync.RWMutex
	listeners map[string]map[string]*session // guarded by mu; app → user
}

func newDirectory() *directory {
	d := &directory{seed: maphash.MakeSeed(), clock: epochClock{start: time.Now()}}
	for i := range d.shards {
		d.shards[i].listeners = map[string]map[string]*session{}
	}
	return d
}

func (d *directory) shard(user string) *shard {
	return &d.shards[maphash.String(d.seed, user)%shards]
}

// get returns the place's listening session, or nil.
func (d *directory) get(app, user string) *session {
	sh := d.shard(user)
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	return sh.listeners[app][user]
}

// A takeover says how take went.
type takeover uint8

const (
	taken    takeover = iota // the place is the session's
	outrun                   // a login with a higher epoch was faster
	fighting                 // two instances kick each other all the time (case 34)
)

// take gives a place to a session and returns the one that had it, which the
// caller has to kick. Epochs decide when logins race, so that exactly one of any
// number stays (case 35).
func (d *directory) take(s *session) (older *session, how takeover) {
	sh := d.shard(s.user)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	users := sh.listeners[s.app]
	if users == nil {
		users = map[string]*session{}
		sh.listeners[s.app] = users
	}
	older = users[s.user]
	if older != nil {
		if older.epoch > s.epoch {
			return nil, outrun
		}
		// A client that comes back from a sleep did not hear that another instance took
		// its place in the meantime: it is the one that was kicked (case 89).
		if older.instance != s.instance && s.last > 0 && older.epoch > s.last {
			return nil, outrun
		}
		s.kicks = older.kicks
		// One instance that reconnects faster than its old line is missed does not
		// fight anybody.
		if older.instance != s.instance && !s.kicks.take(time.Now(), kicksAtOnce, kicksPerSecond) {
			return nil, fighting
		}
	}
	users[s.user] = s
	return older, taken
}

// kicksLeft returns how many more kicks by other instances the session's place allows.
func (d *directory) kicksLeft(s *session) float64 {
	sh := d.shard(s.user)
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	return s.kicks.left(time.Now(), kicksAtOnce, kicksPerSecond)
}

// leave frees a place if it is still the session's, and reports whether it was.
func (d *directory) leave(s *session) bool {
	sh := d.shard(s.user)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	users := sh.listeners[s.app]
	if users[s.user] != s {
		return false
	}
	delete(users, s.user)
	if len(users) == 0 {
		delete(sh.listeners, s.app)
	}
	return true
}

// users returns the names in an app for whom want is true, in no order. want is
// called without a lock.
func (d *directory) users(app string, want func(user string) bool) []string {
	var all []string
	for i := range d.shards {
		sh := &d.shards[i]
		sh.mu.RLock()
		users := make([]string, 0, len(sh.listeners[app]))
		for user := range maps.Keys(sh.listeners[app]) {
			users = append(users, user)
		}
		sh.mu.RUnlock()
		for _, user := range users {
			if want(user) {
				all = append(all, user)
			}
		}
	}
	return all
}

// maxEpoch is the largest epoch that a client may claim to have had. More is a
// broken client: counting on from there would overflow some day (case 15).
const maxEpoch = 1 << 62

// An epochClock makes epochs: milliseconds since 1970, and one more than the
// last if that is not more. It does not go back when the machine's clock does,
// and it is one for all users, so that nothing has to be remembered of a user
// who has logged out.
type epochClock struct {
	start time.Time // has the monotonic reading that time.Since uses

	mu   sync.Mutex
	last uint64 // guarded by mu
}

// epochsAhead is how far the epochs of other nodes may be ahead of this node's clock to
// be followed: their clocks may be wrong, but a client's claim must not become everybody's.
const epochsAhead = 10 * time.Minute

// heard has the epochs to come be above one that another node has given, so that a newer
// login is above an older one whatever the nodes' clocks say (case 102).
func (c *epochClock) heard(epoch uint64) {
	now := c.start.Add(time.Since(c.start))
	if epoch > uint64(now.Add(epochsAhead).UnixMilli()) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = max(c.last, epoch)
}

// next returns an epoch above every one that this process has given by its own
// count, and above the two given: those of the client's session before and of
// the session that it takes the place of.
func (c *epochClock) next(lasts ...uint64) uint64 {
	now := uint64(c.start.Add(time.Since(c.start)).UnixMilli())
	c.mu.Lock()
	c.last = max(now, c.last+1)
	epoch := c.last
	c.mu.Unlock()
	for _, last := range lasts {
		epoch = max(epoch, last+1)
	}
	return epoch
}
