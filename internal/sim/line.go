package sim

import (
	"time"

	"github.com/dian-im/dian/internal/wire"
)

const (
	heartbeat    = 9 * time.Second // a dead line is missed after twice that
	reconnectMax = 15 * time.Second
)

// A line is one session's connection, as both of its ends see it.
type line struct {
	w      *world
	end    client // the client's end
	number int
	life   int // of the server's process
	born   int // in which life of the client

	up, upThere bool         // the client, and the server, take it for alive
	cut         bool         // nothing more gets through…
	cutAt       time.Time    // …that would arrive later than this
	moment      *wire.Moment // of its login
	last, there time.Time    // when the last frame arrives here, and there
}

// A client is a process with a session.
type client interface {
	name() string
	living() bool
	lives() int // which life it is in
	lineUp(l *line)
	lineDown(l *line)
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
		if l.upThere && !(l.cut && at.After(l.cutAt)) && l.w.srv.life == l.life && l.w.srv.alive {
			fn(l.w.srv)
		}
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
	if l.end == client(w.bob) {
		w.history.lineOf(false)
	}
	w.after(notice(), l.missedThere)
	w.after(notice(), l.missed)
}

// breakLines cuts what a client's process that ends has open, or is opening.
func (w *world) breakLines(c client) {
	for _, l := range w.srv.lines {
		if l.end == c && l.born == c.lives() {
			l.up = false
			l.breakOff()
		}
	}
}

func (l *line) missedThere() {
	if l.upThere {
		l.upThere = false
		if l.w.srv.life == l.life && l.w.srv.alive {
			l.w.srv.lineDown(l, false)
		}
	}
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

// connect makes a new line for a client, after a random while that grows with tries.
// current tells whether the client still wants one.
func (w *world) connect(c client, tries int, current func() bool) {
	wait := min(250*time.Millisecond<<min(tries, 10), reconnectMax)
	w.after(w.upTo(wait), func() {
		if !current() || !c.living() {
			return
		}
		s := w.srv
		if !s.alive {
			w.connect(c, tries+1, current)
			return
		}
		w.seq++
		l := &line{w: w, end: c, number: w.seq, life: s.life, born: c.lives(), up: true, upThere: true}
		s.lines = append(s.lines, l)
		w.at(w.now.Add(w.delay()), func() { // Hello arrives
			if !s.alive || s.life != l.life || l.cut || !current() {
				l.up, l.upThere = false, false
				w.after(w.delay(), func() {
					if current() && c.living() {
						w.connect(c, tries+1, current)
					}
				})
				return
			}
			s.logins++
			l.moment = &wire.Moment{Server: uint64(s.life), Count: s.logins}
			welcomed := false
			l.toClient(func() { // Welcome comes first
				if !current() {
					l.breakOff()
					return
				}
				welcomed = true
				w.note("%s is logged in on line %d", c.name(), l.number)
				c.lineUp(l)
			})
			s.login(l)
			// A handshake that hangs is given up.
			w.after(2*heartbeat, func() {
				if !welcomed && current() && c.living() {
					l.up = false
					w.connect(c, tries+1, current)
				}
			})
		})
	})
}
