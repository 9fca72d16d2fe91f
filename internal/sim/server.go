package sim

import (
	"fmt"
	"time"

	"github.com/dian-im/dian/internal/transfer"
	"github.com/dian-im/dian/internal/wire"
)

const (
	resumeWindow = 2 * time.Minute
	offerWait    = 10 * time.Minute
	lanePatience = 25 * time.Second
	serverTick   = time.Second
)

// A server is the relay's process: the tables around the transfers' machines, as
// package server has them.
type server struct {
	w     *world
	alive bool
	life  int

	ticking bool
	logins  uint64 // of this life

	refs     uint64
	pending  map[uint64]*pendingCommand // by ref
	refOrder []uint64

	lines []*line
	bob   *line // who has bob's place
	place string
	alice *line

	table map[string]*relayed // by sendID
	ids   map[string]*relayed // by the URL's id
	order []*relayed          // of table, so that a seed has one course
}

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
	receiver *line
	up       *upLane
	down     *downLane
	heads    []*headWait
	posts    []func() bool // other requests that wait: true when answered
	http     bool
	gone     bool
	endedAt  time.Time
	busy     bool // advance runs
	again    bool // and has to look once more
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

func (s *server) boot() {
	s.alive = true
	s.life++
	s.lines, s.bob, s.place, s.alice = nil, nil, "", nil
	s.table, s.ids, s.order = map[string]*relayed{}, map[string]*relayed{}, nil
	s.ticking, s.logins = false, 0
	s.pending, s.refOrder = map[uint64]*pendingCommand{}, nil
	s.w.note("server begins life %d", s.life)
}

// keepTime ticks as long as there are transfers.
func (s *server) keepTime() {
	if s.ticking {
		return
	}
	s.ticking = true
	life := s.life
	s.w.after(serverTick, func() {
		if s.alive && s.life == life {
			s.ticking = false
			s.tick()
			if len(s.order) > 0 {
				s.keepTime()
			}
		}
	})
}

// kill ends the process. Its lines and lanes break.
func (s *server) kill() {
	s.w.note("server is killed")
	s.alive = false
	for _, r := range s.order {
		if r.up != nil {
			r.up.breakOff()
		}
		if r.down != nil {
			r.down.breakOff()
		}
	}
	for _, l := range s.lines {
		l.upThere = false
		l.breakOff()
	}
}

// login takes a line's Hello.
func (s *server) login(l *line) {
	if l.end == client(s.w.alice) {
		s.alice = l
		return
	}
	older := s.bob
	s.bob, s.place = l, s.w.bob.place
	if older != nil && older.upThere {
		older.upThere = false
		s.lineDown(older, true)
	}
	for _, r := range s.copyOrder() {
		if r.place == s.place {
			r.attach(l)
		} else {
			r.step(transfer.RelayAborted{Code: wire.BadSendID, Detail: "elsewhere"})
		}
	}
}

func (s *server) copyOrder() []*relayed { return append([]*relayed(nil), s.order...) }

// lineDown takes a line out of its transfers.
func (s *server) lineDown(l *line, kicked bool) {
	if s.bob == l {
		s.bob = nil
	}
	if s.alice == l {
		s.alice = nil
	}
	s.commandsLost(l)
	for _, r := range s.copyOrder() {
		if r.sender == l {
			r.sender = nil
		}
		if r.receiver == l {
			r.receiver = nil
			r.step(transfer.RelayReceiverDown{})
			if kicked && r.place != s.place {
				r.ticket = 0
				r.endDown(transfer.LaneBroken)
			}
		}
	}
}

func (s *server) tick() {
	for _, r := range s.copyOrder() {
		if r.m.State().Ended() {
			if s.w.now.Sub(r.endedAt) >= resumeWindow {
				s.remove(r)
			}
			continue
		}
		r.step(transfer.RelayTick{})
	}
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

// listener returns the line of bob's place, if it is alive.
func (s *server) listener() *line {
	if s.bob == nil || !s.bob.upThere {
		return nil
	}
	return s.bob
}

// add puts a transfer into the table, in the place of one that has ended.
func (s *server) add(sendID, place string, size int64, m *transfer.Relay, instead *relayed) *relayed {
	if instead != nil {
		s.remove(instead)
	}
	s.w.seq++
	r := &relayed{s: s, id: sendID + "@" + place, sendID: sendID, place: place, size: size, m: m, ticket: s.w.seq}
	s.table[sendID], s.ids[r.id] = r, r
	s.order = append(s.order, r)
	s.keepTime()
	return r
}

func relayConfig(size int64, inlined bool) transfer.RelayConfig {
	return transfer.RelayConfig{Size: size, Inlined: inlined, OfferWait: offerWait, Window: resumeWindow}
}

// propose takes in an offer.
func (s *server) propose(l *line, o *offer) {
	refuse := func(code wire.Code) {
		s.w.note("server refuses %s with %d", o.sendID, code)
		l.toClient(func() {
			s.w.alice.verdict(o.sendID, "", transfer.SenderResult{Code: code, Origin: wire.Origin_ORIGIN_SERVER})
		})
	}
	known, listener := s.table[o.sendID], s.listener()
	if known != nil {
		taken, code := known.proposeAgain(l, o, listener)
		if code != wire.OK {
			refuse(code)
		}
		if taken || code != wire.OK {
			return
		}
	}
	switch {
	case listener == nil:
		refuse(wire.PeerOffline)
		return
	case o.instance != "" && o.instance != s.place:
		refuse(wire.BadSendID)
		return
	}
	r := s.add(o.sendID, s.place, o.size, transfer.NewRelay(relayConfig(o.size, o.inlined), s.w.now), known)
	r.offered(l, o)
	r.attach(listener)
}

// proposeAgain takes in the offer of a transfer that is known; false and 0 mean that
// it has to be replaced.
func (r *relayed) proposeAgain(l *line, o *offer, listener *line) (bool, wire.Code) {
	state := r.m.State()
	moved := listener != nil && r.s.place != r.place
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
	if r.sender = l; l != nil && !l.upThere {
		r.sender = nil
	}
	if r.m.State() == transfer.RelayOffered {
		r.offer = o
	}
	r.step(transfer.RelayOfferArrived{Resent: o.resent})
}

func (r *relayed) attach(l *line) {
	if l == nil || r.receiver == l || r.s.place != r.place || !l.upThere {
		return
	}
	if r.ticket == 0 {
		r.s.w.seq++
		r.ticket = r.s.w.seq
	}
	r.receiver = l
	r.step(transfer.RelayReceiverUp{})
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
		if s.listener() != nil && s.place != place {
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
		l.toClient(func() {
			s.w.alice.verdict(sendID, "", transfer.SenderResult{Code: wire.BadSendID, Origin: wire.Origin_ORIGIN_SERVER})
		})
		return
	}
	if r.sender == nil {
		r.sender = l
	}
	r.step(transfer.RelayCancel{})
}

// step moves the machine and does what it says.
func (r *relayed) step(e transfer.RelayEvent) {
	before := r.m.State()
	actions, err := r.m.Step(r.s.w.now, e)
	if _, tick := e.(transfer.RelayTick); r.s.w.tracing && (!tick || len(actions) > 0) {
		r.s.w.note("  relay %s: %s in %v, now %v at %d of %d, confirmed %d", r.sendID, describe(e), before, r.m.State(), r.m.At(), r.size, r.m.Confirmed())
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
	if r.receiver != nil {
		b := r.s.w.bob
		r.receiver.toClient(func() {
			if r.s.w.bob == b {
				fn(b)
			}
		})
	}
}

func (r *relayed) toSender(fn func(a *sender)) {
	if r.sender != nil {
		a := r.s.w.alice
		r.sender.toClient(func() { fn(a) })
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
		r.toSender(func(s *sender) { s.accepted(sendID, id, place, a.Offset) })
	case transfer.RelaySendReceived:
		r.toSender(func(s *sender) { s.received(id, a.Offset) })
	case transfer.RelaySendVerdict:
		v := r.m.Verdict()
		r.toSender(func(s *sender) {
			s.verdict(sendID, id, transfer.SenderResult{Code: v.Code, Receipt: v.Receipt, Origin: v.Origin, LengthOnly: v.LengthOnly, Detail: v.Detail})
		})
	case transfer.RelaySendUnknown:
		r.toSender(func(s *sender) { s.unknown(sendID, id) })
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
