package server

import "time"

// Bounds that nobody has had to change yet. What an operator may set is in Config.
const (
	handshakeTimeout = 5 * time.Second  // to write the answer to an upgrade
	bodyTimeout      = 10 * time.Second // to read the body of a POST …/commands
	refusedTimeout   = 5 * time.Second  // to read what is left of a refused request's body

	maxLogins      = 4096          // connections that are not logged in yet
	maxLoginsPerIP = maxLogins / 4 // one address cannot shut out the others

	// Kicks between two instances of one user (case 34).
	kicksAtOnce    = 8
	kicksPerSecond = 1.0 / 20

	queueFrames = 16 << 10            // that wait for one slow session
	maxPending  = queueFrames / 4 * 3 // commands that wait for one receiver's ack

	commandOverhead = 256 // what a command or an offer counts beside its content

	maxWatched         = 10_000  // users that one session subscribes to by name
	maxPresenceList    = 1000    // users in one PresenceList or PresenceChange
	maxPresenceChanged = 100_000 // changes that wait for one slow session

	// presencePause is the shortest time between two PresenceChange of a session.
	presencePause = 100 * time.Millisecond
)

// A bucket is a budget that fills up by rate a second to burst at most. The zero
// value is full. Its owner guards it.
type bucket struct {
	spent float64
	at    time.Time
}

// left returns how much is there.
func (b *bucket) left(now time.Time, burst, rate float64) float64 {
	return burst - max(0, b.spent-now.Sub(b.at).Seconds()*rate)
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
