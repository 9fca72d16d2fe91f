package dian

import (
	"context"
	"sync"

	"github.com/dian-im/dian/internal/transfer"
	"github.com/dian-im/dian/internal/wire"
)

// Content that travels in its offer goes beside the large ones: many small files
// need no lanes and wait for nobody. The bytes fit into the session of a receiver
// who is slow to read.
const (
	inlineMost      = 64
	inlineMostBytes = 512 << 10
)

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
