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
	w       *world
	who     string
	history *history
	off     bool   // its line is off for good: another has its place
	epoch   uint64 // of its last session, in this life

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

var errCrash = errors.New("the machine has stopped")

func (b *receiver) name() string { return b.who }
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
	b.alive, b.dying, b.ticking, b.epoch = true, false, false, 0
	b.all, b.ids, b.names = map[string]*inTask{}, map[string]*inTask{}, map[string]string{}
	b.in, b.queue = command.NewReceiver(b.acks), nil
	w.note("%s begins life %d", b.who, b.life)
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
	b.connect(0)
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
		x.b.history.journalled(x.sendID, offset)
	}
}

func (b *receiver) connect(goAway time.Duration) {
	life := b.life
	b.w.connectWithin(max(goAway, reconnectMin), b, 0, func() bool { return b.life == life && b.line == nil && !b.off })
}

// stopped ends the process: what it knew and had not written is gone.
func (b *receiver) stopped() {
	w := b.w
	b.alive = false
	b.history.lineOf(false)
	b.history.ended[b.life] = w.now
	if b.after != nil {
		w.counts.PowerLosses++
		b.disk, b.after = b.after, nil
		b.places[len(b.places)-1] = b.disk
		b.history.powerLost()
	} else {
		w.counts.Kills++
		b.history.killed()
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
		if !b.alive && !b.off {
			b.boot()
		}
	})
}

// kill ends the process between two steps.
func (b *receiver) kill(power bool) {
	if !b.living() {
		return
	}
	b.w.note("%s is killed, power %v", b.who, power)
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
	b.history.moved()
}

func (b *receiver) lineUp(l *line) {
	b.line, b.epoch = l, l.epoch
	b.history.lineOf(true)
	b.in.LineUp(l.moment)
	b.every(transfer.ReceiverLineUp{})
}

func (b *receiver) lineDown(l *line) {
	if b.line != l {
		return
	}
	b.line = nil
	b.history.lineOf(false)
	b.every(transfer.ReceiverLineDown{})
	b.connect(l.goAway)
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

func (b *receiver) send(fn func(s *server, l *line)) {
	if l := b.line; l != nil && b.living() {
		l.toServer(func(s *server) { fn(s, l) })
	}
}

// tell has the application told of a file, and then notes that it was.
func (b *receiver) tell(f *inbox.File) {
	life := b.life
	b.w.after(b.w.upTo(time.Second), func() {
		if b.life != life || !b.living() {
			return
		}
		b.history.notified(f.Key.SendID, life)
		f.Notified()
		b.keepTime()
	})
}

// errnos that a disk fails with.
var diskErrors = []error{syscall.ENOSPC, syscall.EIO}

var _ disk.Disk = (*memdisk.Disk)(nil)
