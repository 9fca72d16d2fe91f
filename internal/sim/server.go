package sim

import (
	"time"

	nodes "github.com/dian-im/dian/internal/cluster"
	"github.com/dian-im/dian/internal/transfer"
	"github.com/dian-im/dian/internal/wire"
)

const (
	resumeWindow  = 2 * time.Minute
	offerWait     = 10 * time.Minute
	lanePatience  = 25 * time.Second
	serverTick    = time.Second
	shutdownGrace = 30 * time.Second
	goAwayDelay   = 10 * time.Second
	epochsAhead   = 10 * time.Minute
)

// A server is the relay's process in one life, or that of one node if the relay is a
// cluster: the tables around the transfers' machines, as package server has them.
type server struct {
	w     *world
	slot  int // in world.nodes
	life  int // in its slot
	alive bool

	ending  bool          // it drains: no logins, no new offers
	stopped bool          // by SIGSTOP
	stops   int           // how often it was
	piled   []func()      // what waits for it to go on
	offset  time.Duration // of its clock
	epochs  uint64        // the last that it has given by its own count
	cluster *cluster      // nil: it stands alone

	ticking bool
	logins  uint64

	refs     uint64
	pending  map[uint64]*pendingCommand // by ref
	refOrder []uint64

	lines   []*line
	bob     *line      // who has bob's place
	arrived []*request // from other nodes, while it stands still

	table map[string]*relayed // by sendID
	ids   map[string]*relayed // by the URL's id
	order []*relayed          // of table, so that a seed has one course
}

// boot begins the next life in a slot.
func (w *world) boot(slot int) {
	s := &server{
		w: w, slot: slot, life: 1, alive: true,
		table: map[string]*relayed{}, ids: map[string]*relayed{}, pending: map[uint64]*pendingCommand{},
	}
	if before := w.nodes[slot]; before != nil {
		s.life = before.life + 1
	}
	w.nodes[slot] = s
	w.note("%v begins life %d", s, s.life)
	if w.bus != nil {
		s.join()
	}
}

// String names it in a trace.
func (s *server) String() string {
	if s.w.bus == nil {
		return "server"
	}
	return "node " + string(rune('A'+s.slot))
}

// clock is the time by its own clock.
func (s *server) clock() time.Time { return s.w.now.Add(s.offset) }

// id is what it counts moments by.
func (s *server) id() uint64 {
	if s.cluster != nil {
		return uint64(s.cluster.self)
	}
	return uint64(s.life)
}

// do runs fn in the process: now, when it goes on, or never.
func (s *server) do(fn func()) {
	switch {
	case !s.alive:
	case s.stopped:
		s.piled = append(s.piled, fn)
	default:
		fn()
	}
}

// after is do, later.
func (s *server) after(d time.Duration, fn func()) { s.w.after(d, func() { s.do(fn) }) }

// keepTime ticks as long as there are transfers.
func (s *server) keepTime() {
	if s.ticking {
		return
	}
	s.ticking = true
	s.after(serverTick, func() {
		s.ticking = false
		s.tick()
		if len(s.order) > 0 {
			s.keepTime()
		}
	})
}

func (s *server) tick() {
	for _, r := range s.copyOrder() {
		if r.m.State().Ended() {
			if s.w.now.Sub(r.endedAt) >= resumeWindow {
				s.remove(r)
			}
			continue
		}
		r.tick()
	}
}

// kill ends the process. Its lines and lanes break.
func (s *server) kill() {
	s.w.note("%v is killed", s)
	s.alive = false
	s.shake()
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
	s.w.breakCarried(s)
	for _, q := range s.arrived {
		q.from.after(s.w.delay(), q.broken)
	}
}

// hello takes in a line's Hello (Server.login).
func (s *server) hello(l *line) {
	b, listens := l.end.(*receiver)
	switch {
	case !l.upThere:
		return
	case s.ending:
		l.refuse(wire.ServiceFault)
		return
	case listens:
		l.place, l.lastEpoch = b.place, b.epoch
	}
	if s.cluster == nil || !listens {
		s.admit(l, 0)
		return
	}
	s.cluster.incumbent(func(u *nodes.User) {
		switch {
		case !l.upThere:
		case s.ending:
			l.refuse(wire.ServiceFault)
		case u == nil:
			s.admit(l, 0)
		case string(u.Instance) != l.place && l.lastEpoch > 0 && u.Epoch > l.lastEpoch: // mayReplace
			l.refuse(wire.Kicked)
		default:
			s.admit(l, u.Epoch)
		}
	})
}

// admit makes a line a session (Server.newSession, Server.enter). How often two
// instances may kick each other is not played: the loser gives up.
func (s *server) admit(l *line, elsewhere uint64) {
	s.logins++
	l.moment = &wire.Moment{Server: s.id(), Count: s.logins}
	if l.place == "" {
		l.welcome()
		return
	}
	older := s.bob
	l.epoch = s.nextEpoch(l.lastEpoch, elsewhere, older)
	if older != nil {
		if older.epoch > l.epoch || older.place != l.place && l.lastEpoch > 0 && older.epoch > l.lastEpoch {
			l.refuse(wire.Kicked)
			return
		}
	}
	l.welcome()
	s.bob = l
	if older != nil {
		s.giveWay(older, l.place)
	}
	if s.cluster != nil {
		s.cluster.here()
	}
	s.tellCluster()
	for _, r := range s.copyOrder() { // transfers.sessionUp
		if r.place == l.place {
			r.attach(l)
		} else {
			r.ticket = 0
			r.step(aborted)
		}
	}
}

// nextEpoch is epochClock.next.
func (s *server) nextEpoch(last, elsewhere uint64, older *line) uint64 {
	s.epochs = max(uint64(s.clock().UnixMilli()), s.epochs+1)
	epoch := max(s.epochs, last+1, elsewhere+1)
	if older != nil {
		epoch = max(epoch, older.epoch+1)
	}
	return epoch
}

// heard has the epochs to come be above those of other nodes (epochClock.heard).
func (s *server) heard(users ...*nodes.User) {
	for _, u := range users {
		if u.Epoch <= uint64(s.clock().Add(epochsAhead).UnixMilli()) {
			s.epochs = max(s.epochs, u.Epoch)
		}
	}
}

// giveWay ends a session because one of place has its place: for good, or, of the same
// instance, so that it comes again. That may be the client's live one, and the other a
// login that has taken its time (session.giveWay).
func (s *server) giveWay(l *line, place string) {
	if !l.upThere {
		return
	}
	code := wire.Kicked
	if l.kicked = l.place != place; !l.kicked {
		code = wire.OK
	}
	s.end(l, code)
}

// end ends a session with a LineOff.
func (s *server) end(l *line, code wire.Code) {
	s.w.note("%v ends line %d of %s with %d", s, l.number, l.end.name(), code)
	l.toClient(func() { l.off(code) })
	l.upThere = false
	s.lineDown(l)
}

// lineDown takes a session out of everything (session.down).
func (s *server) lineDown(l *line) {
	left := s.bob == l
	if left {
		s.bob = nil
	}
	s.commandsLost(l)
	s.outOfTransfers(l, l.kicked)
	if s.cluster != nil {
		s.cluster.sessionDown(l)
	}
	if left && s.cluster != nil {
		s.tellCluster()
		s.cluster.came() // what is here goes on where he is, if that was known already
	}
}

// outOfTransfers is transfers.sessionDown.
func (s *server) outOfTransfers(l *line, kicked bool) {
	if now := s.listener(); now != nil && now.place == l.place {
		kicked = false // it keeps its lanes
	}
	for _, r := range s.copyOrder() {
		if r.earlier == l {
			r.earlier = nil
		}
		if r.sender == l {
			// The offer of a session that is over may have come after another one's.
			if r.sender, r.earlier = r.earlier, nil; r.sender != nil {
				r.step(transfer.RelayOfferArrived{Resent: true})
			}
		}
		if r.receiver == l {
			r.receiver = nil
			if r.step(transfer.RelayReceiverDown{}); kicked {
				r.ticket = 0
				r.endDown(transfer.LaneBroken)
			}
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

// tellCluster has the other nodes told how bob is.
func (s *server) tellCluster() {
	if s.cluster != nil {
		s.cluster.subs.tell()
	}
}

// stop stops the process for a while, as SIGSTOP does. Its clients miss it if that is
// long, and it misses nothing: what has come meanwhile waits for it.
func (s *server) stop(d time.Duration) {
	w := s.w
	w.note("%v stands still for %v", s, d)
	s.stopped = true
	s.stops++
	s.shake()
	stops := s.stops
	for _, l := range s.lines {
		if l.up {
			w.after(2*heartbeat+w.upTo(time.Second), func() {
				if s.alive && s.stopped && s.stops == stops && l.up {
					l.giveUp()
				}
			})
		}
	}
	w.after(d, func() {
		if s.alive && s.stops == stops {
			s.goOn()
		}
	})
}

func (s *server) goOn() {
	if !s.stopped {
		return
	}
	s.w.note("%v goes on, with %d things to do", s, len(s.piled))
	s.stopped = false
	s.w.wentOn = s.w.now
	s.shake()
	piled := s.piled
	s.piled = nil
	if s.w.chance(2) {
		s.cluster.look() // the clock may be first
	}
	for _, fn := range piled {
		s.do(fn)
	}
}

// drain ends the process in order (Server.Shutdown).
func (s *server) drain() {
	s.w.note("%v drains", s)
	s.ending = true
	for _, l := range s.lines {
		if l.upThere {
			l.toClient(func() { l.goAway = goAwayDelay })
		}
	}
	s.awaitIdle(s.w.now.Add(shutdownGrace))
}

func (s *server) awaitIdle(until time.Time) {
	for _, r := range s.order {
		if r.m.Running() && s.w.now.Before(until) {
			s.after(250*time.Millisecond, func() { s.awaitIdle(until) })
			return
		}
	}
	for _, l := range s.lines {
		if l.upThere {
			l.toClient(l.missed)
			l.upThere = false
			s.lineDown(l)
		}
	}
	if s.cluster != nil {
		s.cluster.leave()
	}
	s.kill()
	s.w.bootLater(s)
}

// shake notes that something goes wrong with the process now.
func (s *server) shake() {
	if s.w.bus != nil {
		s.w.bus.shake(s)
	}
}

func (s *server) copyOrder() []*relayed { return append([]*relayed(nil), s.order...) }
