package sim

import (
	"time"

	nodes "github.com/dian-im/dian/internal/cluster"
	"github.com/dian-im/dian/internal/wire"
)

const (
	heartbeat    = 9 * time.Second // a dead line is missed after twice that
	reconnectMin = 250 * time.Millisecond
	reconnectMax = 15 * time.Second
)

// A line is one session's connection, as both of its ends see it; or, with far, what
// stands at a node for a session at another one, and has no connection.
type line struct {
	w      *world
	srv    *server
	end    client // the client's end
	number int
	born   int // in which life of the client

	up, upThere bool          // the client, and the server, take it for alive
	cut         bool          // nothing more gets through…
	cutAt       time.Time     // …that would arrive later than this
	moment      *wire.Moment  // of its login
	last, there time.Time     // when the last frame arrives here, and there
	goAway      time.Duration // the server has asked for so much time
	welcomed    func()
	refused     func(code wire.Code)

	// What the server has of its session.
	place            string // bob's instance; "" of alice's
	epoch, lastEpoch uint64
	kicked           bool
	target           *line // who alice's last command went to
	away             map[string]*awayTransfer
	asked            map[string]time.Time // when it last said something of a sendID
	spoken           []nodes.NodeID       // nodes that have a stand-in of it
	turn             turn
	far              *far
}

// A client is a process with a session.
type client interface {
	name() string
	living() bool
	lives() int // which life it is in
	lineUp(l *line)
	lineDown(l *line)
	lineOff(l *line) // for good
}

// toServer sends a frame; fn takes it in.
func (l *line) toServer(fn func(s *server)) {
	if !l.up {
		return
	}
	at := l.w.now.Add(l.w.delay())
	if at.Before(l.there) {
		at = l.there
	}
	l.there = at
	l.w.at(at, func() {
		l.srv.do(func() {
			if l.upThere && !(l.cut && at.After(l.cutAt)) {
				fn(l.srv)
			}
		})
	})
}

// toClient sends a frame; fn takes it in.
func (l *line) toClient(fn func()) {
	if !l.upThere {
		return
	}
	at := l.w.now.Add(l.w.delay())
	if at.Before(l.last) {
		at = l.last
	}
	l.last = at
	l.w.at(at, func() {
		if l.up && !(l.cut && at.After(l.cutAt)) && l.end.living() && l.end.lives() == l.born {
			fn()
		}
	})
}

// breakOff cuts the line. Each end notices at once, or by its heartbeat.
func (l *line) breakOff() {
	if l.cut {
		return
	}
	w := l.w
	l.cut, l.cutAt = true, w.now.Add(w.upTo(w.latency/2))
	notice := func() time.Duration {
		if w.chance(3) { // half open
			return 2*heartbeat + w.upTo(time.Second)
		}
		return w.delay()
	}
	w.note("line %d of %s is cut", l.number, l.end.name())
	if b, is := l.end.(*receiver); is {
		b.history.lineOf(false)
	}
	w.after(notice(), l.missedThere)
	w.after(notice(), l.missed)
}

// giveUp ends the line at the client, who has heard nothing for long.
func (l *line) giveUp() {
	if !l.cut {
		l.cut, l.cutAt = true, l.w.now.Add(l.w.delay())
		l.w.at(l.cutAt, l.missedThere)
	}
	if b, is := l.end.(*receiver); is && b.line == l {
		b.history.lineOf(false)
	}
	l.missed()
}

// breakLines cuts what a client's process that ends has open, or is opening.
func (w *world) breakLines(c client) {
	for _, s := range w.nodes {
		for _, l := range s.lines {
			if l.end == c && l.born == c.lives() {
				l.up = false
				l.breakOff()
			}
		}
	}
}

func (l *line) missedThere() {
	l.srv.do(func() {
		if l.upThere {
			l.upThere = false
			l.srv.lineDown(l)
		}
	})
}

func (l *line) missed() {
	if l.up {
		l.up = false
		if l.end.living() {
			l.w.note("%s misses its line %d", l.end.name(), l.number)
			l.end.lineDown(l)
		}
	}
}

// off is a LineOff: with this code for good, or until the next login.
func (l *line) off(code wire.Code) {
	l.up = false
	l.w.note("line %d of %s is off with %d", l.number, l.end.name(), code)
	if code == wire.Kicked {
		l.end.lineOff(l)
		return
	}
	l.end.lineDown(l)
}

// dial returns the node that a load balancer chooses: one that lives, or seems to.
func (w *world) dial() *server {
	if w.bus == nil {
		return w.nodes[0]
	}
	var living []*server
	for _, s := range w.nodes {
		if s.alive && !(s.stopped && w.chance(2)) && !(s.ending && w.chance(2)) {
			living = append(living, s)
		}
	}
	if len(living) == 0 {
		return w.nodes[w.random.IntN(len(w.nodes))]
	}
	return living[w.random.IntN(len(living))]
}

// connect makes a new line for a client, after a random while that grows with tries.
// current tells whether the client still wants one.
func (w *world) connect(c client, tries int, current func() bool) {
	w.connectWithin(min(reconnectMin<<min(tries, 10), reconnectMax), c, tries, current)
}

func (w *world) connectWithin(wait time.Duration, c client, tries int, current func() bool) {
	w.after(w.upTo(wait), func() {
		if !current() || !c.living() {
			return
		}
		s := w.dial()
		if !s.alive {
			w.connect(c, tries+1, current)
			return
		}
		w.seq++
		l := &line{w: w, srv: s, end: c, number: w.seq, born: c.lives(), up: true, upThere: true}
		s.lines = append(s.lines, l)
		opening := true
		retry := func() {
			if opening && current() && c.living() {
				opening = false
				w.connect(c, tries+1, current)
			}
		}
		w.at(w.now.Add(w.delay()), func() { // Hello arrives
			if !s.alive || l.cut || !current() {
				l.up, l.upThere = false, false
				w.after(w.delay(), retry)
				return
			}
			l.welcomed = func() { // Welcome comes first
				if !current() || !opening {
					l.breakOff()
					return
				}
				opening = false
				w.note("%s is logged in on line %d to %v", c.name(), l.number, s)
				c.lineUp(l)
			}
			l.refused = func(code wire.Code) {
				if l.up = false; code == wire.Kicked && opening && current() {
					opening = false
					c.lineOff(l)
					return
				}
				retry()
			}
			s.do(func() { s.hello(l) })
			// A handshake that hangs is given up.
			w.after(2*heartbeat, func() {
				if opening {
					l.up = false
					w.after(w.delay(), l.missedThere)
					retry()
				}
			})
		})
	})
}

// welcome says that the login is done. It comes before everything else on the line.
func (l *line) welcome() { l.toClient(l.welcomed) }

// refuse says that there is none.
func (l *line) refuse(code wire.Code) {
	l.w.note("%v refuses the login of %s with %d", l.srv, l.end.name(), code)
	l.toClient(func() { l.refused(code) })
	l.upThere = false
}
