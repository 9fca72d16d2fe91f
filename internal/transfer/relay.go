package transfer

import (
	"fmt"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

// RelayState is where a transfer stands at the server. These are the only moves:
//
//	Offered → Accepted → Streaming ⇄ Interrupted → Verifying → Done
//	Offered → Verifying               the content came inside the offer
//	Accepted, Streaming → Verifying   the receiver has, or was sent, the last byte
//	Verifying → Interrupted           the receiver asks again for bytes that were lost
//	any but the last four → Done | Refused | Cancelled | Failed
//
// A transfer begins as Offered, or as Interrupted if it was rebuilt from its id.
type RelayState uint8

// The states. The last four are ends.
const (
	RelayOffered RelayState = iota
	RelayAccepted
	RelayStreaming
	RelayInterrupted
	RelayVerifying
	RelayDone
	RelayRefused
	RelayCancelled
	RelayFailed
)

// String returns the state's name in lower case, for logs and metrics.
func (s RelayState) String() string {
	return [...]string{"offered", "accepted", "streaming", "interrupted", "verifying",
		"done", "refused", "cancelled", "failed"}[s]
}

// Ended reports whether nothing can follow on s.
func (s RelayState) Ended() bool { return s >= RelayDone }

// may reports whether the drawing has the move from s to next.
func (s RelayState) may(next RelayState) bool {
	if s.Ended() {
		return false
	}
	switch next {
	case RelayAccepted:
		return s == RelayOffered
	case RelayStreaming:
		return s == RelayAccepted || s == RelayInterrupted
	case RelayInterrupted:
		return s == RelayStreaming || s == RelayVerifying
	case RelayVerifying:
		return true
	}
	return next.Ended()
}

const (
	// relaySyncAfter is how long relayed bytes may stay unconfirmed before the
	// receiver is asked (docs/protocol.md §7.4).
	relaySyncAfter = 5 * time.Second
	// relaySyncTrust is how long the answer to a Sync is waited for when the
	// receiver had confirmed so much before it was asked.
	relaySyncTrust = 2 * time.Second
	// relayLaneAsk is how long an up-lane waits for a down-lane until the receiver, who
	// is there, is asked how it stands: he may have given the transfer up.
	relayLaneAsk = 10 * time.Second
)

// RelayConfig says what a transfer is. It does not change.
type RelayConfig struct {
	Size      int64
	Inlined   bool          // the content is in the offer: there are no lanes
	HTTP      bool          // the sender is a mere HTTP client: Finish and VerdictAck are ours
	Digest    *wire.Digest  // of an HTTP sender, for Finish; may be nil
	OfferWait time.Duration // for the answer
	Window    time.Duration // without progress the transfer is forgotten after it
}

// A RelayVerdict is how a transfer ended, and whose word that is.
type RelayVerdict struct {
	Code       wire.Code
	Receipt    wire.Receipt
	Origin     wire.Origin
	LengthOnly bool
	Detail     string
	Header     []byte
}

// A Relay is the server's machine for one transfer: events go in, actions come
// out. It has no clock, goroutine or I/O, and is not safe for use by several
// goroutines at a time.
//
// What a peer sends at the wrong moment is ignored or refused with an error;
// only a bug in this repository makes it panic.
type Relay struct {
	cfg   RelayConfig
	state RelayState

	// Offsets. 0 ≤ synced, confirmed ≤ relayed ≤ size, and confirmed ≤ claimed.
	at        int64 // where the down-lane stands, or ended
	relayed   int64 // the highest that a receiver was ever sent, or said to have
	claimed   int64 // the receiver's last word, which may run before our counting
	confirmed int64 // the part of it that counts
	synced    int64 // what it confirmed in answer to a Sync: survives its restart

	up, down   bool // a lane is there
	receiver   bool // the receiver's session is there
	begun      bool // an offer has arrived
	before     bool // it may have been offered before this life
	passed     bool // the offer went to the receiver
	queried    bool // a Query went out on this line of the receiver's, and no offer after it
	polled     bool // that Query only asks whether the receiver is still at work
	asking     bool // rebuilt: nothing is known before the Standing
	back       bool // the receiver has come back and has not said how it stands
	elsewhere  bool // it was asked because it has more than was relayed here
	reoffered  bool // while asking: the sender waits for an answer
	finish     bool // the digest is known: Finish was given, or is ours to make
	finishSent bool
	digest     *wire.Digest
	cancelling bool // a cancel was passed on: the receiver decides
	withdrawn  bool // the receiver has to learn of a cancel, and has not said so yet
	acked      bool // the sender has its verdict
	forgotten  bool

	receipt wire.Receipt // what the answer promised
	header  []byte       // of the answer
	verdict RelayVerdict // valid at an end

	progress time.Time // of the last progress
	waits    time.Time // since when a lane may be waiting for the down-lane
	polls    time.Time // when the receiver was last asked whether it is still at work
	risen    time.Time // when the offset last rose, or a Sync was sent
	deadline time.Time // for the answer
	syncAt   int64     // asked for and not answered; 0: nothing
	syncSent time.Time

	out []RelayAction
}

// NewRelay returns the machine of a transfer that is being offered. The first
// event has to be RelayOfferArrived.
func NewRelay(cfg RelayConfig, now time.Time) *Relay {
	return &Relay{cfg: cfg, progress: now, risen: now, deadline: now.Add(cfg.OfferWait), digest: cfg.Digest, finish: cfg.HTTP}
}

// RebuildRelay returns the machine of a transfer that this server does not know
// and has rebuilt from its id: it has to ask the receiver.
func RebuildRelay(cfg RelayConfig, now time.Time) *Relay {
	r := NewRelay(cfg, now)
	r.state = RelayInterrupted // where such a life begins, not a move
	r.asking = true
	return r
}

// State returns where the transfer stands.
func (r *Relay) State() RelayState { return r.state }

// Size returns the content's size in bytes.
func (r *Relay) Size() int64 { return r.cfg.Size }

// Confirmed returns how many bytes the receiver is known to have.
func (r *Relay) Confirmed() int64 { return r.confirmed }

// Synced returns how many bytes the receiver has confirmed when it was asked to:
// they survive a restart of it.
func (r *Relay) Synced() int64 { return r.synced }

// Syncing reports whether the receiver was asked and has not answered.
func (r *Relay) Syncing() bool { return r.syncAt > 0 }

// Relayed returns the highest offset that was ever sent to the receiver.
func (r *Relay) Relayed() int64 { return r.relayed }

// At returns where the down-lane stands.
func (r *Relay) At() int64 { return r.at }

// Asking reports whether the receiver has yet to say how the transfer stands.
func (r *Relay) Asking() bool { return r.asking }

// ReceiverBack reports whether the receiver has come back and not said yet what it
// has: another process of it may have less than the one before.
func (r *Relay) ReceiverBack() bool { return r.back }

// ReceiverLive reports whether the receiver's session is there.
func (r *Relay) ReceiverLive() bool { return r.receiver }

// Running reports whether the receiver is there and at work on content that it
// has accepted, or that came inside the offer: a server that stops waits for it.
func (r *Relay) Running() bool {
	return r.receiver && !r.state.Ended() && (r.state != RelayOffered || r.cfg.Inlined && r.passed)
}

// Receipt returns the receipt that the receiver's answer promised.
func (r *Relay) Receipt() wire.Receipt { return r.receipt }

// Verdict returns how the transfer ended. It is only valid at an end.
func (r *Relay) Verdict() RelayVerdict { return r.verdict }

// Acked reports whether the sender has its verdict.
func (r *Relay) Acked() bool { return r.acked }

// Forgotten reports whether the transfer is to be forgotten: its receiver does
// not know it, or its time is over. Nothing can be done with it any more.
func (r *Relay) Forgotten() bool { return r.forgotten }

// Upload returns the offset that a tus client is told: below the size until the
// verdict is 0, because such a client takes offset = size for success.
func (r *Relay) Upload(offset int64) int64 {
	switch {
	case r.state == RelayDone:
		return r.cfg.Size
	case offset >= r.cfg.Size:
		return max(0, r.cfg.Size-1)
	}
	return offset
}

// move is the only place where the state changes.
func (r *Relay) move(next RelayState) {
	if r.state == next {
		return
	}
	if !r.state.may(next) {
		panic(fmt.Sprintf("transfer: relay cannot move from %v to %v", r.state, next))
	}
	r.state = next
}

// A RelayJoin says what an up-lane has to do.
type RelayJoin struct {
	Do   RelayJoinDo
	Drop int64 // bytes of the up-lane that the receiver has already
}

// RelayJoinDo is the kind of a RelayJoin.
type RelayJoinDo uint8

// What an up-lane does.
const (
	RelayWait     RelayJoinDo = iota // there is no down-lane yet
	RelayCopy                        // drop some bytes and copy the rest into the down-lane
	RelayConflict                    // the up-lane begins past what the receiver has
	RelaySkip                        // the receiver has everything: drop and wait for its verdict
)

// Join decides for an up-lane that stands at offset p (docs/protocol.md §8).
func (r *Relay) Join(p int64) RelayJoin {
	switch {
	case r.state.Ended() || r.asking || r.state == RelayOffered:
		return RelayJoin{Do: RelayWait}
	case r.state == RelayVerifying && !r.down:
		return RelayJoin{Do: RelaySkip, Drop: max(0, r.cfg.Size-p)}
	case !r.down:
		return RelayJoin{Do: RelayWait}
	case p > r.at:
		return RelayJoin{Do: RelayConflict}
	}
	return RelayJoin{Do: RelayCopy, Drop: r.at - p}
}

// Header returns the header of the receiver's answer; nil after the end.
func (r *Relay) Header() []byte { return r.header }
