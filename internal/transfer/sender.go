package transfer

import (
	"fmt"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

// SenderState is where an outgoing buffer or file stands. These are the only moves:
//
//	Offered → Streaming → Verifying → Done
//	          Streaming ⇄ Interrupted
//	Offered, Interrupted → Verifying     nothing is left to upload
//	Verifying → Interrupted              bytes that were written are lost
//	Streaming, Interrupted, Verifying → Offered   the receiver knows nothing of it any more
//	any but the last four → Done | Refused | Cancelled | Failed
type SenderState uint8

// The states. The last four are ends.
const (
	SenderOffered SenderState = iota
	SenderStreaming
	SenderInterrupted
	SenderVerifying
	SenderDone
	SenderRefused
	SenderCancelled
	SenderFailed
)

// String returns the state's name in lower case.
func (s SenderState) String() string {
	return [...]string{"offered", "streaming", "interrupted", "verifying",
		"done", "refused", "cancelled", "failed"}[s]
}

// Ended reports whether nothing can follow on s.
func (s SenderState) Ended() bool { return s >= SenderDone }

// may reports whether the drawing has the move from s to next.
func (s SenderState) may(next SenderState) bool {
	switch {
	case s.Ended():
		return false
	case next.Ended():
		return true
	}
	switch next {
	case SenderOffered:
		return s != SenderOffered
	case SenderStreaming:
		return s == SenderOffered || s == SenderInterrupted
	case SenderInterrupted:
		return s == SenderStreaming || s == SenderVerifying
	}
	return true // Verifying
}

// What the sender's machine waits for. The numbers without a source in
// docs/protocol.md are ours.
const (
	retryFirst  = 250 * time.Millisecond // doubles with each try without progress
	retryMost   = 5 * time.Second
	peerRetry   = time.Second      // between offers while the peer is offline
	stallTime   = 10 * time.Second // without confirmed progress: bounded pieces
	pieceTime   = 30 * time.Second // for a bounded piece
	finalTime   = 5 * time.Second  // for the verdict that goes with a lane's final answer
	offerSlack  = 30 * time.Second // beyond the server's own time for an answer
	pieceMin    = 1 << 20
	pieceMax    = 8 << 20
	pieceQuick  = 2 * time.Second // a piece that took less is followed by a larger one
	boundedFor  = 64 << 20        // after so much in pieces, whole lanes are tried again…
	boundedMost = 2               // …so often
	finalsMost  = 3               // final answers of lanes without a verdict or progress
	askedMost   = 20              // offers after "unknown" without any progress
)

// SenderConfig says what is sent. It does not change.
type SenderConfig struct {
	Size    int64
	Inlined bool // the content is in the offer
	// Reused says that the sendID may have been used by an earlier process.
	Reused    bool
	Window    time.Duration // without progress the task ends with 207
	OfferWait time.Duration // how long the server waits for an answer
	PeerWait  time.Duration // how long an offline peer is waited for; 0: not at all
	// Jitter returns a random time from 0 to d. It makes the machine's randomness
	// the caller's, so that a run can be repeated.
	Jitter func(d time.Duration) time.Duration
}

// A SenderResult is how a task ended, and whose word that is.
type SenderResult struct {
	Code       wire.Code
	Receipt    wire.Receipt
	Origin     wire.Origin // unspecified: this side's own
	LengthOnly bool
	Detail     string
}

// A Sender is the sender's machine for one buffer or file: events go in, actions
// come out. It has no clock, goroutine or I/O, and is not safe for use by several
// goroutines at a time. Whatever the server sends, at whatever moment, is taken
// or ignored; only a bug in this repository makes it panic.
type Sender struct {
	cfg   SenderConfig
	state SenderState

	up         bool // there is a session
	accepted   bool // an Accepted has come and no UNKNOWN after it
	everyone   bool // an Accepted has come at any time
	held       bool // an offer was not passed on because the server stops
	asked      int  // offers without an answer
	unanswered bool // the one that went out at asks is not answered
	reasked    int  // offers after UNKNOWN without progress
	transfer   string
	url        string
	instance   []byte

	confirmed int64
	wrote     int64 // handed to the present lane, or the one before
	lane      int   // number of the present lane or HEAD
	running   bool  // it runs
	heading   bool  // and is a HEAD
	laneEnd   int64
	pieceFrom time.Time
	piece     int64 // of bounded lanes; 0: not bounded
	bounded   int64 // bytes confirmed in pieces
	relapses  int   // how often bounded mode began

	digesting bool // the digest was asked for
	digested  bool
	finished  bool // Finish was sent

	cancelling  bool
	reason      *SenderResult // why, if it was not the application
	withdrawing bool          // ended, and the server has yet to learn of it
	until       time.Time     // the end of either

	tries    int
	next     time.Time // of nextDo; zero: none
	nextDo   SenderDo  // SenderSendOffer, SenderAskHead or SenderOpenLane
	nextAt   int64
	progress time.Time // of the last progress
	asks     time.Time // when the open offer went out for the first time
	stalled  time.Time // since when unconfirmed bytes are under way; zero: there are none
	patience time.Time // until when an offline peer is waited for
	finalAt  time.Time // zero, or when final becomes the result
	final    SenderResult
	finals   int // without progress
	result   SenderResult

	out []SenderAction
}

// NewSender returns the machine of a task that begins now. The line is down until
// SenderLineUp says otherwise.
func NewSender(cfg SenderConfig, now time.Time) *Sender {
	return &Sender{cfg: cfg, progress: now, patience: now.Add(cfg.PeerWait)}
}

// State returns where the task stands.
func (s *Sender) State() SenderState { return s.state }

// Result returns how the task ended. It is only valid at an end.
func (s *Sender) Result() SenderResult { return s.result }

// Over reports whether the machine has nothing left to do: it has ended, and the
// server knows or has had its time to learn.
func (s *Sender) Over() bool { return s.state.Ended() && !s.withdrawing }

// Confirmed returns how many bytes the receiver has confirmed. It never falls.
func (s *Sender) Confirmed() int64 { return s.confirmed }

// Transfer and URL return what the last Accepted told, empty before it.
func (s *Sender) Transfer() string { return s.transfer }

// URL returns the path of the up-lane.
func (s *Sender) URL() string { return s.url }

// Instance returns the place that accepted, for repeated offers; nil before.
func (s *Sender) Instance() []byte { return s.instance }

// Waiting reports whether the task waits for line, peer or answer.
func (s *Sender) Waiting() bool {
	return s.state == SenderOffered || !s.running && s.state != SenderVerifying
}

// Bounded reports whether lanes are cut into pieces.
func (s *Sender) Bounded() bool { return s.piece > 0 }

// move is the only place where the state changes.
func (s *Sender) move(next SenderState) {
	if s.state == next {
		return
	}
	if !s.state.may(next) {
		panic(fmt.Sprintf("transfer: sender cannot move from %v to %v", s.state, next))
	}
	s.state = next
}

// A SenderEvent is something that happened to an outgoing task.
type SenderEvent interface{ senderEvent() }

// Events of the session. Their frames have been checked alone (package wire).
type (
	// SenderLineUp says that a session is there, after its Welcome.
	SenderLineUp struct{}
	// SenderLineDown says that it has gone. Lanes may live on.
	SenderLineDown struct{}
	// SenderAccepted is the server's Accepted.
	SenderAccepted struct {
		Transfer, URL string
		Offset        int64
		Instance      []byte
	}
	// SenderReceived is the offset that the receiver has confirmed.
	SenderReceived struct{ Offset int64 }
	// SenderVerdict is the transfer's end. Transfer may be empty.
	SenderVerdict struct {
		Transfer string
		Result   SenderResult
	}
	// SenderUnknown is Standing(UNKNOWN).
	SenderUnknown struct{}
)

// Events of this side.
type (
	// SenderCancel is the application's wish.
	SenderCancel struct{}
	// SenderSourceFailed says that the content cannot be sent (any more).
	SenderSourceFailed struct {
		Code   wire.Code
		Detail string
	}
	// SenderDigested says that the digest which was asked for is known, and the
	// source was found unchanged.
	SenderDigested struct{}
	// SenderWrote says that a lane was handed the bytes below Offset.
	SenderWrote struct {
		Lane   int
		Offset int64
	}
	// SenderLaneEnded says that a lane or a HEAD has its answer, or has broken.
	SenderLaneEnded struct {
		Lane   int
		End    LaneEnd
		Offset int64     // with LaneConfirmed
		Code   wire.Code // with LaneFinal
		Detail string
	}
	// SenderTick is the clock, at the latest when Wake says.
	SenderTick struct{}
)

// LaneEnd is how a lane or a HEAD ended.
type LaneEnd uint8

// The ends of lanes.
const (
	LaneBroken    LaneEnd = iota // no answer, or one that asks for another try
	LaneConfirmed                // 204 or a HEAD's 200, with an offset
	LaneConflict                 // 409
	LaneNotThere                 // 423: the receiver is not there now
	LaneGone                     // 404: unknown to server and receiver
	LaneTooLarge                 // 413 without a code of ours
	LaneFinal                    // another 4xx, with its code
	LaneWhole                    // down-lane: its range has ended as a whole
	LaneNothing                  // down-lane: 503, nothing to send at the moment
	LaneOver                     // down-lane: 410, ended
)

func (SenderLineUp) senderEvent()       {}
func (SenderLineDown) senderEvent()     {}
func (SenderAccepted) senderEvent()     {}
func (SenderReceived) senderEvent()     {}
func (SenderVerdict) senderEvent()      {}
func (SenderUnknown) senderEvent()      {}
func (SenderCancel) senderEvent()       {}
func (SenderSourceFailed) senderEvent() {}
func (SenderDigested) senderEvent()     {}
func (SenderWrote) senderEvent()        {}
func (SenderLaneEnded) senderEvent()    {}
func (SenderTick) senderEvent()         {}

// SenderDo is what a SenderAction asks for.
type SenderDo uint8

// The actions.
const (
	SenderNothing    SenderDo = iota
	SenderSendOffer           // with Instance, if that is not nil
	SenderSendFinish          // with the digest
	SenderSendAck             // VerdictAck of Transfer
	SenderSendCancel          // of the sendID, and the transfer if one is known
	SenderOpenLane            // number Lane, from Offset, Length bytes
	SenderAskHead             // number Lane: where does the transfer stand?
	SenderEndLane             // end the lane or HEAD; what comes from it is ignored
	SenderDigest              // find the digest of the whole, then SenderDigested
	SenderProgress            // Offset is confirmed
	SenderTell                // the task has its Result
)

// A SenderAction is something to be done, in the order given.
type SenderAction struct {
	Do       SenderDo
	Lane     int
	Offset   int64
	Length   int64
	Transfer string
	Resent   bool // of an offer: it may have been offered before
}
