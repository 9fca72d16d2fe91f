package server

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
)

// What an account counts.
type count uint8

const (
	countSessions count = iota
	countTransfers
	countTransfersIn // those to the user
	countOffers
	countOffersIn
	countKeptIn      // bytes that the server keeps of these
	countQueued      // bytes that wait for the user's sessions; of app and all: whatever waits
	countWatched     // bytes of subscriptions by name
	countSent        // bytes of the user's commands without result
	countRequests    // HTTP requests under way
	countConnections // of an address, to Serve's listener
	countStrangers   // of these, those that have shown nothing yet
	countEntering    // of an address, those with a WebSocket that is not logged in
	counts
)

// An account is what somebody uses at the moment: a user, an address, an app or
// all of them. Everything in it can be counted by anybody at any time.
type account struct {
	logins, commands meter
	calm, connects   meter // of an address: see quota.knock and door
	used             [counts]atomic.Int64
}

// add counts n more if that stays within most.
func (a *account) add(c count, n, most int64) bool {
	if a.used[c].Add(n) > most && n > 0 {
		a.used[c].Add(-n)
		return false
	}
	return true
}

// forgettable reports whether nothing is lost with the account.
func (a *account) forgettable(now int64) bool {
	return a.used[countSent].Load() == 0 && a.logins.isFull(now) && a.commands.isFull(now) && a.calm.isFull(now) &&
		a.connects.isFull(now)
}

// bookShards is how many locks a book has; bookRest how many accounts in each of
// these are remembered although nobody holds them.
const (
	bookShards = 16
	bookRest   = 4096
)

// A book has the accounts of all users, or of all addresses. An account is there
// while somebody holds it, and after that until its meters are full again, but of
// those that nobody holds not more than bookShards · bookRest: then the one that
// rests longest is forgotten, as if it were full (case 53).
type book[K comparable] struct {
	seed   maphash.Seed
	shards [bookShards]bookShard[K]
}

type bookShard[K comparable] struct {
	mu            sync.Mutex
	accounts      map[K]*holder[K] // guarded by mu
	oldest, newst *holder[K]       // guarded by mu: those that rest, in order
	resting       int              // guarded by mu
}

// A holder is an account in its book.
type holder[K comparable] struct {
	account
	key   K
	shard *bookShard[K]

	from offersFrom // to a user, by sender

	// Guarded by the shard's mu.
	held       int
	rests      bool
	next, prev *holder[K]
}

func (b *book[K]) init() {
	b.seed = maphash.MakeSeed()
	for i := range b.shards {
		b.shards[i].accounts = map[K]*holder[K]{}
	}
}

// hold returns the account of a key, which stays until it is released as often as
// it was held.
func (b *book[K]) hold(key K, now int64) *holder[K] {
	sh := &b.shards[maphash.Comparable(b.seed, key)%bookShards]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.forgetLocked(now)
	h := sh.accounts[key]
	if h == nil {
		h = &holder[K]{key: key, shard: sh}
		sh.accounts[key] = h
	}
	if h.rests {
		sh.unlistLocked(h)
	}
	h.held++
	return h
}

// holdAgain is hold for somebody who has a holder already.
func (h *holder[K]) holdAgain() *holder[K] {
	h.shard.mu.Lock()
	defer h.shard.mu.Unlock()
	h.held++
	return h
}

// release is the counterpart of hold.
func (h *holder[K]) release(now int64) {
	sh := h.shard
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if h.held--; h.held > 0 {
		return
	}
	if h.forgettable(now) {
		delete(sh.accounts, h.key)
		return
	}
	h.rests, h.prev = true, sh.newst
	if sh.newst != nil {
		sh.newst.next = h
	} else {
		sh.oldest = h
	}
	sh.newst = h
	sh.resting++
	if sh.resting > bookRest {
		sh.dropLocked(sh.oldest)
	}
}

// forgetLocked forgets those at the front who have nothing left to remember.
func (sh *bookShard[K]) forgetLocked(now int64) {
	for sh.oldest != nil && sh.oldest.forgettable(now) {
		sh.dropLocked(sh.oldest)
	}
}

func (sh *bookShard[K]) dropLocked(h *holder[K]) {
	sh.unlistLocked(h)
	delete(sh.accounts, h.key)
}

func (sh *bookShard[K]) unlistLocked(h *holder[K]) {
	if h.prev != nil {
		h.prev.next = h.next
	} else {
		sh.oldest = h.next
	}
	if h.next != nil {
		h.next.prev = h.prev
	} else {
		sh.newst = h.prev
	}
	h.rests, h.next, h.prev = false, nil, nil
	sh.resting--
}

// sweep forgets what need not be remembered any more.
func (b *book[K]) sweep(now int64) {
	for i := range b.shards {
		b.shards[i].mu.Lock()
		b.shards[i].forgetLocked(now)
		b.shards[i].mu.Unlock()
	}
}

// size returns how many accounts there are.
func (b *book[K]) size() int {
	n := 0
	for i := range b.shards {
		b.shards[i].mu.Lock()
		n += len(b.shards[i].accounts)
		b.shards[i].mu.Unlock()
	}
	return n
}
