package dian

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/dian-im/dian/internal/inbox"
	"github.com/dian-im/dian/internal/transfer"
	"github.com/dian-im/dian/internal/wire"
)

// tookEvery is the time between two looks at what a lane has brought.
const tookEvery = 50 * time.Millisecond

// An inTransfer is one incoming buffer or file with its machine.
type inTransfer struct {
	in  *incoming
	key inbox.Key
	box mailbox
	ctx context.Context // ends with the transfer
	cut context.CancelFunc

	transfer string // guarded by in.mu

	taken  atomic.Int64 // what the lanes have brought
	wanted atomic.Int64 // a Sync's offset, 0: none

	// Owned by the mailbox.
	m       *transfer.Receiver
	gone    bool // forgotten: what still comes belongs to another one
	frame   *wire.Offer
	offer   *Offer
	content store    // nil before Ready, and for content inside the offer
	release func()   // nil without a place
	untold  func()   // nil if nothing is to be told, or it is under way
	lane    *downRun // the present one, or nil
	last    *downRun // the one that may still be writing
	etag    string
	timer   *time.Timer
}

// A downRun is one down-lane.
type downRun struct {
	stop context.CancelFunc
	done chan struct{} // closed when it does not write any more
}

func (in *incoming) newTransferLocked(key inbox.Key) *inTransfer {
	x := &inTransfer{in: in, key: key}
	x.box.start = in.work
	x.ctx, x.cut = context.WithCancel(in.ctx)
	x.m = transfer.NewReceiver(transfer.ReceiverConfig{
		Record: in.record(key), Idle: in.c.resumeWindow() + idleSlack, Jitter: jitter,
	}, in.up, time.Now())
	return x
}

// post queues an event of this side.
func (x *inTransfer) post(must bool, e transfer.ReceiverEvent) {
	x.box.post(must, func() { x.step(e) })
}

// postFrame queues what a frame says. If the transfer is forgotten meanwhile the
// frame is taken in anew.
func (x *inTransfer) postFrame(f *wire.Frame, fn func()) {
	if !x.box.post(false, func() {
		if x.gone {
			x.in.frame(f)
			return
		}
		fn()
	}) {
		x.in.c.opts.log.Warn("too many frames for one transfer", "sendID", x.key.SendID)
	}
}

// offered takes in an offer, the first or a repeated one.
func (x *inTransfer) offered(o *wire.Offer) {
	if x.frame == nil {
		x.frame = o
	}
	if o.Transfer != x.m.Transfer() {
		x.etag = ""
	}
	x.step(transfer.ReceiverOffered{
		Transfer: o.Transfer, URL: o.Url, Ticket: o.Ticket, Size: o.Size, Inlined: o.Inlined, Digest: o.Digest,
	})
}

// step moves the machine and does what it says.
func (x *inTransfer) step(e transfer.ReceiverEvent) {
	if x.gone || x.in.ctx.Err() != nil {
		return
	}
	for _, a := range append([]transfer.ReceiverAction(nil), x.m.Step(time.Now(), e)...) {
		x.do(a)
		if x.gone {
			return
		}
	}
	// The lane tells what it took now and then, and at once what is wanted. What it
	// took before it knew of the wish is asked for here.
	sync := x.m.SyncAt()
	x.wanted.Store(sync)
	if at := x.taken.Load(); sync > 0 && at >= sync && at > x.m.Offset() {
		x.took()
		return
	}
	if x.m.State().Ended() {
		x.free()
		x.content = nil // kept, left or dropped
		if x.frame != nil {
			x.frame.Inline = nil
		}
	}
	if at, ok := x.m.Wake(); ok {
		wait := max(time.Until(at), 0)
		if x.timer == nil {
			x.timer = time.AfterFunc(wait, func() { x.post(true, transfer.ReceiverTick{}) })
		} else {
			x.timer.Reset(wait)
		}
	}
}

func (x *inTransfer) do(a transfer.ReceiverAction) {
	in := x.in
	switch a.Do {
	case transfer.ReceiverSendAnswer:
		in.send(&wire.Frame{Body: &wire.Frame_Answer{Answer: &wire.Answer{
			Transfer: a.Transfer, Decision: a.Decision, Offset: a.Offset,
			Code: uint32(a.Verdict.Code), Receipt: a.Verdict.Receipt, Detail: a.Verdict.Detail,
		}}})
	case transfer.ReceiverSendReceived:
		if a.Mark && x.content != nil {
			if err := x.content.Mark(); err != nil {
				x.broke(err)
				return
			}
		}
		in.send(&wire.Frame{Body: &wire.Frame_Received{Received: &wire.Received{Transfer: a.Transfer, Offset: a.Offset}}})
	case transfer.ReceiverSendVerdict:
		in.send(&wire.Frame{Body: &wire.Frame_Verdict{Verdict: &wire.Verdict{
			SendId: x.key.SendID, Transfer: a.Transfer, Code: uint32(a.Verdict.Code), Receipt: a.Verdict.Receipt,
			Detail: a.Verdict.Detail, LengthOnly: a.Verdict.LengthOnly,
		}}})
	case transfer.ReceiverSendStanding:
		in.send(&wire.Frame{Body: &wire.Frame_Standing{Standing: &wire.Standing{
			Transfer: a.Transfer, SendId: x.key.SendID, State: a.Standing, Offset: a.Offset, Size: a.Length,
			Code: uint32(a.Verdict.Code), Receipt: a.Verdict.Receipt, Detail: a.Verdict.Detail,
		}}})
	case transfer.ReceiverAsk:
		x.ask()
	case transfer.ReceiverPrepare:
		x.prepare()
	case transfer.ReceiverOpenLane:
		x.openLane(a)
	case transfer.ReceiverEndLane:
		x.endLane()
	case transfer.ReceiverVerify:
		v := x.verify()
		x.post(true, transfer.ReceiverKept{Verdict: v})
	case transfer.ReceiverDrop:
		x.drop(a.Record)
	case transfer.ReceiverLeave:
		x.leave()
	case transfer.ReceiverWithdrawn:
		if x.offer != nil {
			x.offer.finish()
		}
	case transfer.ReceiverNotifyCancel:
		if h := in.c.opts.handler.NotifyCancelSend; h != nil {
			n := CancelNotice{SendID: x.key.SendID, Source: x.key.Source, Kind: x.offer.Kind}
			over := x.untold
			if x.untold = nil; over == nil && in.untold.take(in.ctx, 1) {
				over = func() { in.untold.give(1) }
			}
			in.c.notify(func() {
				h(n)
				if over != nil {
					over()
				}
			})
		}
	case transfer.ReceiverForget:
		in.forget(x)
		x.gone = true
		x.free()
		x.end()
	}
}

// ask asks the application, or answers for it.
func (x *inTransfer) ask() {
	in := x.in
	rec := in.record(x.key)
	received := int64(0)
	if rec.State == wire.TransferState_TRANSFER_STATE_PARTIAL && rec.Size == x.frame.Size {
		received = rec.Offset
	}
	in.mu.Lock()
	before := in.kept[x.key]
	delete(in.kept, x.key)
	in.mu.Unlock()
	if before != nil && before.Size == x.frame.Size && before.Kind == newOffer(x.frame, 0).Kind {
		x.offer = before
		before.attach(x)
		x.post(true, before.choice())
		return
	}
	x.offer = newOffer(x.frame, received)
	x.offer.attach(x)
	h := &in.c.opts.handler
	hook, told := h.AcceptFile, h.NotifyFileData != nil
	if x.offer.Kind == Buffer {
		hook, told = h.AcceptBuffer, h.NotifyBufferData != nil
	}
	switch {
	case hook != nil:
		go hook(x.offer) // the application's; it may take minutes, or close the client
	case told:
		x.offer.Accept()
	default:
		x.offer.Refuse(ErrPeerRefused, "nothing is received here")
	}
}

// openLane opens a down-lane, after the one before has written its last byte.
func (x *inTransfer) openLane(a transfer.ReceiverAction) {
	x.endLane()
	ctx, stop := context.WithCancel(x.ctx)
	before, run := x.last, &downRun{stop, make(chan struct{})}
	x.lane, x.last = run, run
	s, size := x.content, x.frame.Size
	d := downRequest{path: x.m.URL(), ticket: x.m.Ticket(), etag: x.etag, size: size, length: a.Length}
	var last time.Time
	d.write = func(p []byte, offset int64) error {
		if err := s.WriteAt(p, offset); err != nil {
			return err
		}
		at := offset + int64(len(p))
		x.taken.Store(at)
		sync := x.wanted.Load()
		if now := time.Now(); at == size || sync > 0 && at >= sync || now.Sub(last) >= tookEvery {
			last = now
			x.box.post(false, x.took)
		}
		return nil
	}
	x.in.work(func() {
		defer close(run.done)
		defer stop()
		if before != nil {
			<-before.done
		}
		d.offset = s.Offset()
		end, etag, err := transfer.LaneWhole, "", error(nil)
		if d.offset < size {
			end, etag, err = x.in.c.downLane(ctx, d)
		}
		x.box.post(true, func() {
			x.took()
			if err != nil && x.lane == run {
				x.broke(err)
			}
			if etag != "" && x.lane == run {
				x.etag = etag
			}
			if end == transfer.LaneGone && x.lane == run {
				x.etag = "" // whatever comes next is taken as it is
			}
			x.step(transfer.ReceiverLaneEnded{Lane: a.Lane, End: end})
		})
	})
}

func (x *inTransfer) took() { x.step(transfer.ReceiverTook{Offset: x.taken.Load()}) }

func (x *inTransfer) endLane() {
	if x.lane != nil {
		x.lane.stop()
		x.lane = nil
	}
}

// end stops what belongs to the transfer. What is here in part is kept.
func (x *inTransfer) end() {
	x.endLane()
	x.cut()
	if x.timer != nil {
		x.timer.Stop()
	}
	if x.content != nil && x.in.ctx.Err() != nil {
		x.content.Close()
		x.content = nil
	}
	if x.offer != nil && x.in.ctx.Err() != nil {
		x.offer.finish()
	}
}
