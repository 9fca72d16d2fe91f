package server

import (
	"time"

	"github.com/google/uuid"

	relay "github.com/dian-im/dian/internal/transfer"
	"github.com/dian-im/dian/internal/wire"
)

// frame takes in a session's frame that is about a transfer. An error breaks the
// protocol and ends the session; what merely comes too late, or names a transfer
// that is not the session's, is ignored (cases 16, 39).
func (ts *transfers) frame(sess *session, f *wire.Frame) error {
	if o := f.GetOffer(); o != nil {
		ts.offerFrame(sess, o)
		return nil
	}
	if err := wire.CheckFromClient(f); err != nil {
		return err
	}
	switch b := f.GetBody().(type) {
	case *wire.Frame_Finish:
		if t := ts.ofSender(sess, b.Finish.Transfer); t != nil {
			return t.step(relay.RelayFinish{Digest: b.Finish.Digest})
		}
	case *wire.Frame_VerdictAck:
		if t := ts.ofSender(sess, b.VerdictAck.Transfer); t != nil {
			return t.step(relay.RelayAcked{})
		}
	case *wire.Frame_Cancel:
		ts.cancelFrame(sess, b.Cancel)
	case *wire.Frame_Answer:
		if t := ts.ofReceiver(sess, b.Answer.Transfer); t != nil {
			a := b.Answer
			return t.step(relay.RelayAnswered{Decision: a.Decision, Offset: a.Offset, Verdict: relay.RelayVerdict{
				Code: wire.Code(a.Code), Receipt: a.Receipt, Detail: a.Detail, Header: a.Header,
			}})
		}
	case *wire.Frame_Received:
		if t := ts.ofReceiver(sess, b.Received.Transfer); t != nil {
			return t.step(relay.RelayReceived{Offset: b.Received.Offset})
		}
	case *wire.Frame_Verdict:
		v := b.Verdict
		if t := ts.ofReceiver(sess, v.Transfer); t != nil {
			return t.step(relay.RelayJudged{Verdict: relay.RelayVerdict{
				Code: wire.Code(v.Code), Receipt: v.Receipt, LengthOnly: v.LengthOnly, Detail: v.Detail, Header: v.Header,
			}})
		}
		ts.ackUnknown(sess, v.Transfer)
	case *wire.Frame_Standing:
		if t := ts.ofReceiver(sess, b.Standing.Transfer); t != nil {
			s := b.Standing
			return t.step(relay.RelayStanding{State: s.State, Offset: s.Offset, Size: s.Size, Verdict: relay.RelayVerdict{
				Code: wire.Code(s.Code), Receipt: s.Receipt, Detail: s.Detail,
			}})
		}
	}
	return nil
}

// ofSender returns the transfer of an id if it is the session's own to send.
func (ts *transfers) ofSender(sess *session, id string) *transfer {
	t := ts.find(id)
	if t == nil || t.key.app != sess.app || t.key.source != sess.user || t.what.HTTP {
		return nil
	}
	return t
}

// ofReceiver returns the transfer of an id if the session is the place that was asked.
func (ts *transfers) ofReceiver(sess *session, id string) *transfer {
	t := ts.find(id)
	if t == nil || t.key.app != sess.app || t.key.target != sess.user || t.what.Instance != sess.instance {
		return nil
	}
	return t
}

// ackUnknown acknowledges a verdict for a transfer that this server has forgotten,
// so that it is not repeated for ever. The receiver still knows it: a sender that
// offers it again is told.
func (ts *transfers) ackUnknown(sess *session, id string) {
	what, err := decodeTransferID(id)
	if err != nil || what.App != sess.app || what.Target != sess.user || what.Instance != sess.instance {
		return
	}
	_ = sess.send(&wire.Frame{Body: &wire.Frame_VerdictAck{VerdictAck: &wire.VerdictAck{Transfer: id}}})
}

// offerFrame takes in a sender's offer and answers with a verdict if it is refused.
func (ts *transfers) offerFrame(sess *session, o *wire.Offer) {
	p := proposal{offer: o, claims: sess.token(), instance: sess.instance, session: sess, party: &sess.party}
	_, err := ts.propose(sess.ctx, p)
	if err == nil {
		return
	}
	ts.srv.audit.refusedOffer(p, refused(err))
	ts.refuse(sess, o.SendId, refused(err))
}

// refuse sends a verdict of the server's own.
func (ts *transfers) refuse(sess *session, sendID string, e *wire.Error) {
	if len(sendID) > 64 {
		sendID = sendID[:0] // it was no id, and need not come back whole
	}
	_ = sess.send(&wire.Frame{Body: &wire.Frame_Verdict{Verdict: &wire.Verdict{
		SendId: sendID, Code: uint32(e.Code), Detail: e.Detail, Origin: wire.Origin_ORIGIN_SERVER,
	}}})
}

// cancelFrame takes in a sender's cancel, which names one transfer by its id, or
// all that have its sendID.
func (ts *transfers) cancelFrame(sess *session, c *wire.Cancel) {
	var all []*transfer
	if c.Transfer != "" {
		if t := ts.ofSender(sess, c.Transfer); t != nil {
			all = append(all, t)
		} else if t, err := ts.rebuild(sess.ctx, c.Transfer, sess.token(), &sess.party, true); err == nil && !t.what.HTTP {
			t.mu.Lock()
			t.senderLocked(proposal{claims: sess.token(), instance: sess.instance, session: sess})
			t.mu.Unlock()
			all = append(all, t)
		}
	} else {
		ts.mu.Lock()
		all = members(ts.source[place{sess.app, sess.user}], func(t *transfer) bool {
			return t.key.sendID == c.SendId && !t.what.HTTP
		})
		ts.mu.Unlock()
	}
	if len(all) == 0 {
		ts.refuse(sess, c.SendId, &wire.Error{Code: wire.BadSendID, Detail: "nothing to cancel"})
	}
	for _, t := range all {
		t.mu.Lock()
		if t.sender == nil && sess.live() {
			t.sender = sess
		}
		t.stepLocked(relay.RelayCancel{})
		t.mu.Unlock()
	}
}

// sessionUp asks a listening session's place about its transfers. What another
// place of the user has begun ends: nobody goes on with that here.
func (ts *transfers) sessionUp(sess *session) {
	if sess.role != wire.Role_ROLE_LISTEN {
		return
	}
	ts.mu.Lock()
	all := members(ts.target[place{sess.app, sess.user}], nil)
	ts.mu.Unlock()
	for _, t := range all {
		t.mu.Lock()
		if t.what.Instance == sess.instance {
			t.attachLocked(sess)
		} else {
			t.ticket = "" // now, and not only when the kicked session has gone
			t.stepLocked(relay.RelayAborted{Code: wire.BadSendID, Detail: elsewhere})
		}
		t.mu.Unlock()
	}
}

// moved ends here what a user was receiving who is at another node now. It goes on
// there, if that is the same instance; what another instance has begun ends.
func (ts *transfers) moved(p place, instance string) {
	ts.mu.Lock()
	all := members(ts.target[p], nil)
	ts.mu.Unlock()
	for _, t := range all {
		t.mu.Lock()
		if t.what.Instance == instance {
			if !t.m.State().Ended() {
				t.trail.moved = true
			}
			t.ticket = ""
			t.stepLocked(relay.RelayMoved{})
		} else {
			t.ticket = ""
			t.stepLocked(relay.RelayAborted{Code: wire.BadSendID, Detail: elsewhere})
		}
		t.mu.Unlock()
	}
}

// known reports whether a transfer is in the table and has not ended.
func (ts *transfers) known(key transferKey) bool {
	ts.mu.Lock()
	t := ts.table[key]
	ts.mu.Unlock()
	return t != nil
}

// sessionDown takes a session out of its transfers. Its lanes go on without it,
// unless it was kicked by another place or its token is over: then its tickets
// count no more.
func (ts *transfers) sessionDown(sess *session, kicked bool) {
	at := place{sess.app, sess.user}
	ts.mu.Lock()
	sent := members(ts.source[at], nil)
	received := members(ts.target[at], nil)
	ts.mu.Unlock()
	expired := !time.Now().Before(sess.token().Expires)
	if kicked {
		// The same place that came back before its old line was missed keeps its lanes.
		now := ts.srv.listener(sess.app, sess.user)
		kicked = now == nil || now.instance != sess.instance
	}
	for _, t := range sent {
		t.mu.Lock()
		t.senderDownLocked(sess, expired || kicked)
		t.mu.Unlock()
	}
	for _, t := range received {
		t.mu.Lock()
		if t.receiver == sess {
			t.receiver = nil
			t.forgetLateLocked()
			t.stepLocked(relay.RelayReceiverDown{})
			if kicked || expired {
				t.ticket = ""
				t.endDownLocked(laneExpired)
			}
			t.distrustLocked()
		}
		t.mu.Unlock()
	}
}

// senderDownLocked takes a session out that has offered. An offer of a session that is
// over may be read after the one of the session that came for it (its line was read late,
// or by a node that stood still); then the transfer is the latter's again.
func (t *transfer) senderDownLocked(sess *session, over bool) {
	if t.earlier == sess {
		t.earlier = nil
	}
	if t.sender != sess {
		return
	}
	back := t.earlier
	t.sender, t.earlier = nil, nil
	if back != nil && back.live() {
		token := back.token()
		t.senderLocked(proposal{claims: token, instance: back.instance, session: back})
		t.upUntil = token.Expires
		t.stepLocked(relay.RelayOfferArrived{Resent: true})
	} else if over {
		t.endUpLocked(laneExpired)
	}
	t.distrustLocked()
}

// tokenUpdated lets the lanes of a session live as long as its new token.
func (ts *transfers) tokenUpdated(sess *session) {
	at, token := place{sess.app, sess.user}, sess.token()
	ts.mu.Lock()
	sent := members(ts.source[at], nil)
	received := members(ts.target[at], nil)
	ts.mu.Unlock()
	for _, t := range sent {
		t.mu.Lock()
		if t.sender == sess {
			t.upUntil = token.Expires
		}
		t.mu.Unlock()
	}
	for _, t := range received {
		t.mu.Lock()
		if t.receiver == sess {
			t.dnToken = token
		}
		t.mu.Unlock()
	}
}

// sendBytes returns the bytes of a sendID that was checked.
func sendBytes(sendID string) [16]byte {
	id, err := uuid.Parse(sendID)
	if err != nil {
		panic("server: a sendID that was not checked")
	}
	return id
}
