package sim

import (
	"time"

	"github.com/dian-im/dian/internal/transfer"
	"github.com/dian-im/dian/internal/wire"
)

// Bytes are intervals of the source: what flows is where it comes from, and the
// receiver writes what the source has there. A relay that drops one byte too many
// delivers wrong content, as it would in life.

// An upLane is a PATCH.
type upLane struct {
	w      *world
	t      *outTask // the sender's side
	lane   int
	from   int64
	end    int64
	r      *relayed  // nil until the request has arrived
	dead   bool      // broken, or answered
	http   bool      // of an HTTP sender
	entry  *server   // the node that it came in at, if it may be carried on
	handed int64     // what the sender has written
	came   int64     // what has arrived at the server
	p      int64     // what the server has taken
	last   time.Time // when the last byte arrives

	into   *downLane // where its bytes went
	waits  time.Time // since when the server waits for the other side
	synced bool      // it has asked for the receiver's word
}

// laneBuffer is what is under way at most in one direction, in bytes.
func (w *world) laneBuffer() int64 { return w.alice.buffer }

// write is the sender's pump: it hands bytes over as long as there is room.
func (u *upLane) write() {
	if u.dead || !u.t.s.living() || u.t.lane != u {
		return
	}
	if u.handed < u.end && u.handed-u.p < u.w.laneBuffer() {
		n := min(u.end-u.handed, 1+u.w.random.Int64N(u.w.laneBuffer()), u.w.laneBuffer()-(u.handed-u.p))
		u.handed += n
		u.t.sent(u.handed-n, u.handed)
		to := u.handed
		u.last = maxTime(u.last, u.w.now.Add(u.w.delay()))
		u.w.at(u.last, func() { u.through(func() { u.arrived(to) }) })
		u.t.step(transfer.SenderWrote{Lane: u.lane, Offset: u.handed})
		if u.dead || u.t.lane != u {
			return
		}
		if u.handed < u.end {
			u.w.after(u.w.upTo(u.w.latency/4+time.Millisecond), u.write)
		}
	}
}

// through runs fn at the server, which bytes reach through the node of their entry.
func (u *upLane) through(fn func()) {
	last := fn
	if u.r != nil {
		last = func() { u.r.s.do(fn) }
	}
	if u.entry == nil {
		last()
		return
	}
	u.entry.do(last)
}

// arrived says that bytes are at the server.
func (u *upLane) arrived(to int64) {
	if u.dead {
		return
	}
	if u.came = max(u.came, to); u.r != nil && u.r.s.alive { // else the request has yet to arrive
		u.r.advance()
	}
}

// breakOff cuts the lane's connection.
func (u *upLane) breakOff() {
	if u.dead {
		return
	}
	u.dead = true
	w := u.w
	if u.r != nil {
		r := u.r
		r.s.after(w.delay(), func() { r.upGone(u) })
	}
	w.after(w.delay(), func() { u.t.laneEnded(u, transfer.SenderLaneEnded{Lane: u.lane, End: transfer.LaneBroken}) })
}

// upGone takes a lane off that has ended.
func (r *relayed) upGone(u *upLane) {
	if r.up == u && r.s.alive {
		r.up = nil
		r.step(transfer.RelayUpEnded{})
	}
}

// finish answers the lane.
func (u *upLane) finish(e transfer.SenderLaneEnded) {
	if u.dead {
		return
	}
	u.dead = true
	e.Lane = u.lane
	u.w.note("  up-lane %d of %s is answered: %+v", u.lane, u.t.id, e)
	u.w.after(u.w.delay(), func() { u.t.laneEnded(u, e) })
	if u.r != nil {
		u.r.upGone(u)
	}
}

// overOutcome is the answer after the transfer's end.
func (u *upLane) overOutcome() transfer.SenderLaneEnded {
	if u.r.m.State() == transfer.RelayDone {
		return transfer.SenderLaneEnded{End: transfer.LaneConfirmed, Offset: u.r.size}
	}
	return finalEnd(u.r.m.Verdict().Code)
}

// finalEnd is what the SDK makes of a problem document with this code.
func finalEnd(code wire.Code) transfer.SenderLaneEnded {
	switch code {
	case wire.BadSendID, wire.PeerOffline: // 404
		return transfer.SenderLaneEnded{End: transfer.LaneGone, Code: code}
	case wire.ConnectionLost: // 423
		return transfer.SenderLaneEnded{End: transfer.LaneNotThere}
	case wire.WrongLoginState: // 409
		return transfer.SenderLaneEnded{End: transfer.LaneConflict}
	case wire.PeerBusy, wire.OverLimit, wire.ServiceFault: // 503
		return transfer.SenderLaneEnded{End: transfer.LaneBroken}
	}
	return transfer.SenderLaneEnded{End: transfer.LaneFinal, Code: code}
}

// patch makes an up-lane's request of a node.
func (w *world) patch(u *upLane, id, place string) {
	s := w.dial()
	if u.dead {
		return
	}
	if !s.alive {
		u.breakOff()
		return
	}
	if s.cluster != nil {
		u.entry = s
	}
	s.do(func() {
		s.handle(&request{
			id: id, over: func() bool { return u.dead }, serve: func(s *server) { s.patch(u, id, place) },
			broken: func() { u.finish(transfer.SenderLaneEnded{End: transfer.LaneBroken}) },
		})
	})
}

// patch takes in an up-lane's request.
func (s *server) patch(u *upLane, id, place string) {
	if u.dead {
		return
	}
	rebuild := s.rebuild
	if u.http {
		rebuild = s.rebuildHTTP
	}
	r := rebuild(id, u.t.id, place, u.t.size)
	if r == nil {
		u.finish(transfer.SenderLaneEnded{End: transfer.LaneGone})
		return
	}
	if r.up != nil {
		r.up.finish(transfer.SenderLaneEnded{End: transfer.LaneConflict})
	}
	u.r, u.waits = r, s.w.now
	r.up = u
	r.step(transfer.RelayUpJoined{})
}

// A downLane is a GET.
type downLane struct {
	w       *world
	x       *inTask // the receiver's side
	lane    int
	r       *relayed
	at      int64 // where the server stands
	end     int64
	bounded bool
	dead    bool
	since   time.Time
	flying  int64
	entry   *server   // the node that it came in at, if it may be carried on
	last    time.Time // when the last byte arrives
	wrote   int64     // where the receiver stands
	sent    bool      // the head of the response has gone out
}

func (d *downLane) whole() bool { return d.at == d.end }

// breakOff cuts the lane's connection.
func (d *downLane) breakOff() {
	if d.dead {
		return
	}
	d.dead = true
	w := d.w
	if d.r != nil {
		r := d.r
		r.s.after(w.delay(), func() { r.downGone(d) })
	}
	w.after(w.delay(), func() { d.x.laneEnded(d, transfer.LaneBroken) })
}

// downGone takes a lane off that has ended.
func (r *relayed) downGone(d *downLane) {
	if r.down != d || !r.s.alive {
		return
	}
	r.down = nil
	whole := d.whole()
	r.step(transfer.RelayDownEnded{})
	if !whole && r.up != nil && r.up.into == d {
		r.up.finish(transfer.SenderLaneEnded{End: transfer.LaneConflict}) // what was under way is lost
	}
}

// endDown ends the down-lane from the server's side.
func (r *relayed) endDown(end transfer.LaneEnd) {
	d := r.down
	if d == nil {
		return
	}
	if end == transfer.LaneOver && d.sent {
		end = transfer.LaneBroken // it was answered before, and only stops short
	}
	d.close(end)
	r.downGone(d)
}

// close ends the lane behind the bytes that are under way.
func (d *downLane) close(end transfer.LaneEnd) {
	if d.dead {
		return
	}
	d.dead = true
	d.w.at(maxTime(d.last, d.w.now.Add(d.w.delay())), func() { d.x.laneEnded(d, end) })
}

// get makes a down-lane's request of a node.
func (w *world) get(d *downLane, id string, ticket int) {
	s := w.dial()
	if d.dead {
		return
	}
	if !s.alive {
		d.breakOff()
		return
	}
	if s.cluster != nil {
		d.entry = s
	}
	s.do(func() {
		s.handle(&request{
			id: id, over: func() bool { return d.dead }, serve: func(s *server) { s.get(d, id, ticket) },
			broken: func() { d.close(transfer.LaneNothing) },
		})
	})
}

// get takes in a down-lane's request.
func (s *server) get(d *downLane, id string, ticket int) {
	if d.dead {
		return
	}
	r := s.ids[id]
	if r == nil || r.ticket == 0 || r.ticket != ticket {
		end := transfer.LaneGone
		if s.cluster != nil && s.w.makers[ticket] != s {
			end = transfer.LaneNothing // only the node that has made it knows
		}
		d.close(end)
		return
	}
	if r.m.State().Ended() {
		d.close(transfer.LaneOver)
		return
	}
	if older := r.down; older != nil {
		r.endDown(transfer.LaneBroken)
	}
	d.r, d.since, d.sent = r, s.w.now, !d.bounded
	r.down = d
	r.step(transfer.RelayDownJoined{At: d.at})
}

// feed moves what can be moved from the up-lane to the down-lane and says whether
// anything was.
func (r *relayed) feed(u *upLane, d *downLane) bool {
	n := min(u.came-u.p, d.end-d.at, r.s.w.laneBuffer()-d.flying)
	if n <= 0 {
		return false
	}
	d.sent = true
	source := u.p
	u.p += n
	d.at += n
	d.flying += n
	d.last = maxTime(d.last, r.s.w.now.Add(r.s.w.delay()))
	r.s.w.at(d.last, func() { d.through(func() { d.arrived(source, n) }) })
	r.step(transfer.RelayCopied{N: n})
	if !u.dead {
		r.s.w.after(0, u.write)
	}
	return true
}

// through runs fn at the receiver, whom bytes reach through the node of their entry.
func (d *downLane) through(fn func()) {
	if d.entry == nil {
		fn()
		return
	}
	d.entry.do(fn)
}

// breakCarried breaks the lanes that a node has carried on.
func (w *world) breakCarried(s *server) {
	if s.cluster == nil {
		return
	}
	for _, t := range w.alice.tasks {
		if u := t.lane; u != nil && u.entry == s {
			u.breakOff()
		}
		for _, b := range w.receivers() {
			if x := b.all[t.id]; x != nil && x.lane != nil && x.lane.entry == s {
				x.lane.breakOff()
			}
		}
	}
}

// arrived says that bytes of the source are at the receiver.
func (d *downLane) arrived(source, n int64) {
	if d.x.lane != d || !d.x.b.living() {
		return
	}
	d.flying -= n
	if !d.x.wrote(d, source, n) {
		return
	}
	if d.wrote == d.end {
		d.dead = true
		d.x.laneEnded(d, transfer.LaneWhole)
	}
	if d.r != nil {
		d.r.s.do(d.r.advance)
	}
}
