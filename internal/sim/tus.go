package sim

import (
	"time"

	"github.com/dian-im/dian/internal/transfer"
	"github.com/dian-im/dian/internal/wire"
)

// A tusClient is an HTTP sender that knows tus and nothing of sessions, as
// tus-js-client: it takes offset = size for success, asks with HEAD after a failure,
// and creates anew what is unknown. The server plays the sender's part for it.
type tusClient struct {
	t     *outTask
	id    string // of the upload; "" before its creation
	place string
	tries int
	busy  int // counts requests: an answer to another one is ignored
	over  bool
}

// begin creates the upload.
func (c *tusClient) begin() { c.create() }

// again does something after a while that grows with the failures.
func (c *tusClient) again(fn func()) {
	if c.tries++; c.tries > 60 {
		c.end(transfer.SenderResult{Code: wire.ConnectionLost, Detail: "given up"})
		return
	}
	w, life := c.t.s.w, c.t.s.life
	w.after(w.upTo(min(time.Second<<min(c.tries, 5), 20*time.Second)), func() {
		if w.alice.alive && c.t.s.life == life && !c.over {
			fn()
		}
	})
}

// request sends one request. do gets a function for its answer, which is lost if the
// connection breaks; broken is called then, or when nothing comes for long.
func (c *tusClient) request(id string, do func(s *server, answer func(fn func())), broken func()) {
	w := c.t.s.w
	c.busy++
	busy, life := c.busy, c.t.s.life
	current := func() bool { return c.busy == busy && c.t.s.life == life && w.alice.alive && !c.over }
	before := w.dial()
	w.after(w.delay(), func() {
		if !current() {
			return
		}
		breaks := func() {
			w.after(w.delay(), func() {
				if current() {
					c.busy++
					broken()
				}
			})
		}
		if !before.alive || w.faulty && w.chance(20) {
			breaks()
			return
		}
		answer := func(fn func()) {
			w.after(w.delay(), func() {
				if current() {
					c.busy++
					fn()
				}
			})
		}
		before.do(func() {
			before.handle(&request{
				id: id, over: func() bool { return !current() }, serve: func(s *server) { do(s, answer) }, broken: breaks,
			})
		})
	})
	w.after(90*time.Second, func() {
		if current() {
			c.busy++
			broken()
		}
	})
}

// create is a POST.
func (c *tusClient) create() {
	t := c.t
	t.s.w.note("tus creates %s", t.id)
	c.request("", func(s *server, answer func(func())) {
		refuse := func(code wire.Code) {
			answer(func() {
				if end := finalEnd(code); end.End == transfer.LaneFinal || end.End == transfer.LaneGone {
					c.end(transfer.SenderResult{Code: code, Origin: wire.Origin_ORIGIN_SERVER})
					return
				}
				c.again(c.create)
			})
		}
		r, code := s.proposeHTTP(&offer{sendID: t.id, size: t.size, resent: true})
		if r == nil {
			refuse(code)
			return
		}
		r.posts = append(r.posts, func() bool {
			state := r.m.State()
			switch {
			case state.Ended() && state != transfer.RelayDone:
				refuse(r.m.Verdict().Code)
			case state == transfer.RelayOffered || r.m.Asking() || t.size == 0 && state != transfer.RelayDone:
				return false
			default:
				id, place := r.id, r.place
				answer(func() {
					c.id, c.place = id, place
					if t.size == 0 {
						c.success()
						return
					}
					c.head()
				})
			}
			return true
		})
		r.advance()
	}, func() { c.again(c.create) })
}

// head asks where the upload stands.
func (c *tusClient) head() {
	t := c.t
	t.head++
	c.request(c.id, func(s *server, answer func(func())) {
		r := s.rebuildHTTP(c.id, t.id, c.place, t.size)
		if r == nil {
			answer(func() { c.create() })
			return
		}
		h := &headWait{since: s.w.now, asked: -1}
		h.answer = func(e transfer.SenderLaneEnded) { answer(func() { c.headEnded(e) }) }
		r.heads = append(r.heads, h)
		r.advance()
	}, func() { c.again(c.head) })
}

func (c *tusClient) headEnded(e transfer.SenderLaneEnded) {
	switch e.End {
	case transfer.LaneConfirmed:
		if e.Offset == c.t.size {
			c.success()
			return
		}
		c.patch(e.Offset)
	case transfer.LaneNotThere, transfer.LaneBroken:
		c.again(c.head)
	default: // tus-js-client takes it for an upload that has expired
		c.again(c.create)
	}
}

// patch uploads the rest, or a piece of it.
func (c *tusClient) patch(offset int64) {
	t, w := c.t, c.t.s.w
	end := t.size
	if t.piece > 0 {
		end = min(end, offset+t.piece)
	}
	t.lanes++
	u := &upLane{w: w, t: t, lane: t.lanes, from: offset, end: end, handed: offset, came: offset, p: offset, http: true}
	t.lane = u
	w.bob.history.opened(t, offset)
	w.counts.Lanes++
	id, place := c.id, c.place
	w.after(w.delay(), func() { w.patch(u, id, place) })
	w.after(w.upTo(time.Millisecond), u.write)
}

// laneEnded is the answer to a PATCH.
func (c *tusClient) laneEnded(e transfer.SenderLaneEnded) {
	switch e.End {
	case transfer.LaneConfirmed:
		c.tries = 0
		if e.Offset == c.t.size {
			c.success()
			return
		}
		c.patch(e.Offset)
	case transfer.LaneFinal:
		c.end(transfer.SenderResult{Code: e.Code, Origin: wire.Origin_ORIGIN_SERVER})
	default:
		c.again(c.head)
	}
}

// cancel is a DELETE.
func (c *tusClient) cancel() {
	if c.id == "" || c.over {
		return
	}
	t := c.t
	t.endLane()
	c.request(c.id, func(s *server, answer func(func())) {
		r := s.rebuildHTTP(c.id, t.id, c.place, t.size)
		if r == nil {
			answer(func() { c.again(c.head) })
			return
		}
		r.step(transfer.RelayCancel{})
		since := s.w.now
		r.posts = append(r.posts, func() bool {
			state := r.m.State()
			switch {
			case state == transfer.RelayCancelled:
				answer(func() { c.end(transfer.SenderResult{Code: wire.Cancelled, Origin: wire.Origin_ORIGIN_SERVER}) })
			case state.Ended() || s.w.now.Sub(since) >= lanePatience:
				answer(func() { c.again(c.head) }) // too late, or not decided: goes on
			default:
				return false
			}
			return true
		})
		r.advance()
	}, func() { c.again(c.head) })
}

func (c *tusClient) success() {
	c.end(transfer.SenderResult{Receipt: wire.Receipt_RECEIPT_STORED, Origin: wire.Origin_ORIGIN_PEER})
}

func (c *tusClient) end(r transfer.SenderResult) {
	if c.over {
		return
	}
	c.over = true
	c.t.endLane()
	if r.Code == wire.OK {
		c.t.shown = c.t.size
	}
	c.t.tell(r)
}

// proposeHTTP takes in the offer of an HTTP sender.
func (s *server) proposeHTTP(o *offer) (*relayed, wire.Code) {
	known, listener := s.table[o.sendID], s.listener()
	if known != nil {
		taken, code := known.proposeAgain(nil, o, listener)
		if code != wire.OK {
			return nil, code
		}
		if taken {
			return known, 0
		}
	}
	if listener == nil {
		return nil, wire.PeerOffline
	}
	if s.ending {
		return nil, wire.ServiceFault
	}
	r := s.add(o.sendID, listener.place, o.size, transfer.NewRelay(httpConfig(o.size), s.w.now), known)
	r.http = true
	r.offered(nil, o)
	r.attach(listener)
	return r, 0
}

func httpConfig(size int64) transfer.RelayConfig {
	return transfer.RelayConfig{Size: size, HTTP: true, OfferWait: 45 * time.Second, Window: resumeWindow}
}
