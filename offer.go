package dian

import (
	"io"
	"sync"

	"github.com/dian-im/dian/internal/inbox"
	"github.com/dian-im/dian/internal/transfer"
	"github.com/dian-im/dian/internal/wire"
)

// An Offer is a buffer or file that somebody wants to send. Handler.AcceptFile
// and AcceptBuffer get it, and answer with Accept, AcceptTo, AcceptWriter or
// Refuse: at once or minutes later, from any goroutine. The first answer counts.
// The server withdraws an offer that is not answered in its time (2 minutes, if
// it was not set otherwise); Done tells.
type Offer struct {
	Source   string // the user who offers it
	SendID   string
	Kind     Kind
	Name     string // as sent, may be empty: data, never a path
	SafeName string // Name made safe to be the name of a file; see FileData
	Type     string // media type as sent, may be empty
	Size     int64
	Meta     []byte // the sender's WithMeta
	// Received is how many bytes are here from an earlier try. What this process
	// has accepted before is gone on with without asking again.
	Received int64

	done chan struct{}
	to   string       // AcceptTo
	into *writerStore // AcceptWriter

	mu       sync.Mutex // guards what follows
	x        *inTransfer
	answered bool
	over     bool
	digest   *wire.Digest
}

func newOffer(o *wire.Offer, received int64) *Offer {
	kind := File
	if o.Kind == wire.Kind_KIND_BUFFER {
		kind = Buffer
	}
	return &Offer{
		Source: o.Source.GetUser(), SendID: o.SendId, Kind: kind,
		Name: o.Name, SafeName: inbox.SafeName(o.Name), Type: o.Type, Size: o.Size, Meta: o.Meta, Received: received,
		done: make(chan struct{}), digest: o.Digest,
	}
}

// answer counts the first answer and passes it on.
func (o *Offer) answer(set func(), e transfer.ReceiverEvent) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.answered || o.over {
		return
	}
	o.answered = true
	if set != nil {
		set()
	}
	o.x.post(true, e)
}

// Accept takes it: a file into the receive folder, a buffer into memory.
func (o *Offer) Accept() {
	o.answer(nil, transfer.ReceiverAccept{Receipt: wire.Receipt_RECEIPT_STORED})
}

// AcceptTo takes a file and gives it this path when it is whole and verified. It
// never replaces: if the path is taken it becomes "photo (1).jpg" and so on; if it
// is a folder the file goes there under its SafeName. FileData.Path tells where
// it is; if it could not be put there, that is in the receive folder. The path is
// not remembered beyond this process. For a buffer it is Accept.
func (o *Offer) AcceptTo(path string) {
	o.answer(func() { o.to = path }, transfer.ReceiverAccept{Receipt: wire.Receipt_RECEIPT_STORED})
}

// AcceptWriter takes it and writes its bytes to w as they come, before they are
// verified: the callback, with no Path or Data, tells that they are right, and
// Done without a callback that they are not. The receipt is Handed. w gets one
// Write at a time; its error ends the transfer (with its Code, if it has one, else
// 1402). A broken line is gone on with only while this process lives. w is not
// used any more when Done is closed or the callback is called.
func (o *Offer) AcceptWriter(w io.Writer) {
	o.answer(func() { o.into = newWriterStore(w, o.Size, o.digest) },
		transfer.ReceiverAccept{Receipt: wire.Receipt_RECEIPT_HANDED})
}

// Refuse says no, with a code (0 becomes ErrPeerRefused) and a text for people of
// at most 512 bytes. The sender gets both.
func (o *Offer) Refuse(code Code, detail string) {
	if code == OK {
		code = ErrPeerRefused
	}
	o.answer(nil, transfer.ReceiverRefuse{Code: wire.Code(code), Detail: cutDetail(detail)})
}

// Cancel ends the transfer, also after it was accepted, unless it is whole by
// then. Nothing of it is kept, and the sender gets ErrCancelled.
func (o *Offer) Cancel() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.over {
		o.answered = true
		o.x.post(true, transfer.ReceiverStop{})
	}
}

// Done is closed when the offer was withdrawn, or the transfer has ended, or the
// client was closed.
func (o *Offer) Done() <-chan struct{} { return o.done }

// attach makes x what the answers go to: a transfer that is gone on with has
// another one than it began with.
func (o *Offer) attach(x *inTransfer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.x = x
}

// finish closes Done.
func (o *Offer) finish() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.over {
		o.over = true
		close(o.done)
	}
}

// choice returns what an earlier answer was, if it was a yes.
func (o *Offer) choice() transfer.ReceiverEvent {
	if o.into != nil {
		return transfer.ReceiverAccept{Receipt: wire.Receipt_RECEIPT_HANDED}
	}
	return transfer.ReceiverAccept{Receipt: wire.Receipt_RECEIPT_STORED}
}

// cutDetail cuts a text to what may travel, at a rune.
func cutDetail(s string) string {
	if len(s) <= wire.DetailBytes {
		return s
	}
	n := wire.DetailBytes
	for n > 0 && s[n]&0xC0 == 0x80 {
		n--
	}
	return s[:n]
}
