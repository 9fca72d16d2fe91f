package transfer

import (
	"time"

	"github.com/dian-im/dian/internal/wire"
)

// Step takes an event in and returns what to do about it; the slice is valid
// until the next call. An error is a frame that breaks the protocol: then nothing
// has changed.
func (r *Relay) Step(now time.Time, event RelayEvent) ([]RelayAction, error) {
	r.out = r.out[:0]
	var err error
	switch e := event.(type) {
	case RelayOfferArrived:
		r.offered(e.Resent)
	case RelayFinish:
		r.finished(e)
	case RelayCancel:
		r.cancel(now)
	case RelayAcked:
		r.ack()
	case RelayAborted:
		if !r.state.Ended() {
			r.withdraw()
			r.end(RelayFailed, RelayVerdict{Code: e.Code, Detail: e.Detail, Origin: wire.Origin_ORIGIN_SERVER})
		}
	case RelayAnswered:
		err = r.answered(now, e)
	case RelayReceived:
		err = r.received(now, e.Offset)
	case RelayJudged:
		r.judged(e.Verdict)
	case RelayStanding:
		r.standing(now, e)
	case RelayReceiverUp:
		r.receiverUp(now)
	case RelayReceiverDown:
		r.receiver, r.queried, r.polled, r.back, r.elsewhere, r.syncAt = false, false, false, false, false, 0
	case RelayMoved:
		r.moved()
	case RelayUpJoined:
		r.laneUp(now)
	case RelayUpEnded:
		r.up = false
		r.pause()
	case RelayDownJoined:
		err = r.downJoined(now, e.At)
	case RelayDownEnded:
		r.down, r.waits = false, now
		r.pause()
	case RelayCopied:
		r.copied(now, e.N)
	case RelaySync:
		r.sync(now)
	case RelayTick:
		r.tick(now)
	}
	return r.out, err
}

func (r *Relay) do(what RelayDo) { r.out = append(r.out, RelayAction{Do: what}) }

func (r *Relay) doOffset(what RelayDo, offset int64) {
	r.out = append(r.out, RelayAction{Do: what, Offset: offset})
}

// end brings the transfer to its end, once.
func (r *Relay) end(state RelayState, v RelayVerdict) {
	r.move(state)
	r.verdict = v
	r.asking, r.cancelling = false, false
	r.header = nil
	r.do(RelaySendVerdict)
	r.do(RelayEndUp)
	r.do(RelayEndDown)
}

// forget ends a transfer that the receiver does not know, or that nothing moved
// for too long. The sender may offer it again.
func (r *Relay) forget(v RelayVerdict) {
	r.move(RelayFailed)
	r.verdict = v
	r.forgotten = true
	r.asking, r.cancelling = false, false
	r.do(RelayEndUp)
	r.do(RelayEndDown)
	r.do(RelayForget)
}

// moved forgets a transfer that goes on elsewhere. A sender whose cancel was passed on
// hears of it in another way: one that cancels takes no notice of "unknown".
func (r *Relay) moved() {
	if r.state.Ended() {
		return
	}
	if r.cancelling {
		r.do(RelaySendAgain)
	} else {
		r.do(RelaySendUnknown)
	}
	r.forget(RelayVerdict{Code: wire.ConnectionLost, Detail: "the receiver is at another node now", Origin: wire.Origin_ORIGIN_SERVER})
}

// pass gives the offer to the receiver. An inline one is kept by nobody: when the
// receiver comes back it is asked instead, and the sender offers it again.
func (r *Relay) pass() {
	if r.receiver {
		r.passed, r.queried = true, false
		r.do(RelaySendOffer)
	}
}

// query asks the receiver how the transfer stands.
func (r *Relay) query() {
	r.queried, r.polled = true, false
	r.do(RelaySendQuery)
}

// verifies reports whether the receiver has what it takes to verify the content. With
// all bytes and no Finish it is the sender who is waited for.
func (r *Relay) verifies() bool {
	return r.state == RelayVerifying && (r.finishSent || r.cfg.Inlined)
}

// poll asks a receiver that verifies whether it is still there. Reading 100 GB
// again takes longer than any window; as long as it answers it is waited for.
func (r *Relay) poll(now time.Time) {
	half := r.cfg.Window / 2
	if r.verifies() && r.receiver && !r.asking && now.Sub(r.progress) >= half && now.Sub(r.polls) >= half {
		r.query()
		r.polled, r.polls = true, now
	}
}

// askForLane asks a receiver that is there, and has no lane although the sender has one.
func (r *Relay) askForLane(now time.Time) {
	if r.up && !r.down && r.receiver && !r.asking && !r.back && now.Sub(r.waits) >= relayLaneAsk &&
		(r.state == RelayAccepted || r.state == RelayInterrupted) {
		r.waits = now
		r.query()
	}
}

// atWork notes that a verifying receiver lives, and lets the sender know.
func (r *Relay) atWork(now time.Time) {
	r.progress = now
	r.doOffset(RelaySendReceived, r.confirmed)
}

// withdraw tells the receiver of a cancel, now and when it comes back.
func (r *Relay) withdraw() {
	r.withdrawn = true
	if r.receiver {
		r.do(RelaySendCancel)
	}
}

// whole reports whether the receiver was sent, or may have, all there is: then its
// verdict decides. Of an offer that was made before, perhaps to a server that has
// forgotten it, nobody else knows.
func (r *Relay) whole() bool {
	if r.state == RelayOffered && r.before {
		return true
	}
	return r.asking || r.finishSent || r.cfg.Inlined || r.state != RelayOffered && r.relayed == r.cfg.Size
}

func (r *Relay) offered(resent bool) {
	if !r.begun {
		r.begun, r.before = true, resent
	}
	switch {
	case r.state.Ended():
		r.acked = false
		r.do(RelaySendVerdict)
	case r.state == RelayOffered:
		r.pass() // again, maybe: the receiver knows it by its id
	case r.asking, r.back, !r.receiver: // what it has is not known: it is asked
		r.reoffered = true
	default:
		r.doOffset(RelaySendAccepted, r.confirmed)
	}
}

func (r *Relay) finished(e RelayFinish) {
	switch {
	case r.state.Ended():
		r.do(RelaySendVerdict)
	case r.cfg.HTTP || r.cfg.Inlined || r.state == RelayOffered:
		// Not theirs to say, or too early to mean anything.
	default:
		r.finish, r.digest = true, e.Digest
		r.sendFinish()
	}
}

// sendFinish passes Finish on. The receiver waits for both it and the bytes, so a
// sender's may run ahead of them; ours says that they were sent.
func (r *Relay) sendFinish() {
	if !r.finish || !r.receiver || r.asking || r.cfg.Inlined || r.cfg.HTTP && r.state != RelayVerifying {
		return
	}
	r.finishSent = true
	r.out = append(r.out, RelayAction{Do: RelaySendFinish, Digest: r.digest})
}

func (r *Relay) cancel(now time.Time) {
	switch {
	case r.state.Ended():
		r.do(RelaySendVerdict)
	case r.whole():
		r.cancelling = true
		if r.receiver && !r.asking {
			r.do(RelaySendCancel)
		}
	default:
		r.withdraw()
		r.end(RelayCancelled, RelayVerdict{Code: wire.Cancelled, Origin: wire.Origin_ORIGIN_SERVER})
	}
}

func (r *Relay) ack() {
	if !r.state.Ended() {
		return
	}
	r.acked = true
	if r.receiver && r.verdict.Origin == wire.Origin_ORIGIN_PEER {
		r.do(RelaySendVerdictAck)
	}
}
