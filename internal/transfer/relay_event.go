package transfer

import "github.com/dian-im/dian/internal/wire"

// A RelayEvent is something that happened to a transfer. Frames that a peer sent
// have been checked alone (package wire), but not whether their time is right.
type RelayEvent interface{ relayEvent() }

// Events of the sender.
type (
	// RelayOfferArrived is the sender's offer, the first or a repeated one.
	RelayOfferArrived struct{ Resent bool } // it may have been offered before
	// RelayFinish is the sender's Finish.
	RelayFinish struct{ Digest *wire.Digest }
	// RelayCancel asks for the transfer's end.
	RelayCancel struct{}
	// RelayAcked is the sender's VerdictAck.
	RelayAcked struct{}
	// RelayAborted ends the transfer for a reason of the server, such as an
	// instance that has gone for good.
	RelayAborted struct {
		Code   wire.Code
		Detail string
	}
)

// Events of the receiver.
type (
	// RelayAnswered is its Answer.
	RelayAnswered struct {
		Decision wire.Decision
		Offset   int64
		Verdict  RelayVerdict // code, receipt, detail and header of the answer
	}
	// RelayReceived is the offset that it confirms.
	RelayReceived struct{ Offset int64 }
	// RelayJudged is its Verdict.
	RelayJudged struct{ Verdict RelayVerdict }
	// RelayStanding is its answer to a Query.
	RelayStanding struct {
		State        wire.TransferState
		Offset, Size int64
		Verdict      RelayVerdict // with HAVE
	}
	// RelayReceiverUp says that its session is there.
	RelayReceiverUp struct{}
	// RelayReceiverDown says that its session has gone.
	RelayReceiverDown struct{}
	// RelayMoved says that its session is at another node of the cluster now. The
	// transfer goes on there, as one that was rebuilt: here it is forgotten.
	RelayMoved struct{}
)

// Events of lanes and of the clock.
type (
	// RelayUpJoined says that there is a new up-lane.
	RelayUpJoined struct{}
	// RelayUpEnded says that there is none any more.
	RelayUpEnded struct{}
	// RelayDownJoined says that there is a new down-lane, which begins at At.
	RelayDownJoined struct{ At int64 }
	// RelayDownEnded says that there is none any more.
	RelayDownEnded struct{}
	// RelayCopied says that N more bytes were written to the down-lane.
	RelayCopied struct{ N int64 }
	// RelaySync asks for a confirmation of what was relayed.
	RelaySync struct{}
	// RelayTick is the clock; once a second is often enough.
	RelayTick struct{}
)

func (RelayOfferArrived) relayEvent() {}
func (RelayFinish) relayEvent()       {}
func (RelayCancel) relayEvent()       {}
func (RelayAcked) relayEvent()        {}
func (RelayAborted) relayEvent()      {}
func (RelayAnswered) relayEvent()     {}
func (RelayReceived) relayEvent()     {}
func (RelayJudged) relayEvent()       {}
func (RelayStanding) relayEvent()     {}
func (RelayReceiverUp) relayEvent()   {}
func (RelayReceiverDown) relayEvent() {}
func (RelayMoved) relayEvent()        {}
func (RelayUpJoined) relayEvent()     {}
func (RelayUpEnded) relayEvent()      {}
func (RelayDownJoined) relayEvent()   {}
func (RelayDownEnded) relayEvent()    {}
func (RelayCopied) relayEvent()       {}
func (RelaySync) relayEvent()         {}
func (RelayTick) relayEvent()         {}

// RelayDo is what a RelayAction asks for.
type RelayDo uint8

// The actions. A frame for a side whose session is not there is dropped: what
// matters is said again when it comes back.
const (
	RelaySendOffer      RelayDo = iota // to the receiver
	RelaySendQuery                     // to the receiver
	RelaySendSync                      // to the receiver: Offset
	RelaySendFinish                    // to the receiver: Digest
	RelaySendCancel                    // to the receiver
	RelaySendVerdictAck                // to the receiver
	RelaySendAccepted                  // to the sender: Offset
	RelaySendReceived                  // to the sender: Offset
	RelaySendVerdict                   // to the sender: Relay.Verdict
	RelaySendUnknown                   // to the sender: Standing(UNKNOWN)
	RelaySendAgain                     // to the sender: its cancel was not decided, it has to ask again
	RelayEndUp                         // end the up-lane
	RelayEndDown                       // end the down-lane
	RelayForget                        // forget the transfer now
)

// A RelayAction is something that the server has to do, in the order given.
type RelayAction struct {
	Do     RelayDo
	Offset int64
	Digest *wire.Digest
}
