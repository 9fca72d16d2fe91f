package sim

import (
	"bytes"
	"time"

	"github.com/dian-im/dian/internal/inbox"
	"github.com/dian-im/dian/internal/memdisk"
	"github.com/dian-im/dian/internal/transfer"
	"github.com/dian-im/dian/internal/wire"
)

// A history is what has happened, and knows what may never have.
type history struct {
	w     *world
	tasks map[string]*past
	lost  time.Time         // the last loss of power
	ended map[int]time.Time // lives of bob

	deaf           bool      // bob has no session
	heard, unheard time.Time // since when he has one, and when the last one broke

	lastCommand *sentCommand // that was delivered
	lastLife    int
	faultUp     time.Time // until when the disk fails
}

// A past is what has happened to one task at the receiver.
type past struct {
	journal, mark int64     // offsets that are written down: after a loss of power, after a kill
	told          time.Time // of the last notification
	toldLife      int
	toldTimes     int
	cancelled     int
	forgettable   int // the life of bob whose disk did not take the cancel; 0: it did
	resumed       bool
	stood         []standing
}

func newHistory(w *world) *history {
	return &history{w: w, tasks: map[string]*past{}, ended: map[int]time.Time{}}
}

func (h *history) of(sendID string) *past {
	p := h.tasks[sendID]
	if p == nil {
		p = &past{}
		h.tasks[sendID] = p
	}
	return p
}

func (h *history) journalled(sendID string, offset int64) {
	p := h.of(sendID)
	p.mark = max(p.mark, offset)
	if p.journal == 0 && !p.resumed {
		p.journal = offset // the folder is flushed for the first one alone: a later one may be lost with the power
	}
}

func (h *history) marked(sendID string, offset int64) {
	p := h.of(sendID)
	p.mark = max(p.mark, offset)
}

// forgets says that a part is gone, or that its journal may be.
func (h *history) forgets(sendID string) {
	p := h.of(sendID)
	p.journal, p.mark = 0, 0
	h.stands(sendID, 0)
}

func (h *history) killed() {
	for id, p := range h.tasks {
		h.stands(id, p.mark)
	}
}

func (h *history) powerLost() {
	h.lost = h.w.now
	for id, p := range h.tasks {
		p.mark = p.journal
		h.stands(id, p.mark)
	}
}

func (h *history) moved() {
	for _, p := range h.tasks {
		*p = past{}
	}
}

func (h *history) diskFails(until time.Time) {
	if until.After(h.faultUp) {
		h.faultUp = until
	}
}

// resumed says from where the receiver goes on with a part. What was written down is
// not sent again (invariant: bytes sent twice ≤ what was under way and one step of
// the journal).
func (h *history) resumed(sendID string, offset int64) {
	p := h.of(sendID)
	if offset < p.mark && h.faultUp.IsZero() {
		h.w.fail("%s goes on from %d, although %d was written down", sendID, offset, p.mark)
	}
	p.resumed = offset > 0 // its journal may be an earlier life's, and the folder is not flushed again
	p.mark = min(p.mark, offset)
	p.journal = min(p.journal, offset)
	h.stands(sendID, offset)
}

func (h *history) cancelNotice(sendID string) {
	p := h.of(sendID)
	p.cancelled++
	if p.toldTimes > 0 {
		h.w.fail("%s was given to the application and then cancelled", sendID)
	}
}

// notified says that the application was told of a file. It may be told again only
// if the note that it was could not survive: after a loss of power, or a kill within
// the inbox's next step.
func (h *history) notified(sendID string, life int) {
	p := h.of(sendID)
	h.w.note("bob's application gets %s", sendID)
	h.w.counts.Delivered++
	if p.toldTimes > 0 {
		switch {
		case p.toldLife == life:
			h.w.fail("%s was given to the application twice in one life", sendID)
		case h.ended[p.toldLife].Sub(p.told) > 2*journalEvery && !h.lost.After(p.told) && h.faultUp.IsZero():
			h.w.fail("%s was given to the application again %v after the first time", sendID, h.w.now.Sub(p.told))
		}
	}
	// A cancel that a broken disk did not take is known to this life alone.
	if p.cancelled > 0 && (p.forgettable == 0 || p.forgettable == life) {
		h.w.fail("%s was cancelled and then given to the application", sendID)
	}
	p.told, p.toldLife, p.toldTimes = h.w.now, life, p.toldTimes+1
}

// resultOK is for the moment when the sender is told that the receiver has it: it
// has to be there, whatever happens from now on.
func (w *world) resultOK(t *outTask, r transfer.SenderResult) {
	if r.Receipt != wire.Receipt_RECEIPT_STORED {
		w.fail("%s: result 0 with receipt %v", t.id, r.Receipt)
	}
	if n := w.kept(t, true); n != 1 && !(n > 1 && w.mayMove(t)) {
		w.fail("%s: result 0, and a loss of power now would leave it at %d places", t.id, n)
	}
}

// mayMove reports whether a task may be delivered at a second place, or cancelled there
// and delivered at the first. Content that travels in its offer is answered by a verdict
// alone: a sender that has not got it does not know which place was asked, and offers it
// to the one that is there.
func (w *world) mayMove(t *outTask) bool { return len(w.places()) > 1 && t.journal == "" }

// kept counts the places that have a task's file, whole and right.
func (w *world) kept(t *outTask, durable bool) int {
	n := 0
	for _, d := range w.places() {
		if durable {
			d = d.Durable()
		} else {
			d = d.PowerLoss(w.random)
		}
		if w.has(d, t) {
			n++
		}
	}
	return n
}

// has looks for a task's file on a disk as the next life would.
func (w *world) has(d *memdisk.Disk, t *outTask) bool {
	box, err := inbox.OpenOn(d, inbox.Options{Stepped: true, Now: func() time.Time { return w.now }})
	if err != nil {
		w.fail("the inbox cannot be opened after a loss of power: %v", err)
		return false
	}
	defer box.Close()
	if e, ok := box.Lookup(key(t.id)); !ok || e.State != inbox.Have {
		return false
	}
	got, ok := d.Bytes(box.KeptName(key(t.id)))
	if !ok || !bytes.Equal(got, t.content) {
		w.fail("%s is in the ledger, but its %d bytes are not its %d", t.id, len(got), len(t.content))
	}
	return true
}

// check is for the end, when everything has come to rest.
func (w *world) check() {
	if w.failed != nil {
		return
	}
	w.note("--- the end")
	for _, s := range w.nodes {
		for _, r := range s.order {
			if !r.m.State().Ended() {
				w.fail("%s is %v at %v, after everything", r.sendID, r.m.State(), s)
			}
		}
	}
	for _, b := range w.receivers() {
		for id, x := range b.all {
			if b.alive && !x.m.State().Ended() {
				w.fail("%s is %v at %s, after everything", id, x.m.State(), b.who)
			}
		}
	}
	w.checkCluster()
	w.checkCommands()
	for _, t := range w.alice.tasks {
		r := t.results[len(t.results)-1]
		if len(t.results) != 1 {
			w.fail("%s has %d results", t.id, len(t.results))
		}
		n := w.kept(t, false)
		if n > 1 && !w.mayMove(t) {
			w.fail("%s was delivered at %d places", t.id, n)
		}
		w.counts.Results[r.Code]++
		if r.Code == wire.OK {
			if n == 0 {
				w.fail("%s: result 0, and it is not there in the end", t.id)
			}
			if w.bob.history.of(t.id).toldTimes == 0 && len(w.places()) == 1 {
				w.fail("%s: result 0, and the application was never told", t.id)
			}
		}
		if e, _ := w.bob.box.Lookup(key(t.id)); e.State == inbox.Partial && r.Code == wire.Cancelled && w.steady() && w.bob.history.faultUp.IsZero() {
			w.fail("%s: cancelled, and sender and server, which were there all the time, have not told the receiver", t.id)
		}
		if n > 0 && !w.mayMove(t) && (r.Code == wire.Cancelled || r.Code == wire.PeerRefused || r.Origin == wire.Origin_ORIGIN_PEER && r.Code != wire.OK) {
			w.fail("%s: result %d from %v, but the receiver has it", t.id, r.Code, r.Origin)
		}
	}
}
