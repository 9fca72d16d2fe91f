package dian

import (
	"context"
	"errors"
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
	content store // nil before Ready, and for content inside the offer
	release func()
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
			in.c.notify(func() { h(n) })
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

// prepare waits for the transfer's turn and finds a place for its bytes.
func (x *inTransfer) prepare() {
	x.in.work(func() {
		release, ok := x.turn()
		if !ok {
			return
		}
		var s store
		var err error
		if !x.frame.Inlined {
			s, err = x.place()
		}
		x.box.post(true, func() {
			if x.gone || x.m.State() != transfer.ReceiverPreparing {
				release()
				if s != nil {
					s.Drop() // it was cancelled meanwhile
				}
				return
			}
			x.release = release
			if err != nil {
				x.broke(err)
				return
			}
			var offset int64
			if x.content = s; s != nil {
				offset = s.Offset()
			}
			x.taken.Store(offset)
			x.step(transfer.ReceiverReady{Offset: offset})
		})
	})
}

// turn waits for a place among those that are received at the same time.
func (x *inTransfer) turn() (release func(), ok bool) {
	places := x.in.slots
	if x.frame.Inlined {
		places = x.in.inline
	}
	if !places.take(x.ctx, 1) {
		return nil, false
	}
	if x.offer.Kind != Buffer || x.offer.into != nil {
		return func() { places.give(1) }, true
	}
	n := x.frame.Size
	if !x.in.memory.take(x.ctx, n) {
		places.give(1)
		return nil, false
	}
	return func() { places.give(1); x.in.memory.give(n) }, true
}

// place opens the store of content that comes by lanes.
func (x *inTransfer) place() (store, error) {
	switch {
	case x.offer.into != nil:
		return x.offer.into, nil
	case x.offer.Kind == Buffer:
		return &memoryStore{size: x.frame.Size}, nil
	}
	box, info := x.in.box, x.info()
	part, err := box.Begin(x.key, info)
	if errors.Is(err, inbox.ErrMismatch) {
		// Another content was begun under this id: it gives way.
		if e, ok := box.Lookup(x.key); ok && e.State == inbox.Partial {
			if old, again := box.Begin(x.key, inbox.Info{Size: e.Size}); again == nil {
				old.Drop()
			}
		}
		part, err = box.Begin(x.key, info)
	}
	if err != nil {
		return nil, err
	}
	return partStore{part}, nil
}

func (x *inTransfer) info() inbox.Info {
	info := inbox.Info{Size: x.frame.Size, Name: x.frame.Name, Type: x.frame.Type, Meta: x.frame.Meta, Header: x.frame.Header}
	if x.frame.Digest.GetAlgorithm() == wire.DigestSHA256 {
		info.SHA256 = x.frame.Digest.Value
	}
	return info
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

// broke takes in an error of the store. Some only say that a lane is not the one
// that may write any more.
func (x *inTransfer) broke(err error) {
	if errors.Is(err, inbox.ErrOffset) || errors.Is(err, inbox.ErrEnded) || errors.Is(err, errStoreEnded) {
		return
	}
	code, detail := storeCode(err)
	x.in.c.opts.log.Info("cannot receive", "sendID", x.key.SendID, "code", uint32(code), "err", err)
	x.step(transfer.ReceiverBroke{Code: wire.Code(code), Detail: detail})
}

// storeCode is what the sender is told of an error of the store.
func storeCode(err error) (Code, string) {
	if w, ok := errors.AsType[writerError](err); ok {
		if code := CodeOf(w.error); code != ErrUnknown && code != OK {
			return code, ""
		}
		return ErrFileWrite, "the receiving application"
	}
	switch {
	case errors.Is(err, inbox.ErrNoSpace):
		return ErrNoSpace, ""
	case errors.Is(err, inbox.ErrDigest), errors.Is(err, inbox.ErrAlgorithm), errors.Is(err, inbox.ErrTooMuch):
		return ErrDigestMismatch, ""
	case errors.Is(err, inbox.ErrMismatch):
		return ErrDigestMismatch, "not the content that was begun"
	case errors.Is(err, inbox.ErrCancelled):
		return ErrCancelled, ""
	case errors.Is(err, inbox.ErrInfo):
		return ErrBadParameter, ""
	case errors.Is(err, inbox.ErrBusy):
		return ErrPeerBusy, ""
	}
	return ErrFileWrite, ""
}

// verify checks the whole content, keeps it, and has the application told: in this
// order, and the sender last.
func (x *inTransfer) verify() transfer.ReceiverVerdict {
	digest := x.m.Digest()
	v := transfer.ReceiverVerdict{Receipt: wire.Receipt_RECEIPT_STORED, LengthOnly: digest == nil && x.frame.Digest == nil}
	err := x.keep(digest, &v)
	if err != nil {
		if errors.Is(err, inbox.ErrHave) {
			return v // by another way; it was told then
		}
		x.in.c.opts.log.Info("cannot keep", "sendID", x.key.SendID, "err", err)
		code, detail := storeCode(err)
		return transfer.ReceiverVerdict{Code: wire.Code(code), Detail: detail}
	}
	return v
}

func (x *inTransfer) keep(digest *wire.Digest, v *transfer.ReceiverVerdict) error {
	in, o := x.in, x.offer
	if x.frame.Inlined {
		if err := verifyBytes(x.frame.Inline, x.frame.Size, digest); err != nil {
			return err
		}
	} else if err := x.content.Verify(digest); err != nil {
		x.content.Drop()
		return err
	}
	if o.into != nil {
		if x.frame.Inlined && len(x.frame.Inline) > 0 {
			if err := o.into.WriteAt(x.frame.Inline, o.into.Offset()); err != nil {
				return err
			}
		}
		o.into.Drop()
		v.Receipt = wire.Receipt_RECEIPT_HANDED
		in.verdicts.add(x.key, *v, time.Now())
		x.tellHanded()
		return nil
	}
	if o.Kind == Buffer {
		data := x.frame.Inline
		if s, ok := x.content.(*memoryStore); ok {
			data = s.bytes()
		}
		in.verdicts.add(x.key, *v, time.Now())
		x.tellBuffer(data)
		return nil
	}
	var f *inbox.File
	var err error
	if part, ok := x.content.(partStore); ok {
		f, err = part.Keep()
	} else {
		f, err = in.box.Put(x.key, x.info(), x.frame.Inline)
	}
	if err != nil {
		return err
	}
	if o.to != "" {
		if _, err := f.SaveAs(o.to); err != nil {
			in.c.opts.log.Warn("file stays in the receive folder", "sendID", x.key.SendID, "err", err)
		} else if in.c.opts.handler.NotifyFileData == nil {
			f.Notified()
		}
	}
	in.notifyFile(f)
	o.finish()
	return nil
}

func (x *inTransfer) tellBuffer(data []byte) {
	o := x.offer
	if data == nil {
		data = []byte{}
	}
	if h := x.in.c.opts.handler.NotifyBufferData; h != nil {
		d := BufferData{Source: o.Source, SendID: o.SendID, Name: o.Name, Type: o.Type, Data: data, Meta: o.Meta}
		x.in.c.notify(func() { h(d) })
	}
	o.finish()
}

// tellHanded tells of content that the application's writer has already.
func (x *inTransfer) tellHanded() {
	o, h := x.offer, &x.in.c.opts.handler
	switch {
	case o.Kind == Buffer && h.NotifyBufferData != nil:
		d := BufferData{Source: o.Source, SendID: o.SendID, Name: o.Name, Type: o.Type, Meta: o.Meta}
		x.in.c.notify(func() { h.NotifyBufferData(d) })
	case o.Kind == File && h.NotifyFileData != nil:
		d := FileData{Source: o.Source, SendID: o.SendID, Name: o.Name, SafeName: o.SafeName, Type: o.Type,
			Size: o.Size, Meta: o.Meta, Receipt: Handed}
		x.in.c.notify(func() { h.NotifyFileData(d) })
	}
	o.finish()
}

// drop removes what is here; with record it is written down as cancelled.
func (x *inTransfer) drop(record bool) {
	x.endLane()
	if x.content != nil {
		x.content.Drop()
		x.content = nil
	}
	if x.offer != nil {
		x.offer.finish()
	}
	if !record {
		return
	}
	if x.offer != nil && x.offer.Kind == Buffer {
		x.in.verdicts.add(x.key, transfer.ReceiverVerdict{Code: wire.Cancelled}, time.Now())
		return
	}
	if err := x.in.box.Cancelled(x.key, uint32(wire.Cancelled)); err != nil {
		x.in.c.opts.log.Warn("cancel was not written down", "sendID", x.key.SendID, "err", err)
		x.in.verdicts.add(x.key, transfer.ReceiverVerdict{Code: wire.Cancelled}, time.Now())
	}
}

// leave closes what is here, to go on with it later.
func (x *inTransfer) leave() {
	x.endLane()
	s := x.content
	x.content = nil
	if s == nil {
		return
	}
	if err := s.Close(); err != nil {
		x.in.c.opts.log.Info("part was not kept", "sendID", x.key.SendID, "err", err)
	}
	if x.m.State().Ended() {
		return
	}
	x.in.mu.Lock()
	defer x.in.mu.Unlock()
	for key, o := range x.in.kept {
		if len(x.in.kept) < receiveMost {
			break
		}
		delete(x.in.kept, key) // any: it is asked for again
		o.finish()
	}
	x.in.kept[x.key] = x.offer
}

// free gives the transfer's place to the next one.
func (x *inTransfer) free() {
	if x.release != nil {
		x.release()
		x.release = nil
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
