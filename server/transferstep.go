package server

import (
	"crypto/subtle"
	"time"

	relay "github.com/dian-im/dian/internal/transfer"
	"github.com/dian-im/dian/internal/wire"
)

// step feeds the machine.
func (t *transfer) step(event relay.RelayEvent) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.stepLocked(event)
}

// stepLocked tells the machine what was copied, then the event, and does what it
// says. An error is a frame that breaks the protocol.
func (t *transfer) stepLocked(event relay.RelayEvent) error {
	now := time.Now()
	if n := t.moved.Swap(0); n > 0 {
		t.ts.srv.metrics.laneBytes(n)
		t.trail.copied += n
		t.trail.rate.add(now, n)
		t.runLocked(now, relay.RelayCopied{N: n})
	}
	return t.runLocked(now, event)
}

func (t *transfer) runLocked(now time.Time, event relay.RelayEvent) error {
	before := t.m.State()
	t.trail.note(event)
	actions, err := t.m.Step(now, event)
	for _, a := range actions {
		t.doLocked(a)
	}
	after := t.m.State()
	if before != after {
		t.ts.srv.metrics.transferState(before.String(), after.String())
	}
	if after != relay.RelayOffered {
		t.offer = nil
		t.charged.answered()
	}
	if after.Ended() && !t.gone {
		t.gone = true
		t.endedLocked(now)
	}
	if _, tick := event.(relay.RelayTick); !tick || len(actions) > 0 {
		t.wakeLocked()
	}
	return err
}

// tickLocked is the clock's.
func (t *transfer) tickLocked(now time.Time) {
	if t.m.State().Ended() {
		return
	}
	t.stepLocked(relay.RelayTick{})
	t.lateLocked()
	// A session's lanes live as long as its token (docs/protocol.md §4).
	if t.down != nil && now.After(t.dnToken.Expires) {
		t.endDownLocked(laneExpired)
	}
	if t.up != nil && !t.what.HTTP && now.After(t.upUntil) {
		t.endUpLocked(laneExpired)
	}
}

// doLocked does one thing that the machine asks for.
func (t *transfer) doLocked(a relay.RelayAction) {
	if t.deferLocked(a) {
		return
	}
	switch a.Do {
	case relay.RelaySendOffer:
		if t.offer != nil {
			t.send(t.receiver, &wire.Frame{Body: &wire.Frame_Offer{Offer: t.offer}})
			if t.offer.Inlined {
				t.offer = nil // its content is not kept: the sender offers it again
			}
		}
	case relay.RelaySendQuery:
		t.send(t.receiver, &wire.Frame{Body: &wire.Frame_Query{Query: &wire.Query{
			Transfer: t.id, SendId: t.key.sendID, Source: t.origin, Url: lanePathPrefix + t.id, Ticket: t.ticket,
		}}})
	case relay.RelaySendSync:
		t.send(t.receiver, &wire.Frame{Body: &wire.Frame_Sync{Sync: &wire.Sync{Transfer: t.id, Offset: a.Offset}}})
	case relay.RelaySendFinish:
		t.send(t.receiver, &wire.Frame{Body: &wire.Frame_Finish{Finish: &wire.Finish{Transfer: t.id, Digest: a.Digest}}})
	case relay.RelaySendCancel:
		t.send(t.receiver, &wire.Frame{Body: &wire.Frame_Cancel{Cancel: &wire.Cancel{Transfer: t.id, SendId: t.key.sendID, Source: t.origin}}})
	case relay.RelaySendVerdictAck:
		t.send(t.receiver, &wire.Frame{Body: &wire.Frame_VerdictAck{VerdictAck: &wire.VerdictAck{Transfer: t.id}}})
	case relay.RelaySendAccepted:
		t.send(t.sender, &wire.Frame{Body: &wire.Frame_Accepted{Accepted: &wire.Accepted{
			SendId: t.key.sendID, Transfer: t.id, Url: lanePathPrefix + t.id, Offset: a.Offset,
			Receipt: t.m.Receipt(), Peer: t.peer, Header: t.m.Header(),
		}}})
	case relay.RelaySendReceived:
		t.send(t.sender, &wire.Frame{Body: &wire.Frame_Received{Received: &wire.Received{Transfer: t.id, Offset: a.Offset}}})
	case relay.RelaySendVerdict:
		v := t.m.Verdict()
		t.send(t.sender, &wire.Frame{Body: &wire.Frame_Verdict{Verdict: &wire.Verdict{
			SendId: t.key.sendID, Transfer: t.id, Code: uint32(v.Code), Receipt: v.Receipt, Detail: v.Detail,
			Origin: v.Origin, Header: v.Header, LengthOnly: v.LengthOnly,
		}}})
	case relay.RelaySendUnknown:
		t.send(t.sender, &wire.Frame{Body: &wire.Frame_Standing{Standing: &wire.Standing{
			Transfer: t.id, SendId: t.key.sendID, State: wire.TransferState_TRANSFER_STATE_UNKNOWN, Size: t.what.Size,
		}}})
	case relay.RelaySendAgain:
		t.send(t.sender, &wire.Frame{Body: &wire.Frame_Verdict{Verdict: &wire.Verdict{
			SendId: t.key.sendID, Code: uint32(wire.ServiceFault), Origin: wire.Origin_ORIGIN_SERVER,
		}}})
	case relay.RelayEndUp:
		t.endUpLocked(laneOver)
	case relay.RelayEndDown:
		t.endDownLocked(laneOver)
	case relay.RelayForget:
		ts := t.ts
		ts.mu.Lock()
		ts.removeLocked(t)
		ts.mu.Unlock()
	}
}

// send queues a frame for a session, if it is there. A session that cannot take
// it is ending, and will be told how things stand when it is back.
func (t *transfer) send(sess *session, f *wire.Frame) {
	if sess != nil {
		_ = sess.send(f)
	}
}

// endedLocked takes an ended transfer out of the open ones and remembers its end.
func (t *transfer) endedLocked(now time.Time) {
	ts, v := t.ts, t.m.Verdict()
	ts.srv.metrics.transferState(t.m.State().String(), "")
	receipt := ""
	if v.Code == wire.OK {
		receipt = receiptName(v.Receipt)
	}
	if !t.trail.moved {
		ts.srv.metrics.transferDone(t.kind, codeLabel(v.Code), receipt)
	}
	t.auditEndLocked()
	sender := place{t.key.app, t.key.source}
	t.charged.ended()
	ts.mu.Lock()
	defer ts.mu.Unlock()
	delete(ts.open, t)
	if t.m.Forgotten() {
		return
	}
	e := ts.ended[sender]
	if e == nil {
		e = &endedList{}
		ts.ended[sender] = e
	}
	e.list = append(e.list, endedTransfer{t, now})
	ts.ends++
	if len(e.list) > 2*maxEndedPerUser {
		ts.forgetEndedLocked(now, ts.srv.cfg.ResumeWindow)
	}
	ts.boundEndedLocked(now)
}

func receiptName(r wire.Receipt) string {
	switch r {
	case wire.Receipt_RECEIPT_STORED:
		return "stored"
	case wire.Receipt_RECEIPT_HANDED:
		return "handed"
	}
	return ""
}

// wakeLocked wakes everybody who waits for a change.
func (t *transfer) wakeLocked() {
	if t.changed != nil {
		close(t.changed)
		t.changed = nil
	}
}

// changeLocked returns a channel that is closed at the next change.
func (t *transfer) changeLocked() <-chan struct{} {
	if t.changed == nil {
		t.changed = make(chan struct{})
	}
	return t.changed
}

// ticketFits compares in constant time (case 33).
func (t *transfer) ticketFitsLocked(given string) bool {
	return t.ticket != "" && subtle.ConstantTimeCompare([]byte(t.ticket), []byte(given)) == 1
}
