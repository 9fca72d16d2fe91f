package server

import (
	relay "github.com/dian-im/dian/internal/transfer"
	"github.com/dian-im/dian/internal/wire"
)

// late is what a transfer has to say to a session whose queue is as full as frames
// that others cause may make it. It is said at a later tick, once, however often it
// was asked for: a sender that repeats itself must not end a slow receiver's
// session, nor the other way round.
type late struct {
	offer, query, finish, cancel bool // to the receiver
	digest                       *wire.Digest
	sync                         int64

	received bool // to the sender
	told     bool // the sender's session has had a verdict
}

// roomy reports whether the session's queue has room for what others cause.
func (s *session) roomy() bool {
	if s.far != nil {
		return true // its own node looks
	}
	return s.party.user.used[countQueued].Load() < commandShare(s.party.app.limits.Load().user.most[cellQueued])
}

// deferLocked reports whether an action waits, or has become needless.
func (t *transfer) deferLocked(a relay.RelayAction) bool {
	l := &t.late
	if a.Do == relay.RelaySendReceived || a.Do == relay.RelaySendVerdict {
		if t.sender == nil || t.sender.roomy() {
			l.told = l.told || a.Do == relay.RelaySendVerdict
			return false
		}
		if a.Do == relay.RelaySendVerdict {
			again := l.told
			l.told = true
			return again // the receiver goes on saying it until it is acked
		}
		l.received = true
		return true
	}
	if t.receiver == nil || t.receiver.roomy() || t.m.State().Ended() && a.Do != relay.RelaySendVerdictAck {
		return false
	}
	switch a.Do {
	case relay.RelaySendOffer:
		if t.offer == nil || t.offer.Inlined {
			return false // propose has made sure that there is room
		}
		l.offer = true
	case relay.RelaySendQuery:
		l.query = true
	case relay.RelaySendFinish:
		l.finish, l.digest = true, a.Digest
	case relay.RelaySendCancel:
		l.cancel = true
	case relay.RelaySendSync:
		l.sync = max(l.sync, a.Offset)
	case relay.RelaySendVerdictAck: // asked for again with the next verdict
	default:
		return false
	}
	return true
}

// lateLocked says what has waited, if there is room now.
func (t *transfer) lateLocked() {
	l := &t.late
	if l.received && t.sender != nil && t.sender.roomy() {
		l.received = false
		t.doLocked(relay.RelayAction{Do: relay.RelaySendReceived, Offset: t.m.Confirmed()})
	}
	if t.receiver == nil || !t.receiver.roomy() {
		return
	}
	was := *l
	t.forgetLateLocked()
	for _, w := range []struct {
		waits bool
		a     relay.RelayAction
	}{
		{was.offer, relay.RelayAction{Do: relay.RelaySendOffer}},
		{was.query, relay.RelayAction{Do: relay.RelaySendQuery}},
		{was.sync > 0, relay.RelayAction{Do: relay.RelaySendSync, Offset: was.sync}},
		{was.finish, relay.RelayAction{Do: relay.RelaySendFinish, Digest: was.digest}},
		{was.cancel, relay.RelayAction{Do: relay.RelaySendCancel}},
	} {
		if w.waits {
			t.doLocked(w.a)
		}
	}
}

// forgetLateLocked forgets what was for a receiver that has gone: the next one is
// asked anew.
func (t *transfer) forgetLateLocked() {
	t.late = late{received: t.late.received, told: t.late.told}
}
