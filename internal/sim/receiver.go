package sim

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/dian-im/dian/internal/command"
	"github.com/dian-im/dian/internal/disk"
	"github.com/dian-im/dian/internal/inbox"
	"github.com/dian-im/dian/internal/memdisk"
	"github.com/dian-im/dian/internal/transfer"
	"github.com/dian-im/dian/internal/wire"
)

const (
	idleSlack    = 30 * time.Second
	journalEvery = time.Second
)

// A receiver is bob's process on his machine: the SDK's part around the machines of
// what comes in, and a real inbox.
type receiver struct {
	w      *world
	place  string // the inbox's instance
	disk   *memdisk.Disk
	places []*memdisk.Disk // all that bob has ever received at, the present one last

	life  int
	alive bool
	dying bool // the disk takes no more changes of this life
	box   *inbox.Inbox
	line  *line

	in    *command.Receiver
	queue []*command.Incoming // of the application
	slow  time.Duration       // at most, it takes for one
	acks  bool                // only when it has handled it

	all   map[string]*inTask // open, by sendID
	ids   map[string]*inTask // by the URL's id
	names map[string]string  // the URL's id → sendID, of what is not open any more

	crashIn int           // disk changes until the process, or the machine, ends; 0: never
	power   bool          // it is the machine
	broken  []brokenDisk  // faults of the disk
	after   *memdisk.Disk // what the loss of power leaves

	stems   int // names that were given on all disks
	ticking bool
}

// A brokenDisk is a fault of one kind of change for a while.
type brokenDisk struct {
	op    string
	err   error
	until time.Time
}

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

var errCrash = errors.New("the machine has stopped")

func (b *receiver) name() string { return "bob" }
func (b *receiver) living() bool { return b.alive && !b.dying }
func (b *receiver) lives() int   { return b.life }

// watch is what the disk asks before each change.
func (b *receiver) watch(life int) func(op, name string) error {
	return func(op, name string) error {
		if b.life != life || b.dying {
			return errCrash
		}
		if b.crashIn > 0 {
			if b.crashIn--; b.crashIn == 0 {
				b.dying = true
				b.w.note("bob stops at %s %s, power %v", op, suffix(name), b.power)
				if b.power {
					b.after = b.disk.PowerLoss(b.w.random)
				}
				b.w.after(0, func() {
					if b.life == life && b.alive {
						b.stopped()
					}
				})
				return errCrash
			}
		}
		for _, f := range b.broken {
			if f.op == op && b.w.now.Before(f.until) {
				b.w.note("disk: %s %s: %v", op, suffix(name), f.err)
				return f.err
			}
		}
		return nil
	}
}

func suffix(name string) string { return name[strings.IndexByte(name, '.')+1:] }

// boot begins a life on what the disk holds.
func (b *receiver) boot() {
	w := b.w
	b.life++
	b.alive, b.dying, b.ticking = true, false, false
	b.all, b.ids, b.names = map[string]*inTask{}, map[string]*inTask{}, map[string]string{}
	b.in, b.queue = command.NewReceiver(b.acks), nil
	w.note("bob begins life %d", b.life)
	life := b.life
	box, err := inbox.OpenOn(memdisk.Hook(b.disk, b.watch(life)), inbox.Options{
		Stepped: true, Now: func() time.Time { return w.now },
		NewStem: func() string { b.stems++; return fmt.Sprintf("%032x", b.stems) },
	})
	if err != nil { // a disk that fails: tried again
		w.note("inbox: %v", err)
		b.alive = b.dying
		if !b.dying {
			w.after(time.Second, func() {
				if b.life == life && !b.alive {
					b.boot()
				}
			})
		}
		return
	}
	b.box = box
	instance := box.Instance()
	b.place = fmt.Sprintf("%x", instance[:4])
	for _, f := range box.Unnotified() {
		b.tell(f)
	}
	b.connect()
}

// keepTime does what the inbox's goroutines do by the clock, as long as there is
// something to do.
func (b *receiver) keepTime() {
	if b.ticking {
		return
	}
	b.ticking = true
	life := b.life
	b.w.after(journalEvery, func() {
		if b.life != life || !b.living() {
			return
		}
		b.ticking = false
		for _, t := range b.w.alice.tasks { // in an order that a seed repeats
			if x := b.all[t.id]; x != nil && x.part != nil {
				x.journal()
			}
		}
		b.box.Settle()
		for _, x := range b.all {
			if x.part != nil {
				b.keepTime()
			}
		}
	})
}

func (x *inTask) journal() {
	offset := x.part.Offset()
	if err := x.part.Journal(); err == nil && !x.b.dying {
		x.b.w.history.journalled(x.sendID, offset)
	}
}

func (b *receiver) connect() {
	life := b.life
	b.w.connect(b, 0, func() bool { return b.life == life && b.line == nil })
}

// stopped ends the process: what it knew and had not written is gone.
func (b *receiver) stopped() {
	w := b.w
	b.alive = false
	w.history.lineOf(false)
	w.history.ended[b.life] = w.now
	if b.after != nil {
		w.counts.PowerLosses++
		b.disk, b.after = b.after, nil
		b.places[len(b.places)-1] = b.disk
		w.history.powerLost()
	} else {
		w.counts.Kills++
		w.history.killed()
	}
	w.breakLines(b)
	b.line = nil
	for _, t := range w.alice.tasks {
		if x := b.all[t.id]; x != nil && x.lane != nil {
			x.lane.breakOff()
			x.lane = nil
		}
	}
	b.crashIn = 0
	w.after(w.upTo(20*time.Second), func() {
		if !b.alive {
			b.boot()
		}
	})
}

// kill ends the process between two steps.
func (b *receiver) kill(power bool) {
	if !b.living() {
		return
	}
	b.w.note("bob is killed, power %v", power)
	b.dying = true
	if power {
		b.after = b.disk.PowerLoss(b.w.random)
	}
	b.stopped()
}

// moveAway gives bob another place: a folder that is empty, or another machine.
func (b *receiver) moveAway() {
	b.w.note("bob moves to another place")
	b.kill(false)
	b.disk = memdisk.New(func() time.Time { return b.w.now })
	b.places = append(b.places, b.disk)
	b.w.history.moved()
}

func (b *receiver) lineUp(l *line) {
	b.line = l
	b.w.history.lineOf(true)
	b.in.LineUp(l.moment)
	b.every(transfer.ReceiverLineUp{})
}

func (b *receiver) lineDown(l *line) {
	if b.line != l {
		return
	}
	b.line = nil
	b.w.history.lineOf(false)
	b.every(transfer.ReceiverLineDown{})
	b.connect()
}

func (b *receiver) every(e transfer.ReceiverEvent) {
	for _, t := range b.w.alice.tasks {
		if x := b.all[t.id]; x != nil {
			x.step(e)
		}
	}
}

func key(sendID string) inbox.Key { return inbox.Key{Source: "alice", SendID: sendID} }

// open returns the task of an id, a new one if there is none.
func (b *receiver) open(sendID, id string) *inTask {
	x := b.all[sendID]
	if x == nil {
		x = &inTask{b: b, sendID: sendID}
		x.m = transfer.NewReceiver(transfer.ReceiverConfig{
			Record: b.record(sendID), Idle: resumeWindow + idleSlack, Jitter: b.w.upTo,
		}, b.line != nil, b.w.now)
		b.all[sendID] = x
	}
	if x.id != id {
		if b.ids[x.id] == x {
			delete(b.ids, x.id)
		}
		x.id = id
		b.ids[id] = x
	}
	return x
}

func (b *receiver) record(sendID string) transfer.ReceiverRecord {
	e, ok := b.box.Lookup(key(sendID))
	switch {
	case !ok:
		return transfer.ReceiverRecord{State: wire.TransferState_TRANSFER_STATE_UNKNOWN}
	case e.State == inbox.Have:
		return transfer.ReceiverRecord{State: wire.TransferState_TRANSFER_STATE_HAVE, Code: wire.Code(e.Code),
			Receipt: wire.Receipt_RECEIPT_STORED, Offset: e.Offset, Size: e.Size}
	case e.State == inbox.Cancelled:
		return transfer.ReceiverRecord{State: wire.TransferState_TRANSFER_STATE_CANCELLED, Code: wire.Code(e.Code)}
	}
	return transfer.ReceiverRecord{State: wire.TransferState_TRANSFER_STATE_PARTIAL, Offset: e.Offset, Size: e.Size}
}

func (b *receiver) offered(o *offer, id string, ticket int) {
	x := b.open(o.sendID, id)
	x.take(o, id, ticket)
}

func (x *inTask) take(o *offer, id string, ticket int) {
	if x.offer == nil {
		x.offer = o
	}
	x.ticket = ticket
	x.step(transfer.ReceiverOffered{Transfer: id, URL: id, Ticket: fmt.Sprint(ticket), Size: o.size, Inlined: o.inlined, Digest: o.digest})
}

func (b *receiver) queried(sendID, id string, ticket int) {
	x := b.open(sendID, id)
	if x.offer == nil {
		// What an earlier life has accepted is asked of the application again.
		if info, ok := b.box.Stored(key(sendID)); ok {
			x.take(&offer{sendID: sendID, size: info.Size}, id, ticket)
			return
		}
	}
	x.ticket = ticket
	x.step(transfer.ReceiverQuery{Transfer: id, URL: id, Ticket: fmt.Sprint(ticket)})
}

// frame gives a frame to the task of an id; again opens one that is not open.
func (b *receiver) frame(id string, again bool, e transfer.ReceiverEvent) {
	x := b.ids[id]
	if x == nil && again {
		if sendID, known := b.names[id]; known {
			x = b.open(sendID, id)
		}
	}
	if x != nil {
		x.step(e)
	}
}

func (b *receiver) cancelled(sendID, id string) {
	if b.ids[id] == nil && b.names[id] == "" {
		b.open(sendID, id) // of an earlier life, whose part may be here
	}
	b.frame(id, true, transfer.ReceiverCancel{Transfer: id})
}

func (b *receiver) send(fn func(s *server)) {
	if b.line != nil && b.living() {
		b.line.toServer(fn)
	}
}

// judged takes in a Verdict.
func (s *server) judged(id string, v transfer.ReceiverVerdict) {
	if r := s.ids[id]; r != nil && r.place == s.place {
		r.step(transfer.RelayJudged{Verdict: relayVerdict(v)})
		return
	}
	if strings.HasSuffix(id, "@"+s.place) && s.bob != nil {
		b := s.w.bob
		s.bob.toClient(func() { b.frame(id, false, transfer.ReceiverAcked{}) })
	}
}

func relayVerdict(v transfer.ReceiverVerdict) transfer.RelayVerdict {
	return transfer.RelayVerdict{Code: v.Code, Receipt: v.Receipt, LengthOnly: v.LengthOnly, Detail: v.Detail}
}

// toRelay sends what becomes an event of the transfer's machine.
func (x *inTask) toRelay(id string, e transfer.RelayEvent) {
	x.b.send(func(s *server) {
		if r := s.ids[id]; r != nil && r.place == s.place {
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
			w.history.marked(x.sendID, x.part.Offset())
		}
		x.toRelay(a.Transfer, transfer.RelayReceived{Offset: a.Offset})
	case transfer.ReceiverSendVerdict:
		id, v := a.Transfer, a.Verdict
		b.send(func(s *server) { s.judged(id, v) })
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
		w.history.cancelNotice(x.sendID)
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
	x.b.w.history.resumed(x.sendID, part.Offset())
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
	w.after(w.delay(), func() { w.srv.get(d, id, ticket) })
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
	x.b.w.history.stands(x.sendID, d.wrote)
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
			x.b.w.history.forgets(x.sendID)
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

// tell has the application told of a file, and then notes that it was.
func (b *receiver) tell(f *inbox.File) {
	life := b.life
	b.w.after(b.w.upTo(time.Second), func() {
		if b.life != life || !b.living() {
			return
		}
		b.w.history.notified(f.Key.SendID, life)
		f.Notified()
		b.keepTime()
	})
}

func (x *inTask) drop(record bool) {
	x.endLane()
	x.b.w.history.forgets(x.sendID)
	if x.part != nil {
		x.part.Drop()
		x.part = nil
	}
	if record {
		if err := x.b.box.Cancelled(key(x.sendID), uint32(wire.Cancelled)); err != nil {
			x.b.w.note("bob %s: cancelled: %v", x.sendID, err)
			x.b.w.history.of(x.sendID).forgettable = x.b.life
		}
	}
}

// errnos that a disk fails with.
var diskErrors = []error{syscall.ENOSPC, syscall.EIO}

var _ disk.Disk = (*memdisk.Disk)(nil)
