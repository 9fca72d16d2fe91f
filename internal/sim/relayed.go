package sim

import (
	"fmt"
	"strings"
	"time"

	"github.com/dian-im/dian/internal/transfer"
	"github.com/dian-im/dian/internal/wire"
)

// A relayed is one transfer at the server.
type relayed struct {
	s        *server
	id       string // the URL's: sendID@place
	sendID   string
	place    string
	size     int64
	m        *transfer.Relay
	offer    *offer // to the receiver; nil when it was answered
	ticket   int
	sender   *line
	earlier  *line // who was before
	receiver *line
	up       *upLane
	down     *downLane
	heads    []*headWait
	posts    []func() bool // other requests that wait: true when answered
	http     bool
	gone     bool
	endedAt  time.Time
	astray   time.Time // since when it waits for a receiver who is at another node
	busy     bool      // advance runs
	again    bool      // and has to look once more
}

// An offer is what a sender says of a task.
type offer struct {
	sendID   string
	size     int64
	inlined  bool
	instance string // only this place may take it; "": any
	resent   bool
	digest   *wire.Digest
}

// A told is a frame to a sender's session about a transfer.
type told struct {
	what       toldWhat
	sendID, id string
	take       func(a *sender)
}

type toldWhat uint8

const (
	toldAccepted toldWhat = iota
	toldReceived
	toldVerdict
	toldStanding
)

// of returns the sendID that it is about.
func (t told) of() string {
	if sendID, _, named := strings.Cut(t.id, "@"); named {
		return sendID
	}
	return t.sendID
}

func (t told) String() string {
	return [...]string{"Accepted", "Received", "Verdict", "Standing"}[t.what] + " of " + t.of()
}

var aborted = transfer.RelayAborted{Code: wire.BadSendID, Detail: "elsewhere"}

// tell sends a frame to a session of alice's, or to the node where it is.
func (s *server) tell(l *line, t told) {
	switch {
	case l == nil:
	case l.far != nil:
		l.far.tell(t)
	default:
		l.toClient(func() { t.take(s.w.alice) })
	}
}

// refuse is a verdict of the server's own.
func (s *server) refuse(l *line, sendID string, code wire.Code) {
	s.w.note("%v refuses %s with %d", s, sendID, code)
	s.tell(l, told{toldVerdict, sendID, "", func(a *sender) {
		a.verdict(sendID, "", transfer.SenderResult{Code: code, Origin: wire.Origin_ORIGIN_SERVER})
	}})
}

// placeOf returns what place an id names.
func placeOf(id string) string {
	_, place, _ := strings.Cut(id, "@")
	return place
}

func (s *server) remove(r *relayed) {
	if s.ids[r.id] == r {
		delete(s.ids, r.id)
	}
	if s.table[r.sendID] == r {
		delete(s.table, r.sendID)
	}
	for i, o := range s.order {
		if o == r {
			s.order = append(s.order[:i:i], s.order[i+1:]...)
			break
		}
	}
}

// add puts a transfer into the table, in the place of one that has ended.
func (s *server) add(sendID, place string, size int64, m *transfer.Relay, instead *relayed) *relayed {
	if instead != nil {
		s.remove(instead)
	}
	r := &relayed{s: s, id: sendID + "@" + place, sendID: sendID, place: place, size: size, m: m, ticket: s.newTicket()}
	s.table[sendID], s.ids[r.id] = r, r
	s.order = append(s.order, r)
	s.keepTime()
	return r
}

// newTicket makes a ticket of which everybody can see who has made it.
func (s *server) newTicket() int {
	s.w.seq++
	s.w.makers[s.w.seq] = s
	return s.w.seq
}

func relayConfig(size int64, inlined bool) transfer.RelayConfig {
	return transfer.RelayConfig{Size: size, Inlined: inlined, OfferWait: offerWait, Window: resumeWindow}
}

// propose takes in an offer.
func (s *server) propose(l *line, o *offer) {
	known, listener := s.table[o.sendID], s.listener()
	if known != nil {
		taken, code := known.proposeAgain(l, o, listener)
		if code != wire.OK {
			s.refuse(l, o.sendID, code)
		}
		if taken || code != wire.OK {
			return
		}
	}
	switch {
	case listener == nil:
		s.refuse(l, o.sendID, wire.PeerOffline)
		return
	case o.instance != "" && o.instance != listener.place:
		s.refuse(l, o.sendID, wire.BadSendID)
		return
	case s.ending:
		s.refuse(l, o.sendID, wire.ServiceFault)
		return
	}
	r := s.add(o.sendID, listener.place, o.size, transfer.NewRelay(relayConfig(o.size, o.inlined), s.w.now), known)
	r.offered(l, o)
	r.attach(listener)
}

// proposeAgain takes in the offer of a transfer that is known; false and 0 mean that
// it has to be replaced.
func (r *relayed) proposeAgain(l *line, o *offer, listener *line) (bool, wire.Code) {
	state := r.m.State()
	moved := listener != nil && listener.place != r.place
	switch {
	case r.m.Forgotten(), (state == transfer.RelayRefused || state == transfer.RelayFailed) && (r.http || r.m.Acked()):
		return false, 0
	case o.instance != "" && o.instance != r.place, o.size != r.size:
		return false, wire.BadSendID
	case !state.Ended() && moved:
		if o.instance != "" {
			r.sender = l
			r.step(transfer.RelayAborted{Code: wire.BadSendID})
			return true, 0
		}
		r.sender = nil
		r.step(transfer.RelayAborted{Code: wire.BadSendID})
		return false, 0
	}
	r.offered(l, o)
	return true, 0
}

func (r *relayed) offered(l *line, o *offer) {
	if r.sender != l {
		r.earlier = r.sender
	}
	if r.sender = l; l != nil && !l.upThere {
		r.sender = nil
	}
	if r.m.State() == transfer.RelayOffered {
		r.offer = o
	}
	r.step(transfer.RelayOfferArrived{Resent: o.resent})
}

func (r *relayed) attach(l *line) {
	if l == nil || r.receiver == l || l.place != r.place || !l.upThere {
		return
	}
	if r.ticket == 0 {
		r.ticket = r.s.newTicket()
	}
	r.receiver = l
	r.step(transfer.RelayReceiverUp{})
}

// moved ends here what bob was receiving who is at another node now (transfers.moved).
func (s *server) moved(place string) {
	for _, r := range s.copyOrder() {
		r.ticket = 0
		if r.place == place {
			r.step(transfer.RelayMoved{})
		} else {
			r.step(aborted)
		}
	}
}

// rebuild finds a transfer by its id, or makes it from it. nil: unknown.
func (s *server) rebuild(id, sendID, place string, size int64) *relayed {
	return s.rebuildAs(id, sendID, place, size, relayConfig(size, false))
}

func (s *server) rebuildHTTP(id, sendID, place string, size int64) *relayed {
	return s.rebuildAs(id, sendID, place, size, httpConfig(size))
}

func (s *server) rebuildAs(id, sendID, place string, size int64, cfg transfer.RelayConfig) *relayed {
	r := s.ids[id]
	if r != nil && !r.m.Forgotten() {
		return r
	}
	if r == nil {
		other := s.table[sendID]
		if other != nil && other.id != id && !other.m.Forgotten() {
			return nil
		}
		r = other
		if l := s.listener(); l != nil && l.place != place {
			return nil
		}
	}
	made := s.add(sendID, place, size, transfer.RebuildRelay(cfg, s.w.now), r)
	made.http = cfg.HTTP
	made.attach(s.listener())
	return made
}

// cancel takes in a sender's Cancel.
func (s *server) cancel(l *line, sendID, id, place string, size int64) {
	var r *relayed
	if id != "" {
		if r = s.ids[id]; r == nil {
			if r = s.rebuild(id, sendID, place, size); r != nil {
				r.sender = l
			}
		}
	} else {
		r = s.table[sendID]
	}
	if r == nil {
		s.refuse(l, sendID, wire.BadSendID)
		return
	}
	if r.sender == nil && l.upThere {
		r.sender = l
	}
	r.step(transfer.RelayCancel{})
}

// judged takes in a Verdict of bob's.
func (s *server) judged(l *line, id string, v transfer.ReceiverVerdict) {
	if r := s.ids[id]; r != nil && r.place == l.place {
		r.step(transfer.RelayJudged{Verdict: relayVerdict(v)})
		return
	}
	if placeOf(id) == l.place {
		b := l.end.(*receiver)
		l.toClient(func() { b.frame(id, false, transfer.ReceiverAcked{}) })
	}
}

func relayVerdict(v transfer.ReceiverVerdict) transfer.RelayVerdict {
	return transfer.RelayVerdict{Code: v.Code, Receipt: v.Receipt, LengthOnly: v.LengthOnly, Detail: v.Detail}
}

// tick is the clock.
func (r *relayed) tick() {
	r.notAstray()
	r.step(transfer.RelayTick{})
}

// notAstray wants an offer back at its sender that waits for a receiver who is known to
// be at another node: nobody would answer it.
func (r *relayed) notAstray() {
	c, now := r.s.cluster, r.s.w.now
	if c == nil || r.m.State() != transfer.RelayOffered || r.s.listener() != nil {
		r.astray = time.Time{}
		return
	}
	id, there := c.carrier()
	switch at := r.s.w.nodeOf(id); {
	case !there || at == nil || !r.s.w.bus.calm(r.s, at):
		r.astray = time.Time{}
	case r.astray.IsZero():
		r.astray = now
	case now.Sub(r.astray) > 5*time.Second:
		r.s.w.fail("%s is offered at %v, and its receiver is at %v", r.sendID, r.s, at)
	}
}

// step moves the machine and does what it says.
func (r *relayed) step(e transfer.RelayEvent) {
	before := r.m.State()
	actions, err := r.m.Step(r.s.w.now, e)
	if _, tick := e.(transfer.RelayTick); r.s.w.tracing && (!tick || len(actions) > 0) {
		r.s.w.note("  relay %s at %v: %s in %v, now %v at %d of %d, confirmed %d", r.sendID, r.s, describe(e), before, r.m.State(), r.m.At(), r.size, r.m.Confirmed())
	}
	if err != nil {
		r.s.w.fail("the server takes a frame for a broken protocol: %v", err)
		return
	}
	for _, a := range append([]transfer.RelayAction(nil), actions...) {
		r.do(a)
	}
	if r.m.State() != transfer.RelayOffered {
		r.offer = nil
	}
	if r.m.State().Ended() && !r.gone {
		r.gone, r.endedAt = true, r.s.w.now
	}
	r.advance()
}

func describe(e any) string { return fmt.Sprintf("%T%+v", e, e)[len("transfer."):] }

func (r *relayed) toReceiver(fn func(b *receiver)) {
	if l := r.receiver; l != nil {
		b := l.end.(*receiver)
		l.toClient(func() { fn(b) })
	}
}

func (r *relayed) do(a transfer.RelayAction) {
	id, sendID, ticket := r.id, r.sendID, r.ticket
	switch a.Do {
	case transfer.RelaySendOffer:
		if o := r.offer; o != nil {
			r.toReceiver(func(b *receiver) { b.offered(o, id, ticket) })
			if o.inlined {
				r.offer = nil
			}
		}
	case transfer.RelaySendQuery:
		r.toReceiver(func(b *receiver) { b.queried(sendID, id, ticket) })
	case transfer.RelaySendSync:
		r.toReceiver(func(b *receiver) { b.frame(id, false, transfer.ReceiverSync{Offset: a.Offset}) })
	case transfer.RelaySendFinish:
		r.toReceiver(func(b *receiver) { b.frame(id, true, transfer.ReceiverFinish{Digest: a.Digest}) })
	case transfer.RelaySendCancel:
		r.toReceiver(func(b *receiver) { b.cancelled(sendID, id) })
	case transfer.RelaySendVerdictAck:
		r.toReceiver(func(b *receiver) { b.frame(id, false, transfer.ReceiverAcked{}) })
	case transfer.RelaySendAccepted:
		place := r.place
		r.s.tell(r.sender, told{toldAccepted, sendID, id, func(s *sender) { s.accepted(sendID, id, place, a.Offset) }})
	case transfer.RelaySendReceived:
		r.s.tell(r.sender, told{toldReceived, "", id, func(s *sender) { s.received(id, a.Offset) }})
	case transfer.RelaySendVerdict:
		v := r.m.Verdict()
		r.s.tell(r.sender, told{toldVerdict, sendID, id, func(s *sender) {
			s.verdict(sendID, id, transfer.SenderResult{Code: v.Code, Receipt: v.Receipt, Origin: v.Origin, LengthOnly: v.LengthOnly, Detail: v.Detail})
		}})
	case transfer.RelaySendUnknown:
		r.s.tell(r.sender, told{toldStanding, sendID, id, func(s *sender) { s.unknown(sendID, id) }})
	case transfer.RelaySendAgain:
		r.s.tell(r.sender, told{toldVerdict, sendID, "", func(s *sender) {
			s.verdict(sendID, "", transfer.SenderResult{Code: wire.ServiceFault, Origin: wire.Origin_ORIGIN_SERVER})
		}})
	case transfer.RelayEndUp:
		if r.up != nil && !r.delivered() {
			r.up.finish(r.up.overOutcome())
		}
	case transfer.RelayEndDown:
		if r.down != nil && !r.delivered() {
			r.endDown(transfer.LaneOver)
		}
	case transfer.RelayForget:
		r.s.remove(r)
	}
}

// delivered reports whether the lanes are about to end well by themselves.
func (r *relayed) delivered() bool {
	return r.m.State() == transfer.RelayDone && r.m.At() == r.size
}
