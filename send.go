package dian

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dian-im/dian/internal/transfer"
	"github.com/dian-im/dian/internal/wire"
	"github.com/dian-im/dian/internal/x3b"
)

const (
	// Content that travels in its offer goes beside the large ones: many small
	// files need no lanes and wait for nobody. The bytes fit into the session of a
	// receiver who is slow to read.
	inlineMost      = 64
	inlineMostBytes = 512 << 10

	wroteEvery = 50 * time.Millisecond // between two looks at what a lane was handed
	offerWait  = 2 * time.Minute       // the server's, if it does not say
)

// SendBuffer sends at most 100 MiB to a user, who gets it in memory. data is
// borrowed until the task has its result: it must not be changed before, and is
// not touched after. SendBuffer never waits for the network.
//
// Results (Task, Handler.SendBufferResult): nil when the peer has it whole and
// verified; 1101 too large, 1102 bad target, 5 a bad option, 603 the peer is
// offline, 606 or a code of its own it has refused, 604 it did not answer, 207 no
// progress within the resume window, 1105 cancelled, 1103 data was changed, 12
// the client was closed.
func (c *Client) SendBuffer(target string, data []byte, opts ...SendOption) *Task {
	return c.send(Buffer, target, newBufferSource(data), nil, newSendOptions(opts))
}

// SendFile sends a file of any size to a user, who gets it as a file. SendFile
// never waits for the network; it looks at the path and opens it when it is its
// turn. Beside the results of SendBuffer there are 1400 no such file, 1401 it
// cannot be read, 1103 it is no regular file or has changed while it was sent,
// 1405 larger than the server allows; and from the receiver 1112 no space and
// 1402 it cannot write.
func (c *Client) SendFile(target, path string, opts ...SendOption) *Task {
	o := newSendOptions(opts)
	src, err := newFileSource(path)
	if !o.named {
		o.name = filepath.Base(src.path)
	}
	return c.send(File, target, src, err, o)
}

// SendReader sends size bytes of r as a file, or with AsBuffer as a buffer. r is
// read by one goroutine at a time, some parts perhaps more than once, which must
// give the same bytes, and not after the task has its result.
func (c *Client) SendReader(target string, r io.ReaderAt, size int64, opts ...SendOption) *Task {
	o := newSendOptions(opts)
	kind := File
	if o.asBuffer {
		kind = Buffer
	}
	var err error
	if size < 0 {
		err = &sourceError{ErrBadParameter, "the size is negative", nil}
	}
	return c.send(kind, target, newReaderSource(r, max(size, 0)), err, o)
}

func (c *Client) send(kind Kind, target string, src *source, err error, o sendOptions) *Task {
	t := newTask(c, kind, target, o)
	t.mu.Lock()
	t.fileName, t.total = src.path, src.size
	t.mu.Unlock()
	if t.ended() {
		return t
	}
	files := c.welcome().GetLimits().GetFileBytes()
	switch {
	case err != nil:
		t.finish(Result{Err: t.sourceFault(err), FileName: src.path})
	case kind == Buffer && src.size > int64(c.limit((*wire.Limits).GetBufferBytes, wire.BufferBytes)):
		t.finish(Result{Err: localError(t.op(), target, ErrBufferTooLarge, "", nil)})
	case kind == File && files > 0 && src.size > files:
		t.finish(Result{Err: localError(t.op(), target, ErrFileTooLarge, "larger than the server allows", nil)})
	default:
		c.out.start(t, src)
	}
	return t
}

// sourceFault makes an error of what a source says.
func (t *Task) sourceFault(err error) *Error {
	if s, ok := errors.AsType[*sourceError](err); ok {
		return localError(t.op(), t.target, s.code, s.detail, s.cause)
	}
	return localError(t.op(), t.target, ErrInternal, "", err)
}

// outgoing is the buffers and files that a client sends.
type outgoing struct {
	c *Client

	mu          sync.Mutex // guards what follows
	up          bool
	closed      *Error
	all         map[string]*outTransfer // by sendID: waiting, active, or withdrawing
	byTransfer  map[string]*outTransfer
	large       []*outTransfer // waiting, in order
	small       []*outTransfer // waiting, in order; their content goes in the offer
	active      int            // of the large ones
	inline      int            // of the small ones
	inlineBytes int64
}

// An outTransfer is one task with its machine.
type outTransfer struct {
	o     *outgoing
	t     *Task
	src   *source
	small bool
	box   mailbox
	wrote atomic.Int64 // what the present lane was handed

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
	timer     *time.Timer
	ended     chan struct{} // closed with over
	prehashed bool
}

func newOutgoing(c *Client) *outgoing {
	return &outgoing{c: c, all: map[string]*outTransfer{}, byTransfer: map[string]*outTransfer{}}
}

// start takes a task whose source was looked at. It ends with t.finish.
func (o *outgoing) start(t *Task, src *source) {
	x := &outTransfer{
		o: o, t: t, src: src, ended: make(chan struct{}),
		small: src.size <= int64(o.c.limit((*wire.Limits).GetInlineBytes, wire.InlineBytes)),
	}
	x.box.start = o.c.go_
	x.ctx, x.stop = context.WithCancel(o.c.ctx)
	o.mu.Lock()
	if why := o.closed; why != nil {
		o.mu.Unlock()
		x.stop()
		t.finish(Result{Err: why.with(t.op(), t.target)})
		return
	}
	defer o.mu.Unlock()
	if old := o.all[t.id]; old != nil { // it only told the server of its end
		old.box.post(true, old.abandon)
	}
	o.all[t.id] = x
	if x.small {
		o.small = append(o.small, x)
	} else {
		o.large = append(o.large, x)
	}
	o.pumpLocked()
}

// pumpLocked begins what there is room for.
func (o *outgoing) pumpLocked() {
	for len(o.large) > 0 && o.active < o.c.opts.parallel {
		x := o.large[0]
		o.large[0] = nil
		o.large = o.large[1:]
		o.active++
		o.beginLocked(x)
	}
	for len(o.small) > 0 && o.inline < inlineMost && o.inlineBytes+o.small[0].src.size <= inlineMostBytes {
		x := o.small[0]
		o.small[0] = nil
		o.small = o.small[1:]
		o.inline++
		o.inlineBytes += x.src.size
		o.beginLocked(x)
	}
}

func (o *outgoing) beginLocked(x *outTransfer) {
	x.begun, x.slot = true, true
	up := o.up
	x.box.post(true, func() { x.begin(up) })
}

// release gives the place of a task that has its result to the next one.
func (o *outgoing) release(x *outTransfer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !x.slot {
		return
	}
	x.slot = false
	if x.small {
		o.inline--
		o.inlineBytes -= x.src.size
	} else {
		o.active--
	}
	if o.closed == nil {
		o.pumpLocked()
	}
}

// forget takes a machine that is over out of the tables.
func (o *outgoing) forget(x *outTransfer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.all[x.t.id] == x {
		delete(o.all, x.t.id)
	}
	if o.byTransfer[x.transfer] == x {
		delete(o.byTransfer, x.transfer)
	}
}

// cancel asks for the end of a task. It reports false if there is none that could
// be cancelled; otherwise the task's result tells.
func (o *outgoing) cancel(sendID string) bool {
	o.mu.Lock()
	x := o.all[sendID]
	if x == nil || x.t.ended() {
		o.mu.Unlock()
		return false
	}
	if x.begun {
		o.mu.Unlock()
		x.box.post(true, func() { x.step(transfer.SenderCancel{}) })
		return true
	}
	o.large, o.small = without(o.large, x), without(o.small, x)
	delete(o.all, sendID)
	o.mu.Unlock()
	x.stop()
	x.src.close()
	x.t.finish(Result{Err: localError(x.t.op(), x.t.target, ErrCancelled, "", nil)})
	return true
}

func without(list []*outTransfer, x *outTransfer) []*outTransfer {
	for i, y := range list {
		if x == y {
			return append(list[:i:i], list[i+1:]...)
		}
	}
	return list
}

// frame takes in a frame from the server, which was checked alone.
func (o *outgoing) frame(f *wire.Frame) {
	switch b := f.GetBody().(type) {
	case *wire.Frame_Accepted:
		a := b.Accepted
		o.mu.Lock()
		x := o.all[a.SendId]
		if x == nil || !x.begun || a.Peer.GetUser() != x.t.target {
			o.mu.Unlock()
			return
		}
		if o.byTransfer[x.transfer] == x {
			delete(o.byTransfer, x.transfer)
		}
		x.transfer = a.Transfer
		o.byTransfer[a.Transfer] = x
		o.mu.Unlock()
		x.post(transfer.SenderAccepted{Transfer: a.Transfer, URL: a.Url, Offset: a.Offset, Instance: a.Peer.GetInstance()})
	case *wire.Frame_Received:
		if x := o.find("", b.Received.Transfer); x != nil {
			x.post(transfer.SenderReceived{Offset: b.Received.Offset})
		}
	case *wire.Frame_Verdict:
		v := b.Verdict
		x := o.find(v.SendId, v.Transfer)
		if x == nil {
			o.ack(v.Transfer) // its task has its result, perhaps in another life
			return
		}
		x.post(transfer.SenderVerdict{Transfer: v.Transfer, Result: transfer.SenderResult{
			Code: wire.Code(v.Code), Receipt: v.Receipt, Origin: originOr(v.Origin), LengthOnly: v.LengthOnly, Detail: v.Detail,
		}})
	case *wire.Frame_Standing:
		if x := o.find(b.Standing.SendId, b.Standing.Transfer); x != nil &&
			b.Standing.State == wire.TransferState_TRANSFER_STATE_UNKNOWN {
			x.post(transfer.SenderUnknown{})
		}
	}
}

// originOr is a verdict's origin: the server's if it does not say.
func originOr(o wire.Origin) wire.Origin {
	if o == wire.Origin_ORIGIN_PEER {
		return o
	}
	return wire.Origin_ORIGIN_SERVER
}

func (o *outgoing) find(sendID, transferID string) *outTransfer {
	o.mu.Lock()
	defer o.mu.Unlock()
	x := o.byTransfer[transferID]
	if x == nil && sendID != "" {
		x = o.all[sendID]
	}
	if x == nil || !x.begun {
		return nil
	}
	return x
}

func (o *outgoing) ack(transferID string) {
	if transferID != "" {
		// Without a session the verdict comes again.
		_ = o.c.sendFrame(&wire.Frame{Body: &wire.Frame_VerdictAck{VerdictAck: &wire.VerdictAck{Transfer: transferID}}})
	}
}

// lineUp says that there is a session.
func (o *outgoing) lineUp(*wire.Welcome) { o.line(true, transfer.SenderLineUp{}) }

// lineDown says that it has gone.
func (o *outgoing) lineDown() { o.line(false, transfer.SenderLineDown{}) }

func (o *outgoing) line(up bool, e transfer.SenderEvent) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.up = up
	for _, x := range o.all {
		if x.begun {
			x.box.post(true, func() { x.step(e) })
		}
	}
}

// close ends everything. The tasks get their result from the caller, after no
// content is read any more.
func (o *outgoing) close(why *Error) {
	o.mu.Lock()
	if o.closed != nil {
		o.mu.Unlock()
		return
	}
	o.closed = why
	all := o.all
	o.all, o.byTransfer, o.large, o.small = map[string]*outTransfer{}, map[string]*outTransfer{}, nil, nil
	o.mu.Unlock()
	for _, x := range all {
		x.src.close()
		x.stop()
		x.box.post(true, x.abandon)
	}
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

func wireKind(k Kind) wire.Kind {
	if k == Buffer {
		return wire.Kind_KIND_BUFFER
	}
	return wire.Kind_KIND_FILE
}

// jitter is a random time from 0 to d.
func jitter(d time.Duration) time.Duration { return rand.N(d + 1) }

// watch ends the machine when its task was given a result by somebody else.
func (x *outTransfer) watch() {
	select {
	case <-x.t.done:
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

// step moves the machine and does what it says.
func (x *outTransfer) step(e transfer.SenderEvent) {
	if x.over || x.m == nil {
		return
	}
	for _, a := range append([]transfer.SenderAction(nil), x.m.Step(time.Now(), e)...) {
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
		x.send(&wire.Frame{Body: &wire.Frame_Offer{Offer: x.offer}})
	case transfer.SenderSendFinish:
		x.send(&wire.Frame{Body: &wire.Frame_Finish{Finish: &wire.Finish{Transfer: x.m.Transfer(), Digest: x.digest}}})
	case transfer.SenderSendAck:
		x.o.ack(a.Transfer)
	case transfer.SenderSendCancel:
		x.send(&wire.Frame{Body: &wire.Frame_Cancel{Cancel: &wire.Cancel{SendId: x.t.id, Transfer: x.m.Transfer()}}})
	case transfer.SenderOpenLane:
		x.openLane(a)
	case transfer.SenderAskHead:
		ctx, path := x.laneContext(), x.m.URL()
		x.work(func() {
			end := c.headLane(ctx, path)
			end.Lane = a.Lane
			x.box.post(true, func() { x.step(end) })
		})
	case transfer.SenderEndLane:
		x.endLane()
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

func (x *outTransfer) laneContext() context.Context {
	x.endLane()
	ctx, cancel := context.WithCancel(x.ctx)
	x.lane = cancel
	return ctx
}

func (x *outTransfer) openLane(a transfer.SenderAction) {
	c := x.o.c
	ctx, path := x.laneContext(), x.m.URL()
	if a.Offset >= x3b.BlockSize && !x.prehashed {
		// What the receiver has from before is hashed beside the sending.
		x.prehashed = true
		x.work(func() { x.fault(x.src.fill(x.ctx, a.Offset-a.Offset%x3b.BlockSize)) })
	}
	end := a.Offset + a.Length
	last := time.Now()
	progress := func(offset int64) {
		x.wrote.Store(offset)
		if now := time.Now(); offset == end || now.Sub(last) >= wroteEvery {
			last = now
			x.box.post(false, func() { x.step(transfer.SenderWrote{Lane: a.Lane, Offset: offset}) })
		}
	}
	x.work(func() {
		if a.Offset > 0 {
			if err := x.src.check(); err != nil { // it may have changed meanwhile
				x.fault(err)
				return
			}
		}
		ended, err := c.upLane(ctx, path, x.src, a.Offset, a.Length, progress)
		ended.Lane = a.Lane
		x.fault(err)
		if err == nil {
			// A read may not have been told of: the mailbox was full.
			at := x.wrote.Load()
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
		err := &Error{Op: x.t.op(), Peer: x.t.target, Code: Code(r.Code), Detail: r.Detail}
		if r.Origin != wire.Origin_ORIGIN_UNSPECIFIED {
			err.Origin = originOf(r.Origin)
		}
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

func receiptOf(r wire.Receipt) Receipt {
	switch r {
	case wire.Receipt_RECEIPT_STORED:
		return Stored
	case wire.Receipt_RECEIPT_HANDED:
		return Handed
	}
	return None
}
