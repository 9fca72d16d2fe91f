package transfer

import (
	"fmt"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

// ReceiverState is where an incoming buffer or file stands. These are the only moves:
//
//	Asking → Preparing → Receiving → Verifying → Done
//	         Receiving ⇄ Parked
//	Preparing → Verifying             the content came inside the offer
//	any but the last four → Done | Refused | Cancelled | Failed
//
// Done straight from Asking is a transfer that was delivered in an earlier life.
type ReceiverState uint8

// The states. The last four are ends.
const (
	ReceiverAsking    ReceiverState = iota // the application is, or is about to be, asked
	ReceiverPreparing                      // accepted: waits for its turn and its place
	ReceiverReceiving                      // a down-lane runs, or will again
	ReceiverParked                         // the server has forgotten it: waits for Offer or Query
	ReceiverVerifying                      // whole: verified, flushed and kept
	ReceiverDone
	ReceiverRefused
	ReceiverCancelled
	ReceiverFailed
)

// String returns the state's name in lower case.
func (s ReceiverState) String() string {
	return [...]string{"asking", "preparing", "receiving", "parked", "verifying",
		"done", "refused", "cancelled", "failed"}[s]
}

// Ended reports whether nothing can follow on s.
func (s ReceiverState) Ended() bool { return s >= ReceiverDone }

// may reports whether the drawing has the move from s to next.
func (s ReceiverState) may(next ReceiverState) bool {
	switch {
	case s.Ended():
		return false
	case next.Ended():
		return true
	}
	switch next {
	case ReceiverPreparing:
		return s == ReceiverAsking
	case ReceiverReceiving:
		return s == ReceiverPreparing || s == ReceiverParked
	case ReceiverParked:
		return s == ReceiverReceiving
	case ReceiverVerifying:
		return s == ReceiverPreparing || s == ReceiverReceiving || s == ReceiverParked
	}
	return false
}

const (
	receivedEvery = 100 * time.Millisecond // between two Received at least
	silentTime    = 5 * time.Second        // without a byte that a Sync speaks of: bounded ranges
	digestBytes   = 64                     // no digest of ours is longer
)

// ReceiverRecord is what the receiver knows of a transfer from an earlier life.
type ReceiverRecord struct {
	State      wire.TransferState // UNKNOWN, PARTIAL, HAVE or CANCELLED
	Offset     int64
	Size       int64
	Code       wire.Code
	Receipt    wire.Receipt
	LengthOnly bool
}

// ReceiverConfig says what a receiver's machine begins with. It does not change.
type ReceiverConfig struct {
	Record ReceiverRecord
	// Idle is how long a transfer that is not whole is kept open without a byte,
	// and how long a verdict is repeated.
	Idle   time.Duration
	Jitter func(d time.Duration) time.Duration // as in SenderConfig
}

// A ReceiverVerdict is how a transfer ended here.
type ReceiverVerdict struct {
	Code       wire.Code
	Receipt    wire.Receipt
	LengthOnly bool
	Detail     string
}

// A Receiver is the receiver's machine for one buffer or file: events go in,
// actions come out. It has no clock, goroutine or I/O, and is not safe for use by
// several goroutines at a time. Whatever the server sends, at whatever moment, is
// taken or ignored; only a bug in this repository makes it panic.
type Receiver struct {
	cfg   ReceiverConfig
	state ReceiverState

	up       bool
	offered  bool // an Offer has come: size and the rest are known
	size     int64
	inlined  bool
	transfer string
	url      string
	ticket   string
	receipt  wire.Receipt // what a success will have

	offset    int64 // taken and counted
	confirmed int64 // the last Received
	told      time.Time
	syncAt    int64 // asked for and not taken; 0: nothing
	syncFrom  time.Time
	digest    *wire.Digest
	finish    bool

	lane       int
	running    bool
	laneAt     int64 // where it began
	laneFrom   time.Time
	laneTicket string // what it was opened with
	tries      int
	next       time.Time // of the next lane; zero: none
	piece      int64     // of bounded ranges; 0: not bounded
	lastByte   time.Time // or what else shows that it is alive

	stopping bool // a cancel waits for the outcome of Verifying
	verdict  ReceiverVerdict
	acked    bool
	endedAt  time.Time
	forgot   bool

	out []ReceiverAction
}

// NewReceiver returns the machine of a transfer that a frame or the inbox speaks
// of; the frame is the first event.
func NewReceiver(cfg ReceiverConfig, up bool, now time.Time) *Receiver {
	return &Receiver{cfg: cfg, up: up, lastByte: now}
}

// State returns where the transfer stands.
func (r *Receiver) State() ReceiverState { return r.state }

// Verdict returns how it ended. It is only valid at an end.
func (r *Receiver) Verdict() ReceiverVerdict { return r.verdict }

// Over reports whether the machine can be forgotten.
func (r *Receiver) Over() bool { return r.forgot }

// Offset returns how many bytes are here.
func (r *Receiver) Offset() int64 { return r.offset }

// Transfer, URL and Ticket return what the server last called it.
func (r *Receiver) Transfer() string { return r.transfer }

// URL returns the path of the down-lane.
func (r *Receiver) URL() string { return r.url }

// Ticket returns what the down-lane asks for.
func (r *Receiver) Ticket() string { return r.ticket }

// Digest returns what Finish, or an inline offer, told: nil if only the length
// can be checked.
func (r *Receiver) Digest() *wire.Digest { return r.digest }

// SyncAt returns the offset that is to be told of at once, 0 if there is none.
func (r *Receiver) SyncAt() int64 { return r.syncAt }

// Bounded reports whether lanes are cut into pieces.
func (r *Receiver) Bounded() bool { return r.piece > 0 }

// move is the only place where the state changes.
func (r *Receiver) move(next ReceiverState) {
	if r.state == next {
		return
	}
	if !r.state.may(next) {
		panic(fmt.Sprintf("transfer: receiver cannot move from %v to %v", r.state, next))
	}
	r.state = next
}

// A ReceiverEvent is something that happened to an incoming transfer.
type ReceiverEvent interface{ receiverEvent() }

// Events of the session. Their frames have been checked alone (package wire).
type (
	// ReceiverOffered is an Offer, the first or a repeated one.
	ReceiverOffered struct {
		Transfer, URL, Ticket string
		Size                  int64
		Inlined               bool
		Digest                *wire.Digest // of inline content
	}
	// ReceiverSync asks for a Received.
	ReceiverSync struct{ Offset int64 }
	// ReceiverFinish says that the content is whole.
	ReceiverFinish struct{ Digest *wire.Digest }
	// ReceiverCancel is the sender's or the server's.
	ReceiverCancel struct{ Transfer string }
	// ReceiverQuery asks how it stands.
	ReceiverQuery struct{ Transfer, URL, Ticket string }
	// ReceiverAcked is VerdictAck.
	ReceiverAcked struct{}
	// ReceiverLineUp says that a session is there, after its Welcome.
	ReceiverLineUp struct{}
	// ReceiverLineDown says that it has gone. Lanes may live on.
	ReceiverLineDown struct{}
)

// Events of this side.
type (
	// ReceiverAccept is the application's yes.
	ReceiverAccept struct{ Receipt wire.Receipt }
	// ReceiverRefuse is its no.
	ReceiverRefuse struct {
		Code   wire.Code
		Detail string
	}
	// ReceiverStop is its cancel, before or after it has accepted.
	ReceiverStop struct{}
	// ReceiverReady says that the place is there, with Offset bytes in it.
	ReceiverReady struct{ Offset int64 }
	// ReceiverBroke says that the bytes cannot be kept.
	ReceiverBroke struct {
		Code   wire.Code
		Detail string
	}
	// ReceiverTook says that the bytes below Offset are here.
	ReceiverTook struct{ Offset int64 }
	// ReceiverLaneEnded says that a down-lane has ended. Its end is LaneWhole,
	// LaneNothing, LaneGone, LaneOver or LaneBroken.
	ReceiverLaneEnded struct {
		Lane int
		End  LaneEnd
	}
	// ReceiverKept is the outcome of ReceiverVerify.
	ReceiverKept struct{ Verdict ReceiverVerdict }
	// ReceiverTick is the clock, at the latest when Wake says.
	ReceiverTick struct{}
)

func (ReceiverOffered) receiverEvent()   {}
func (ReceiverSync) receiverEvent()      {}
func (ReceiverFinish) receiverEvent()    {}
func (ReceiverCancel) receiverEvent()    {}
func (ReceiverQuery) receiverEvent()     {}
func (ReceiverAcked) receiverEvent()     {}
func (ReceiverLineUp) receiverEvent()    {}
func (ReceiverLineDown) receiverEvent()  {}
func (ReceiverAccept) receiverEvent()    {}
func (ReceiverRefuse) receiverEvent()    {}
func (ReceiverStop) receiverEvent()      {}
func (ReceiverReady) receiverEvent()     {}
func (ReceiverBroke) receiverEvent()     {}
func (ReceiverTook) receiverEvent()      {}
func (ReceiverLaneEnded) receiverEvent() {}
func (ReceiverKept) receiverEvent()      {}
func (ReceiverTick) receiverEvent()      {}

// ReceiverDo is what a ReceiverAction asks for.
type ReceiverDo uint8

// The actions. A frame that finds no session is dropped: what matters is asked
// for again when the line is back.
const (
	ReceiverSendAnswer   ReceiverDo = iota // Decision, Offset, Verdict
	ReceiverSendReceived                   // Offset; with Mark it has to survive this process
	ReceiverSendVerdict                    // Verdict
	ReceiverSendStanding                   // Standing, Offset, Verdict
	ReceiverAsk                            // the application
	ReceiverPrepare                        // find a place, then ReceiverReady or ReceiverBroke
	ReceiverOpenLane                       // number Lane, from Offset; Length bytes, 0: all
	ReceiverEndLane                        // what comes from it is ignored
	ReceiverVerify                         // verify, flush, rename, write down, notify: then ReceiverKept
	ReceiverDrop                           // remove what is here; with Record, write down that it is cancelled
	ReceiverLeave                          // close what is here, to go on with later
	ReceiverWithdrawn                      // tell the application that its answer is not waited for any more
	ReceiverNotifyCancel                   // tell it that the sender has cancelled what it accepted
	ReceiverForget                         // the machine is over
)

// A ReceiverAction is something to be done, in the order given.
type ReceiverAction struct {
	Do       ReceiverDo
	Transfer string // of frames
	Lane     int
	Offset   int64
	Length   int64
	Mark     bool
	Record   bool
	Decision wire.Decision
	Standing wire.TransferState
	Verdict  ReceiverVerdict
}
