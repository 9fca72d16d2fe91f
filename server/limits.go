package server

import (
	"net/netip"
	"sync"
	"time"
)

// Bounds that nobody has had to change yet. What an operator may set is in Config.
const (
	handshakeTimeout = 5 * time.Second  // to write the answer to an upgrade
	bodyTimeout      = 10 * time.Second // to read the body of a POST …/commands
	refusedTimeout   = 5 * time.Second  // to read what is left of a refused request's body

	maxLogins       = 4096          // connections that are not logged in yet
	maxLoginsPerIP  = maxLogins / 4 // one address cannot shut out the others
	maxSendSessions = 256           // with role send, of one user

	// Kicks between two instances of one user (case 34).
	kicksAtOnce    = 8
	kicksPerSecond = 1.0 / 20

	queueFrames = 16 << 10 // that wait for one slow session

	maxPending       = 16 << 10  // commands that wait for one receiver's ack
	maxInFlightBytes = 32 << 20  // of one sender's commands without result
	maxCommandMemory = 256 << 20 // of all commands without result
	commandOverhead  = 256       // what a command counts beside its content
	maxPostsInFlight = 256       // POST …/commands of one user

	maxWatched         = 10_000  // users that one session subscribes to by name
	maxPresenceList    = 1000    // users in one PresenceList or PresenceChange
	maxPresenceChanged = 100_000 // changes that wait for one slow session

	// presencePause is the shortest time between two PresenceChange of a session.
	presencePause = 100 * time.Millisecond
)

// commandShare and presenceShare are how much of a session's queue commands and
// presence may fill. The rest is for frames that cannot be refused.
func commandShare(queue int) int  { return queue / 4 * 3 }
func presenceShare(queue int) int { return queue / 4 }

// A bucket is a budget that fills up by rate a second to burst at most. The zero
// value is full. Its owner guards it.
type bucket struct {
	spent float64
	at    time.Time
}

// take spends one and reports whether it was there.
func (b *bucket) take(now time.Time, burst, rate float64) bool {
	b.spent = max(0, b.spent-now.Sub(b.at).Seconds()*rate)
	b.at = now
	if b.spent+1 > burst {
		return false
	}
	b.spent++
	return true
}

// A tally counts what keys hold and knows how much they may. Its zero value works.
type tally[K comparable] struct {
	mu    sync.Mutex
	held  map[K]int // guarded by mu; no zeros
	total int       // guarded by mu
}

// take counts one more for key, unless key would have more than each or all keys
// together more than all.
func (t *tally[K]) take(key K, each, all int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.total >= all || t.held[key] >= each {
		return false
	}
	if t.held == nil {
		t.held = map[K]int{}
	}
	t.held[key]++
	t.total++
	return true
}

// give takes one back.
func (t *tally[K]) give(key K) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.total--
	if t.held[key]--; t.held[key] == 0 {
		delete(t.held, key)
	}
}

// sourceOf returns what counts as one address of RemoteAddr: of IPv6 the /64
// that one customer has. Addresses that are none count together.
func sourceOf(remoteAddr string) netip.Addr {
	at, err := netip.ParseAddrPort(remoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	ip := at.Addr().Unmap().WithZone("")
	if ip.Is6() {
		if p, err := ip.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return ip
}
