package server

import (
	"net/netip"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	nodes "github.com/dian-im/dian/internal/cluster"
	"github.com/dian-im/dian/internal/wire"
)

// A transfer lives at its receiver's node. What a session here says of one that lives
// elsewhere is said to that node, which has a stand-in of the session (see far), and
// what the stand-in is told comes back.

// A turn keeps a session's frames about transfers in order while the receiver of one is
// looked for.
type turn struct {
	mu     sync.Mutex
	taken  bool          // guarded by mu
	behind []*wire.Frame // guarded by mu
}

// maxBehind bounds the frames that wait for their turn.
const maxBehind = 1024

// wait reports whether the frame has to wait, and keeps it then.
func (t *turn) wait(f *wire.Frame) (waits, full bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.taken {
		return false, false
	}
	t.behind = append(t.behind, f)
	return true, len(t.behind) > maxBehind
}

func (t *turn) take(f *wire.Frame) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.taken, t.behind = true, append([]*wire.Frame{f}, t.behind...)
}

// next returns the next frame whose turn it is, or nil and ends.
func (t *turn) next() *wire.Frame {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.behind) == 0 {
		t.taken = false
		return nil
	}
	f := t.behind[0]
	t.behind = t.behind[1:]
	return f
}

// transfer takes in a frame about a transfer of this session, which lives here or at
// another node. Its reader calls it.
func (s *session) transfer(f *wire.Frame) error {
	c := s.srv.cluster
	if c == nil {
		return s.transferHere(f)
	}
	if waits, full := s.turn.wait(f); waits {
		if full {
			s.close(closeTooSlow)
		}
		return nil
	}
	took, looks := c.route(s, f)
	switch {
	case took:
		return nil
	case !looks:
		return s.transferHere(f)
	}
	s.turn.take(f)
	if !c.seek(place{s.app, f.GetOffer().GetTarget()}, func() { s.takeTurns() }) {
		s.takeTurns()
	}
	return nil
}

func (s *session) transferHere(f *wire.Frame) error {
	if err := s.srv.transfers.frame(s, f); err != nil {
		return violation(err)
	}
	return nil
}

// takeTurns takes in the frames that have waited. The receiver of the first is known
// by now, or known not to be there.
func (s *session) takeTurns() {
	for f := s.turn.next(); f != nil && s.live(); f = s.turn.next() {
		if took, _ := s.srv.cluster.route(s, f); took {
			continue
		}
		if s.transferHere(f) != nil {
			s.close(websocket.CloseProtocolError)
			return
		}
	}
}

// route says a frame to the node where its transfer lives, and reports whether it did:
// otherwise the transfer lives here. looks means that nobody knows where the receiver
// of an offer is.
func (c *cluster) route(s *session, f *wire.Frame) (took, looks bool) {
	switch b := f.Body.(type) {
	case *wire.Frame_Offer:
		return c.routeOffer(s, f, b.Offer)
	case *wire.Frame_Finish:
		return c.routeByID(s, f, b.Finish.Transfer), false
	case *wire.Frame_VerdictAck:
		took = c.routeByID(s, f, b.VerdictAck.Transfer)
		if what, err := decodeTransferID(b.VerdictAck.Transfer); err == nil {
			s.away.forget(s, awayKey{what.Target, what.sendID()})
		}
		return took, false
	case *wire.Frame_Cancel:
		return c.routeCancel(s, f, b.Cancel), false
	}
	return false, false
}

func (c *cluster) routeOffer(s *session, f *wire.Frame, o *wire.Offer) (took, looks bool) {
	if c.srv.listener(s.app, o.Target) != nil || wire.CheckOffer(o) != nil {
		return false, false
	}
	// Here, and not where it goes: the token is this node's to judge. And before anybody
	// is looked for: how long that takes would tell where he is (case 38).
	refusal := c.srv.allow(s.ctx, s.token(), VerbSend, o.Target, kindName(o.Kind))
	id, _, there := c.carrier(s.app, o.Target)
	if !there && refusal == nil {
		key := transferKey{s.app, s.user, o.Target, o.SendId}
		if x, open := s.away.get(awayKey{o.Target, o.SendId}); open && c.knows(x.node) {
			id, there = x.node, true // it waits there for its receiver
		} else if c.srv.transfers.known(key) {
			return false, false
		}
	}
	if !there && refusal == nil {
		return false, true
	}
	if refusal == nil && c.srv.transfers.tooLarge(s.app, o.Kind, o.Size) {
		refusal = &wire.Error{Code: wire.FileTooLarge}
	}
	if refusal == nil && !s.away.note(s, awayKey{o.Target, o.SendId}, id, s.party.app.limits.Load().user.most[cellTransfers]) {
		refusal = c.srv.quota.over(cellNames[cellTransfers], scopeUser, wire.OverLimit, "too many transfers")
	}
	if refusal != nil {
		c.srv.audit.refusedOffer(proposal{offer: o, claims: s.token(), session: s}, refusal)
		c.srv.transfers.refuse(s, o.SendId, refusal)
		return true, false
	}
	c.say(s, id, f)
	return true, false
}

// routeByID says a frame to where the transfer of an id lives.
func (c *cluster) routeByID(s *session, f *wire.Frame, transfer string) bool {
	what, err := decodeTransferID(transfer)
	if err != nil || what.App != s.app || what.Source != s.user {
		return false
	}
	if x, open := s.away.get(awayKey{what.Target, what.sendID()}); open {
		c.say(s, x.node, f)
		return true
	}
	if c.srv.transfers.find(transfer) != nil || c.srv.listener(what.App, what.Target) != nil {
		return false
	}
	id, _, there := c.carrier(what.App, what.Target)
	switch {
	case !there:
	case f.GetFinish() != nil:
		// Its node would take it and not know whom to tell what comes of it.
		_ = s.send(unknownTo(transfer, what.sendID()))
	case f.GetCancel() != nil:
		s.away.cancels(s, awayKey{what.Target, what.sendID()}, id, transfer)
		c.say(s, id, f)
	default:
		c.say(s, id, f)
	}
	return there
}

func (c *cluster) routeCancel(s *session, f *wire.Frame, cancel *wire.Cancel) bool {
	target := ""
	if what, err := decodeTransferID(cancel.Transfer); err == nil {
		target = what.Target
	}
	all := s.away.cancel(target, cancel.SendId)
	for _, id := range all {
		c.say(s, id, f)
	}
	if len(all) > 0 {
		return true
	}
	return cancel.Transfer != "" && c.routeByID(s, f, cancel.Transfer)
}

// say says a session's frame to a node.
func (c *cluster) say(s *session, id nodes.NodeID, f *wire.Frame) {
	c.mu.Lock()
	c.away[s.id] = s
	c.mu.Unlock()
	s.away.tell(id)
	token := s.token()
	err := c.out.say(id, &nodes.Message{Body: &nodes.Message_Sending{Sending: &nodes.Sending{
		Session: s.id, App: s.app, User: s.user, Instance: []byte(s.instance), Address: s.address,
		TokenExpiresMs: token.Expires.UnixMilli(), Frame: f,
	}}}, true)
	if err != nil {
		s.away.broken(s, id)
	}
	if !s.live() { // its end may have looked before
		c.sessionDown(s)
	}
}

// knows reports whether a node is there.
func (c *cluster) knows(id nodes.NodeID) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.view.Node(id) != nil
}

// sessionDown tells the nodes where a session has something that it has ended.
func (c *cluster) sessionDown(s *session) {
	if c == nil || s.far != nil {
		return
	}
	c.mu.Lock()
	delete(c.away, s.id)
	c.mu.Unlock()
	for _, id := range s.away.end(s) {
		c.out.say(id, &nodes.Message{Body: &nodes.Message_SenderGone{SenderGone: &nodes.SenderGone{
			Session: s.id, Kicked: s.kicked.Load(),
		}}}, true)
	}
}

// tokenUpdated tells the nodes where a session has something of its newer token.
func (c *cluster) tokenUpdated(s *session) {
	if c == nil {
		return
	}
	for _, id := range s.away.nodes() {
		c.out.say(id, &nodes.Message{Body: &nodes.Message_SenderToken{SenderToken: &nodes.SenderToken{
			Session: s.id, TokenExpiresMs: s.token().Expires.UnixMilli(),
		}}}, true)
	}
}

// told passes a frame to the session here that it is for.
func (c *cluster) told(from nodes.NodeID, t *nodes.Told) {
	c.mu.RLock()
	s := c.away[t.Session]
	c.mu.RUnlock()
	f := t.GetFrame()
	if s == nil || !s.live() || f == nil || wire.CheckFromServer(f) != nil {
		c.stats.late.Inc()
		return
	}
	open := false
	switch b := f.Body.(type) {
	case *wire.Frame_Accepted:
		open = s.away.heard(s, b.Accepted.Transfer, b.Accepted.SendId, from, true)
	case *wire.Frame_Received:
		open = s.away.heard(s, b.Received.Transfer, "", from, true)
		if open && !s.roomy() {
			return // the next one says more
		}
	case *wire.Frame_Verdict: // one with a transfer is repeated until it is acked
		open = s.away.heard(s, b.Verdict.Transfer, b.Verdict.SendId, from, b.Verdict.Transfer != "")
	case *wire.Frame_Standing:
		open = s.away.heard(s, b.Standing.Transfer, b.Standing.SendId, from, false)
	default:
		c.stats.odd.Inc()
		return
	}
	if !open { // said before the line between the nodes broke
		c.stats.late.Inc()
		return
	}
	_ = s.send(f)
}

// sending takes in what a sender's session at another node says. Its node has judged
// the token; everything else is checked as if it came from here.
func (c *cluster) sending(from nodes.NodeID, m *nodes.Sending) {
	if wire.CheckApp(m.App) != nil || wire.CheckUser(m.User) != nil || wire.CheckInstance(m.Instance, false) != nil ||
		m.GetFrame() == nil {
		c.stats.odd.Inc()
		return
	}
	switch m.Frame.Body.(type) {
	case *wire.Frame_Offer, *wire.Frame_Finish, *wire.Frame_VerdictAck, *wire.Frame_Cancel:
	default:
		c.stats.odd.Inc()
		return
	}
	key := farSender{from, m.Session}
	c.mu.Lock()
	s := c.senders[key]
	if s == nil || s.app != m.App || s.user != m.User {
		address, _ := netip.ParseAddr(m.Address)
		s = c.newFar(from, place{m.App, m.User}, wire.Role_ROLE_SEND, string(m.Instance), address)
		s.far.there = m.Session
		c.senders[key] = s
	}
	c.mu.Unlock()
	c.renew(s, m.TokenExpiresMs)
	if c.srv.transfers.frame(s, m.Frame) != nil {
		c.stats.odd.Inc() // its own node has let it pass
	}
}

// renew notes until when a sender's token counts.
func (c *cluster) renew(s *session, expiresMs int64) {
	claims := s.token()
	if at := time.UnixMilli(expiresMs); !at.Equal(claims.Expires) {
		claims.Expires = at
		s.claims.Store(&claims)
	}
}

func (c *cluster) senderToken(from nodes.NodeID, m *nodes.SenderToken) {
	c.mu.RLock()
	s := c.senders[farSender{from, m.Session}]
	c.mu.RUnlock()
	if s != nil {
		c.renew(s, m.TokenExpiresMs)
		c.srv.transfers.tokenUpdated(s)
	}
}

func (c *cluster) senderGone(from nodes.NodeID, m *nodes.SenderGone) {
	key := farSender{from, m.Session}
	c.mu.Lock()
	s := c.senders[key]
	delete(c.senders, key)
	c.mu.Unlock()
	if s != nil {
		c.endSender(s, m.Kicked)
	}
}

// endSender ends the stand-in of a sender's session.
func (c *cluster) endSender(s *session, kicked bool) {
	s.state.Store(sessionGone)
	c.srv.transfers.sessionDown(s, kicked)
	s.party.release()
}
