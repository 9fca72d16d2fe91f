package dian

import (
	"errors"
	"os"
	"time"

	"github.com/dian-im/dian/internal/inbox"
	"github.com/dian-im/dian/internal/transfer"
	"github.com/dian-im/dian/internal/wire"
)

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
			if p, ok := errors.AsType[*os.PathError](err); ok {
				err = p.Err // a log has no names of files
			}
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
