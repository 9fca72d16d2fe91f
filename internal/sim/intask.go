package sim

import (
	"errors"
	"time"

	"github.com/dian-im/dian/internal/inbox"
	"github.com/dian-im/dian/internal/transfer"
	"github.com/dian-im/dian/internal/wire"
)

// An inTask is one buffer or file that comes in.
type inTask struct {
	b      *receiver
	sendID string
	m      *transfer.Receiver
	id     string
	ticket int
	offer  *offer // nil before an offer, or what the inbox remembers
	part   *inbox.Part
	lane   *downLane
	wake   int
	gone   bool
}

// toRelay sends what becomes an event of the transfer's machine.
func (x *inTask) toRelay(id string, e transfer.RelayEvent) {
	x.b.send(func(s *server, l *line) {
		if r := s.ids[id]; r != nil && r.place == l.place {
			r.step(e)
		}
	})
}

func (x *inTask) step(e transfer.ReceiverEvent) {
	w := x.b.w
	if x.gone || !x.b.living() {
		return
	}
	before := x.m.State()
	actions := append([]transfer.ReceiverAction(nil), x.m.Step(w.now, e)...)
	if _, tick := e.(transfer.ReceiverTick); w.tracing && (!tick || len(actions) > 0) {
		w.note("bob %s: %s in %v, now %v at %d", x.sendID, describe(e), before, x.m.State(), x.m.Offset())
	}
	for _, a := range actions {
		x.do(a)
		if x.gone || !x.b.living() {
			return
		}
	}
	if x.m.State().Ended() {
		x.part = nil
	}
	if at, ok := x.m.Wake(); ok {
		x.wake++
		wake, life := x.wake, x.b.life
		w.at(maxTime(at, w.now), func() {
			if x.wake == wake && x.b.life == life {
				x.step(transfer.ReceiverTick{})
			}
		})
	}
}

// later runs fn in this life, unless the task is forgotten.
func (x *inTask) later(d time.Duration, fn func()) {
	life := x.b.life
	x.b.w.after(d, func() {
		if x.b.life == life && x.b.living() && !x.gone {
			fn()
		}
	})
}

func (x *inTask) do(a transfer.ReceiverAction) {
	b, w := x.b, x.b.w
	switch a.Do {
	case transfer.ReceiverSendAnswer:
		x.toRelay(a.Transfer, transfer.RelayAnswered{Decision: a.Decision, Offset: a.Offset, Verdict: relayVerdict(a.Verdict)})
	case transfer.ReceiverSendReceived:
		if a.Mark && x.part != nil {
			if err := x.part.Mark(); err != nil {
				x.broke(err)
				return
			}
			b.history.marked(x.sendID, x.part.Offset())
		}
		x.toRelay(a.Transfer, transfer.RelayReceived{Offset: a.Offset})
	case transfer.ReceiverSendVerdict:
		id, v := a.Transfer, a.Verdict
		b.send(func(s *server, l *line) { s.judged(l, id, v) })
	case transfer.ReceiverSendStanding:
		x.toRelay(a.Transfer, transfer.RelayStanding{State: a.Standing, Offset: a.Offset, Size: a.Length, Verdict: relayVerdict(a.Verdict)})
	case transfer.ReceiverAsk:
		x.ask()
	case transfer.ReceiverPrepare:
		x.later(w.upTo(10*time.Millisecond), x.prepare)
	case transfer.ReceiverOpenLane:
		x.openLane(a)
	case transfer.ReceiverEndLane:
		x.endLane()
	case transfer.ReceiverVerify:
		v := x.verify()
		x.later(0, func() { x.step(transfer.ReceiverKept{Verdict: v}) })
	case transfer.ReceiverDrop:
		x.drop(a.Record)
	case transfer.ReceiverLeave:
		x.endLane()
		if x.part != nil {
			x.part.Close()
			x.part = nil
		}
	case transfer.ReceiverNotifyCancel:
		b.history.cancelNotice(x.sendID)
	case transfer.ReceiverForget:
		if b.all[x.sendID] == x {
			delete(b.all, x.sendID)
		}
		if b.ids[x.id] == x {
			delete(b.ids, x.id)
			b.names[x.id] = x.sendID
		}
		x.gone = true
		x.endLane()
		if x.part != nil {
			x.part.Close()
			x.part = nil
		}
	}
}

// ask asks the application. It refuses some, and cancels some later.
func (x *inTask) ask() {
	w := x.b.w
	plan := w.plan(x.sendID)
	x.later(w.upTo(plan.thinks), func() {
		if plan.refuses {
			x.step(transfer.ReceiverRefuse{Code: wire.PeerRefused})
			return
		}
		x.step(transfer.ReceiverAccept{Receipt: wire.Receipt_RECEIPT_STORED})
	})
	if plan.stops > 0 {
		x.later(w.upTo(plan.stops), func() { x.step(transfer.ReceiverStop{}) })
	}
}

func (x *inTask) info() inbox.Info { return inbox.Info{Size: x.offer.size, Name: "film.bin"} }

func (x *inTask) prepare() {
	if x.m.State() != transfer.ReceiverPreparing {
		return
	}
	if x.offer.inlined {
		x.step(transfer.ReceiverReady{})
		return
	}
	part, err := x.b.box.Begin(key(x.sendID), x.info())
	if x.b.dying {
		return
	}
	if err != nil {
		x.broke(err)
		return
	}
	x.part = part
	x.b.keepTime()
	x.b.history.resumed(x.sendID, part.Offset())
	x.step(transfer.ReceiverReady{Offset: part.Offset()})
}

func (x *inTask) broke(err error) {
	if x.b.dying {
		return
	}
	code := wire.FileWrite
	switch {
	case errors.Is(err, inbox.ErrNoSpace):
		code = wire.NoSpace
	case errors.Is(err, inbox.ErrOffset), errors.Is(err, inbox.ErrEnded):
		return
	case errors.Is(err, inbox.ErrCancelled):
		code = wire.Cancelled
	}
	x.b.w.note("bob %s: %v", x.sendID, err)
	x.step(transfer.ReceiverBroke{Code: code})
}

func (x *inTask) openLane(a transfer.ReceiverAction) {
	w := x.b.w
	x.endLane()
	at := x.part.Offset()
	d := &downLane{w: w, x: x, lane: a.Lane, at: at, wrote: at, end: x.offer.size, bounded: a.Length > 0}
	if a.Length > 0 {
		d.end = min(d.end, at+a.Length)
	}
	x.lane = d
	id, ticket := x.id, x.ticket
	w.after(w.delay(), func() { w.get(d, id, ticket) })
}

func (x *inTask) endLane() {
	if d := x.lane; d != nil {
		x.lane = nil
		d.breakOff()
	}
}

func (x *inTask) laneEnded(d *downLane, end transfer.LaneEnd) {
	if x.lane != d || !x.b.living() {
		return
	}
	x.lane = nil
	x.step(transfer.ReceiverLaneEnded{Lane: d.lane, End: end})
}

// wrote takes in n bytes of the source, and reports whether the lane goes on.
func (x *inTask) wrote(d *downLane, source, n int64) bool {
	if x.part == nil {
		return false
	}
	content := x.b.w.content(x.sendID)
	_, err := x.part.WriteAt(content[source:source+n], d.wrote)
	if x.b.dying {
		return false
	}
	if err != nil {
		x.broke(err)
		return false
	}
	d.wrote += n
	if l := x.b.line; d.r == nil || l == nil || d.r.s == l.srv {
		x.b.history.stands(x.sendID, d.wrote) // else his node cannot know
	}
	x.step(transfer.ReceiverTook{Offset: d.wrote})
	return x.lane == d && x.b.living()
}

// verify checks and keeps, and has the application told: in this order, and the
// sender last.
func (x *inTask) verify() transfer.ReceiverVerdict {
	w := x.b.w
	v := transfer.ReceiverVerdict{Receipt: wire.Receipt_RECEIPT_STORED}
	var f *inbox.File
	var err error
	d := x.m.Digest()
	if x.offer.inlined {
		content := w.content(x.sendID)
		f, err = x.b.box.Put(key(x.sendID), x.info(), content)
	} else {
		if err = x.part.Verify(d.GetAlgorithm(), d.GetValue()); err != nil {
			x.b.history.forgets(x.sendID)
			x.part.Drop()
		} else {
			f, err = x.part.Keep()
		}
	}
	switch {
	case x.b.dying:
	case errors.Is(err, inbox.ErrHave):
	case errors.Is(err, inbox.ErrDigest):
		w.fail("%s: the content is wrong at the receiver: %v", x.sendID, err)
		v = transfer.ReceiverVerdict{Code: wire.DigestMismatch}
	case errors.Is(err, inbox.ErrNoSpace):
		v = transfer.ReceiverVerdict{Code: wire.NoSpace}
	case err != nil:
		w.note("bob %s: %v", x.sendID, err)
		v = transfer.ReceiverVerdict{Code: wire.FileWrite}
	default:
		x.b.tell(f)
	}
	return v
}

func (x *inTask) drop(record bool) {
	x.endLane()
	x.b.history.forgets(x.sendID)
	if x.part != nil {
		x.part.Drop()
		x.part = nil
	}
	if record {
		if err := x.b.box.Cancelled(key(x.sendID), uint32(wire.Cancelled)); err != nil {
			x.b.w.note("bob %s: cancelled: %v", x.sendID, err)
			x.b.history.of(x.sendID).forgettable = x.b.life
		}
	}
}
