package dian

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/dian-im/dian/internal/transfer"
	"github.com/dian-im/dian/internal/wire"
	"github.com/dian-im/dian/internal/x3b"
)

const (
	wroteEvery = 50 * time.Millisecond // between two looks at what a lane was handed
	offerWait  = 2 * time.Minute       // the server's, if it does not say
	laneLinger = 5 * time.Second       // for a lane's answer after the verdict
)

// An outTransfer is one task with its machine.
type outTransfer struct {
	o     *outgoing
	t     *Task
	src   *source
	small bool
	box   mailbox

	// Guarded by o.mu.
	begun    bool
	slot     bool // counted in o
	transfer string

	// Owned by the mailbox.
	m         *transfer.Sender // nil before the source is open, or if it failed
	offer     *wire.Offer
	digest    *wire.Digest
	failure   *Error // the source's fault
	over      bool
	ctx       context.Context // ends when the machine is over
	stop      context.CancelFunc
	lane      context.CancelFunc // ends the present lane; nil if there is none
	handed    func() bool        // whether the connection was handed all that the lane is to send
	timer     *time.Timer
	ended     chan struct{} // closed with over
	prehashed bool
}

// post queues what a frame says. Received may be dropped: the next one says more.
func (x *outTransfer) post(e transfer.SenderEvent) {
	if !x.box.post(false, func() { x.step(e) }) {
		x.o.c.opts.log.Warn("too many frames for one transfer", "sendID", x.t.id)
	}
}

// begin opens the source and starts the machine.
func (x *outTransfer) begin(up bool) {
	t := x.t
	if x.over || t.ended() {
		x.abandon()
		return
	}
	x.offer = &wire.Offer{
		SendId: t.id, Target: t.target, Kind: wireKind(t.kind), Size: x.src.size,
		Name: t.opts.name, Type: t.opts.typ, Meta: t.opts.meta,
	}
	if t.opts.instance != nil {
		x.offer.Instance = t.opts.instance[:]
	}
	err := x.src.open()
	if err == nil && x.small {
		x.offer.Inlined = true
		x.offer.Inline, err = x.src.whole()
		sum := x3b.Bytes(x.offer.Inline)
		x.offer.Digest = &wire.Digest{Algorithm: wire.DigestX3B, Value: sum[:]}
	}
	if err != nil {
		x.src.close()
		t.finish(Result{Err: t.sourceFault(err)})
		x.abandon()
		return
	}
	if x.small {
		x.src.close() // all of it is in the offer
	}
	limits := x.o.c.welcome().GetLimits()
	wait := offerWait
	if ms := limits.GetOfferWaitMs(); ms > 0 {
		wait = time.Duration(min(ms, int64(24*time.Hour/time.Millisecond))) * time.Millisecond
	}
	x.m = transfer.NewSender(transfer.SenderConfig{
		Size: x.src.size, Inlined: x.small, Reused: t.opts.sendID != "",
		Window: x.o.c.resumeWindow(), OfferWait: wait, PeerWait: t.opts.wait, Jitter: jitter,
	}, time.Now())
	x.timer = time.AfterFunc(time.Hour, func() { x.box.post(true, func() { x.step(transfer.SenderTick{}) }) })
	x.o.c.go_(x.watch)
	if up {
		x.step(transfer.SenderLineUp{})
	} else {
		x.step(transfer.SenderLineDown{})
	}
}

// watch ends the machine when its task was given a result by somebody else.
func (x *outTransfer) watch() {
	select {
	case <-x.t.Done():
		x.box.post(true, func() {
			if x.m != nil && !x.m.State().Ended() {
				x.abandon()
			}
		})
	case <-x.ended:
	}
}

// abandon ends the machine without a word.
func (x *outTransfer) abandon() {
	if x.over {
		return
	}
	x.over = true
	x.endLane()
	x.src.close()
	x.stop()
	if x.timer != nil {
		x.timer.Stop()
	}
	close(x.ended)
	x.o.forget(x)
	x.o.release(x)
}

func (x *outTransfer) endLane() {
	if x.lane != nil {
		x.lane()
		x.lane = nil
	}
}

// leaveLane ends a lane whose transfer is delivered. Its answer is on its way, on another
// connection than the verdict: it is waited for, so that the next lane can use this one.
func (x *outTransfer) leaveLane() {
	if x.lane != nil && x.handed() {
		time.AfterFunc(laneLinger, x.lane)
		x.lane = nil
		x.o.c.net.ahead.keeps()
	}
	x.endLane()
}

// step moves the machine and does what it says.
func (x *outTransfer) step(e transfer.SenderEvent) {
	if x.over || x.m == nil {
		return
	}
	actions := append([]transfer.SenderAction(nil), x.m.Step(time.Now(), e)...)
	if place := x.m.Instance(); len(place) == 16 {
		x.t.setPeer([16]byte(place))
	}
	for _, a := range actions {
		x.do(a)
		if x.over {
			return
		}
	}
	x.t.setState(x.taskState())
	if x.m.Over() {
		x.abandon()
		return
	}
	if at, ok := x.m.Wake(); ok {
		x.timer.Reset(max(time.Until(at), 0))
	}
}

func (x *outTransfer) taskState() TaskState {
	switch {
	case x.m.State() == transfer.SenderVerifying:
		return TaskVerifying
	case x.m.Waiting():
		return TaskWaiting
	}
	return TaskSending
}

func (x *outTransfer) do(a transfer.SenderAction) {
	c := x.o.c
	switch a.Do {
	case transfer.SenderSendOffer:
		if place := x.m.Instance(); place != nil && x.t.opts.instance == nil {
			x.offer.Instance = place
		}
		x.offer.Resent = a.Resent
		x.send(&wire.Frame{Body: &wire.Frame_Offer{Offer: x.offer}})
		if !x.small {
			c.prepareLane()
		}
	case transfer.SenderSendFinish:
		x.send(&wire.Frame{Body: &wire.Frame_Finish{Finish: &wire.Finish{Transfer: x.m.Transfer(), Digest: x.digest}}})
	case transfer.SenderSendAck:
		x.o.ack(a.Transfer)
	case transfer.SenderSendCancel:
		x.send(&wire.Frame{Body: &wire.Frame_Cancel{Cancel: &wire.Cancel{SendId: x.t.id, Transfer: x.m.Transfer()}}})
	case transfer.SenderOpenLane:
		x.openLane(a)
	case transfer.SenderAskHead:
		ctx, over := x.laneContext(func() bool { return true })
		path := x.m.URL()
		x.work(func() {
			defer over()
			end := c.headLane(ctx, path)
			end.Lane = a.Lane
			x.box.post(true, func() { x.step(end) })
		})
	case transfer.SenderEndLane:
		if x.m.State() == transfer.SenderDone {
			x.leaveLane()
		} else {
			x.endLane()
		}
	case transfer.SenderDigest:
		x.work(x.findDigest)
	case transfer.SenderProgress:
		x.t.progress(a.Offset, x.src.size)
	case transfer.SenderTell:
		x.tell()
	}
}

// send queues a frame. Without a session it is said again after the next lineUp.
func (x *outTransfer) send(f *wire.Frame) { _ = x.o.c.sendFrame(f) }

// work runs fn beside the mailbox. Close waits for it.
func (x *outTransfer) work(fn func()) { x.o.c.go_(fn) }

// laneContext is of a new lane or HEAD, which may outlive the machine (see leaveLane) and
// calls over at its end.
func (x *outTransfer) laneContext(handed func() bool) (ctx context.Context, over context.CancelFunc) {
	x.endLane()
	ctx, over = context.WithCancel(x.o.c.ctx)
	x.lane, x.handed = over, handed
	return ctx, over
}

func (x *outTransfer) openLane(a transfer.SenderAction) {
	c := x.o.c
	end := a.Offset + a.Length
	var wrote atomic.Int64 // what this lane was handed
	wrote.Store(a.Offset)
	ctx, over := x.laneContext(func() bool { return wrote.Load() == end })
	path := x.m.URL()
	if a.Offset >= x3b.BlockSize && !x.prehashed {
		// What the receiver has from before is hashed beside the sending.
		x.prehashed = true
		x.work(func() { x.fault(x.src.fill(x.ctx, a.Offset-a.Offset%x3b.BlockSize, false)) })
	}
	tell := func() {
		x.box.post(false, func() { x.step(transfer.SenderWrote{Lane: a.Lane, Offset: wrote.Load()}) })
	}
	progress := func(offset int64) {
		wrote.Store(offset)
		if offset == end {
			tell()
		}
	}
	x.work(func() { // by the clock, because no read may follow on the one behind which the lane stalls
		tick := time.NewTicker(wroteEvery)
		defer tick.Stop()
		for told := a.Offset; ; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if at := wrote.Load(); at != told {
				told = at
				tell()
			}
		}
	})
	x.work(func() {
		defer over()
		if a.Offset > 0 {
			if _, err := x.src.check(); err != nil { // it may have changed meanwhile
				x.fault(err)
				return
			}
		}
		ended, err := c.upLane(ctx, path, x.src, a.Offset, a.Length, progress)
		ended.Lane = a.Lane
		x.fault(err)
		if err == nil {
			// A read may not have been told of: the mailbox was full.
			at := wrote.Load()
			x.box.post(true, func() {
				x.step(transfer.SenderWrote{Lane: a.Lane, Offset: at})
				x.step(ended)
			})
		}
	})
}

// findDigest hashes what no lane has read and looks at the file a last time.
func (x *outTransfer) findDigest() {
	d, err := x.src.digest(x.ctx)
	if err != nil {
		x.fault(err)
		return
	}
	x.box.post(true, func() {
		x.digest = d
		x.step(transfer.SenderDigested{})
	})
}

// fault ends the task because of its source. Other errors are of a closed one.
func (x *outTransfer) fault(err error) {
	s, ok := errors.AsType[*sourceError](err)
	if !ok {
		return
	}
	x.box.post(true, func() {
		if x.failure == nil {
			x.failure = x.t.sourceFault(err)
		}
		x.step(transfer.SenderSourceFailed{Code: wire.Code(s.code), Detail: s.detail})
	})
}

// tell gives the task its result.
func (x *outTransfer) tell() {
	x.src.close()
	r := x.m.Result()
	result := Result{Receipt: receiptOf(r.Receipt), LengthOnly: r.LengthOnly, Size: x.src.size}
	if r.Code != wire.OK {
		result.Receipt, result.LengthOnly = None, false
		err := &Error{Op: x.t.op(), Peer: x.t.target, Origin: ownOrigin(r.Origin), Code: Code(r.Code), Detail: r.Detail}
		if x.failure != nil && x.failure.Code == err.Code {
			err = x.failure
		}
		result.Err = err
	} else if result.Receipt == None {
		result.Receipt = Handed // a minimal receiver does not say more
	}
	x.t.finish(result)
	x.o.release(x)
}

func wireKind(k Kind) wire.Kind {
	if k == Buffer {
		return wire.Kind_KIND_BUFFER
	}
	return wire.Kind_KIND_FILE
}

// jitter is a random time from 0 to d.
func jitter(d time.Duration) time.Duration { return rand.N(d + 1) }

func receiptOf(r wire.Receipt) Receipt {
	switch r {
	case wire.Receipt_RECEIPT_STORED:
		return Stored
	case wire.Receipt_RECEIPT_HANDED:
		return Handed
	}
	return None
}
