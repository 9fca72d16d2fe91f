package command

import (
	"container/heap"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

// Bounds of the commands that a client keeps.
const (
	maxFlying       = 1024     // commands on the wire without a result
	maxFlyingBytes  = 4 << 20  // their data
	maxFlyingTo     = 512      // the same for one target, so that a slow one leaves room for others
	maxFlyingToByte = 2 << 20  //
	maxCommands     = 65536    // commands without a result
	maxCommandBytes = 64 << 20 // their data

	maxStreams     = 1024             // streams kept although all their commands have results…
	streamIdle     = 10 * time.Minute // …at least for this long
	retryFirst     = 500 * time.Millisecond
	retryMost      = 5 * time.Second
	maxGaps        = 8 // of one command: a receiver that wants still more is not hurried
	compactAt      = 1024
	commandMinCost = 256 // what an empty command counts
)

// A commandState is where an outgoing command stands. The moves:
//
//	fresh → flying → resolved
//	flying → held (GAP, LOST, a refusal that is tried again, the line broke) → flying
//	fresh, held → resolved (out of time, or the client is closed)
type commandState uint8

const (
	fresh    commandState = iota // never sent
	flying                       // sent, without a result
	held                         // to be sent again
	resolved                     // has its result
)

// An Outgoing is a command until it has its result.
type Outgoing struct {
	ID, Target string
	Data, Meta []byte
	Task       any           // the caller's
	Wait       time.Duration // for an offline peer

	stream    *outStream
	seq       uint64
	state     commandState
	resent    bool         // the next or last sending says that it may have arrived before
	sent      bool         // at least once
	since     *wire.Moment // of the login under which it was first sent
	gaps      int          // how often the answer was GAP
	waiting   wire.Code    // held because of this refusal; OK: it is not
	waitUntil time.Time    // the end of wait
	due       time.Time    // when it is resolved for want of an answer
	place     int          // in Sender.due
}

func (c *Outgoing) cost() int { return max(len(c.Data)+len(c.Meta), commandMinCost) }

// An outStream is the commands to one target, in order (docs/protocol.md §6).
type outStream struct {
	id          uint64 // random, not 0
	list        []*Outgoing
	head        int    // list[head:] begins with the lowest unresolved
	next        uint64 // seq of the next command
	fresh       int    // index in list of the first that was never sent
	held        int    // how many are held
	flying      int
	flyingBytes int
	starved     bool // in Sender.starved

	retry       time.Duration // 0: the last answer was the peer's own
	pausedUntil time.Time     // held commands wait for this; zero: they do not
	used        time.Time
}

// floor is the lowest seq without a result.
func (s *outStream) floor() uint64 { return s.next - uint64(len(s.list)-s.head) }

// An Outcome is a command's result.
type Outcome struct {
	Command *Outgoing
	Origin  wire.Origin // unspecified: this side's own word
	Code    wire.Code
	Detail  string
	Reply   []byte
}

// A Sender is the sender's side of docs/protocol.md §6: which command is sent
// when, and what its result is. It has no clock, goroutine or I/O: each method
// takes a fact and the time, and leaves what is to be done in a Work, which the
// caller takes away.
//
// A command goes out for the first time in the order of add. Again it goes out
// in the order of its stream: one that may have arrived (resent) at once, one that
// surely has not (GAP) as soon as everything below it has a result or goes out
// just before it. Waiting for all below, not only for the resent ones, means that
// it is not answered GAP once more.
type Sender struct {
	timeout   time.Duration
	newStream func() uint64

	up      bool
	moment  *wire.Moment          // of the present login
	streams map[string]*outStream // by target
	byID    map[string]*Outgoing
	due     dueHeap
	paused  map[*outStream]struct{}
	starved []*outStream // have something to send and found no room
	bytes   int          // cost of all unresolved

	flying, flyingBytes int

	work Work
}

// A Work is what a Sender wants to be done. It may be used again.
type Work struct {
	Frames   []*wire.Command // to be sent, in this order
	Outcomes []Outcome       // to be told
}

// Clear forgets what was done and keeps the memory of it, that of the frames too.
func (w *Work) Clear() {
	for _, f := range w.Frames {
		f.Data, f.Meta = nil, nil
	}
	w.Frames = w.Frames[:0]
	clear(w.Outcomes)
	w.Outcomes = w.Outcomes[:0]
}

// frame adds a frame that is empty.
func (w *Work) frame() *wire.Command {
	n := len(w.Frames)
	if n == cap(w.Frames) {
		w.Frames = append(w.Frames, nil)
	}
	if w.Frames = w.Frames[:n+1]; w.Frames[n] == nil {
		w.Frames[n] = new(wire.Command)
	} else {
		*w.Frames[n] = wire.Command{}
	}
	return w.Frames[n]
}

// NewSender returns a Sender that gives a command timeout for its result. newStream
// returns a random number that is not 0.
func NewSender(timeout time.Duration, newStream func() uint64) *Sender {
	return &Sender{
		timeout: timeout, newStream: newStream,
		streams: map[string]*outStream{},
		byID:    map[string]*Outgoing{},
		paused:  map[*outStream]struct{}{},
	}
}

// Add takes a command. It reports false when the bound is reached.
func (o *Sender) Add(now time.Time, c *Outgoing) bool {
	if len(o.byID) >= maxCommands || len(o.byID) > 0 && o.bytes+c.cost() > maxCommandBytes {
		return false
	}
	s := o.streams[c.Target]
	if s == nil {
		o.forgetStreams(now)
		s = &outStream{id: o.newStream(), next: 1}
		o.streams[c.Target] = s
	}
	s.used = now
	c.stream, c.seq = s, s.next
	s.next++
	s.list = append(s.list, c)
	o.byID[c.ID] = c
	o.bytes += c.cost()
	c.waitUntil = now.Add(c.Wait)
	c.due = c.waitUntil.Add(o.timeout)
	heap.Push(&o.due, c)
	o.pump(now, s)
	return true
}

// forgetStreams makes room for another stream. A stream is kept for a while after
// its last result, so that what is late on the network stays below its floor.
func (o *Sender) forgetStreams(now time.Time) {
	if len(o.streams) < maxStreams {
		return
	}
	for target, s := range o.streams {
		if s.head == len(s.list) && now.Sub(s.used) > streamIdle {
			delete(o.streams, target)
		}
	}
}

// LineUp sends what waits for a session.
func (o *Sender) LineUp(now time.Time, moment *wire.Moment) {
	o.up, o.moment = true, moment
	for _, s := range o.streams {
		o.pump(now, s)
	}
}

// LineDown marks what was sent: its fate is unknown.
func (o *Sender) LineDown() {
	o.up = false
	for _, s := range o.streams {
		for _, c := range s.list[s.head:s.fresh] {
			if c.state == flying {
				o.hold(c, true)
			}
		}
		o.unpause(s)
	}
}

// hold takes a command off the wire.
func (o *Sender) hold(c *Outgoing, resent bool) {
	o.land(c)
	c.state, c.resent = held, resent
	c.stream.held++
}

// land gives back the room of a flying command.
func (o *Sender) land(c *Outgoing) {
	c.stream.flying--
	c.stream.flyingBytes -= c.cost()
	o.flying--
	o.flyingBytes -= c.cost()
}

// Result takes a CommandResult that has been checked.
func (o *Sender) Result(now time.Time, r *wire.CommandResult) {
	c := o.byID[r.GetId()]
	if c == nil {
		return // resolved before
	}
	s := c.stream
	s.used = now
	code, origin := wire.Code(r.GetCode()), r.GetOrigin()
	if origin == wire.Origin_ORIGIN_UNSPECIFIED {
		origin = wire.Origin_ORIGIN_SERVER // who is asked speaks for himself
	}
	final := r.GetOutcome() == wire.CommandOutcome_COMMAND_OUTCOME_FINAL
	if c.state != flying && !(final && (origin == wire.Origin_ORIGIN_PEER || code == wire.OK)) {
		return // about an earlier sending
	}
	switch {
	case r.GetOutcome() == wire.CommandOutcome_COMMAND_OUTCOME_GAP:
		o.unpause(s)
		o.hold(c, false)
		if c.gaps++; c.gaps > maxGaps {
			o.pause(now, s)
		}
	case r.GetOutcome() == wire.CommandOutcome_COMMAND_OUTCOME_LOST:
		o.hold(c, true)
	case c.resent && origin != wire.Origin_ORIGIN_PEER && notYet(code):
		o.hold(c, true)
		o.pause(now, s)
	case (code == wire.PeerOffline || code == wire.OverLimit) && origin != wire.Origin_ORIGIN_PEER && now.Before(c.waitUntil):
		// Many who wait for their peers ask so often that the server has enough.
		o.hold(c, false)
		c.waiting = code
		o.setDue(c, c.waitUntil)
		o.pause(now, s)
	default:
		if origin == wire.Origin_ORIGIN_PEER || code == wire.OK {
			o.unpause(s)
		}
		o.resolve(Outcome{c, origin, code, r.GetDetail(), r.GetReply()})
	}
	o.pump(now, s)
	o.feed(now)
}

// notYet reports whether the server's refusal may pass. A command that was sent
// again may have been delivered by then, so its result cannot be that it was not.
func notYet(code wire.Code) bool {
	return code == wire.PeerOffline || code == wire.PeerBusy || code == wire.OverLimit
}

// pause keeps the held commands of a stream back for a while, longer each time.
func (o *Sender) pause(now time.Time, s *outStream) {
	if now.Before(s.pausedUntil) {
		return
	}
	s.retry = min(max(2*s.retry, retryFirst), retryMost)
	s.pausedUntil = now.Add(s.retry)
	o.paused[s] = struct{}{}
}

func (o *Sender) unpause(s *outStream) {
	s.retry, s.pausedUntil = 0, time.Time{}
	delete(o.paused, s)
}

func (o *Sender) setDue(c *Outgoing, at time.Time) {
	c.due = at
	heap.Fix(&o.due, c.place)
}

// resolve ends a command. What goes on in its stream is the caller's to pump.
func (o *Sender) resolve(r Outcome) {
	c, s := r.Command, r.Command.stream
	switch c.state {
	case flying:
		o.land(c)
	case held:
		s.held--
	}
	c.state = resolved
	delete(o.byID, c.ID)
	heap.Remove(&o.due, c.place)
	o.bytes -= c.cost()
	for s.head < len(s.list) && s.list[s.head].state == resolved {
		s.list[s.head] = nil
		s.head++
	}
	s.fresh = max(s.fresh, s.head)
	switch {
	case s.head == len(s.list):
		s.list, s.head, s.fresh = s.list[:0], 0, 0
		o.unpause(s)
	case s.head >= compactAt && s.head > len(s.list)/2:
		n := copy(s.list, s.list[s.head:])
		clear(s.list[n:])
		s.list, s.fresh, s.head = s.list[:n], s.fresh-s.head, 0
	}
	o.work.Outcomes = append(o.work.Outcomes, r)
}

// Tick resolves what is out of time and goes on with streams whose pause is over.
func (o *Sender) Tick(now time.Time) {
	var touched []*outStream
	for len(o.due) > 0 && !now.Before(o.due[0].due) {
		c := o.due[0]
		code := wire.PeerNoAnswer
		switch {
		case c.waiting != wire.OK:
			code = c.waiting
		case !o.up && !c.sent:
			code = wire.ConnectionLost
		}
		o.resolve(Outcome{Command: c, Code: code})
		touched = append(touched, c.stream)
	}
	for s := range o.paused {
		if !now.Before(s.pausedUntil) {
			delete(o.paused, s)
			touched = append(touched, s)
		}
	}
	for _, s := range touched {
		o.pump(now, s)
	}
	o.feed(now)
}

// Wake returns when tick has something to do, and false for never.
func (o *Sender) Wake() (time.Time, bool) {
	var at time.Time
	if len(o.due) > 0 {
		at = o.due[0].due
	}
	for s := range o.paused {
		if at.IsZero() || s.pausedUntil.Before(at) {
			at = s.pausedUntil
		}
	}
	return at, !at.IsZero()
}

// End resolves everything.
func (o *Sender) End(origin wire.Origin, code wire.Code, detail string) {
	for _, s := range o.streams {
		for _, c := range append([]*Outgoing(nil), s.list[s.head:]...) {
			if c.state != resolved {
				o.resolve(Outcome{Command: c, Origin: origin, Code: code, Detail: detail})
			}
		}
	}
}

// feed goes on with streams that found no room.
func (o *Sender) feed(now time.Time) {
	for o.flying < maxFlying && o.flyingBytes < maxFlyingBytes && len(o.starved) > 0 {
		s := o.starved[0]
		o.starved = o.starved[1:]
		s.starved = false
		o.pump(now, s)
		if s.starved {
			return // no room for its next one either
		}
	}
}

// pump sends what may be sent of one stream.
func (o *Sender) pump(now time.Time, s *outStream) {
	if !o.up {
		return
	}
	if paused := now.Before(s.pausedUntil); s.held > 0 && !paused && !o.pumpHeld(now, s) {
		return
	}
	// Past held commands that are paused new ones may go: if the peer is offline
	// they learn it at once, if not a GAP tells that the pause can end.
	for s.fresh < len(s.list) {
		c := s.list[s.fresh]
		if c.state == fresh && !o.send(now, c) {
			return
		}
		s.fresh++
	}
}

// pumpHeld sends held commands in order. It reports false if some must stay, so
// that nothing above them is sent.
func (o *Sender) pumpHeld(now time.Time, s *outStream) bool {
	open := false // something below has been on the wire for a while, or may have arrived
	for _, c := range s.list[s.head:s.fresh] {
		switch c.state {
		case flying:
			open = true
		case held:
			if open && !c.resent || !o.send(now, c) {
				return false
			}
			open = open || c.resent
		}
	}
	return true
}

// send puts a command on the wire, if there is room.
func (o *Sender) send(now time.Time, c *Outgoing) bool {
	s, cost := c.stream, c.cost()
	if s.flying >= maxFlyingTo || s.flying > 0 && s.flyingBytes+cost > maxFlyingToByte {
		return false // its own results will pump it
	}
	if o.flying >= maxFlying || o.flying > 0 && o.flyingBytes+cost > maxFlyingBytes {
		if !s.starved {
			s.starved = true
			o.starved = append(o.starved, s)
		}
		return false
	}
	if c.state == held {
		s.held--
	}
	if !c.sent {
		c.since = o.moment
	}
	c.state, c.sent, c.waiting = flying, true, wire.OK
	s.flying++
	s.flyingBytes += cost
	o.flying++
	o.flyingBytes += cost
	if c.Wait > 0 && !c.resent { // the time for an answer begins when the peer may be there
		o.setDue(c, now.Add(o.timeout))
	}
	f := o.work.frame()
	f.Id, f.Target, f.Stream, f.Seq, f.Floor = c.ID, c.Target, s.id, c.seq, s.floor()
	f.Resent, f.Data, f.Meta = c.resent, c.Data, c.Meta
	if c.resent {
		f.Since = c.since
	}
	return true
}

// Take puts what is to be done into w, which is empty, and takes w's memory for what
// comes next.
func (o *Sender) Take(w *Work) { o.work, *w = *w, o.work }

// A dueHeap orders commands by the time at which they are out of time.
type dueHeap []*Outgoing

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].due.Before(h[j].due) }
func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i, j
}
func (h *dueHeap) Push(x any) {
	c := x.(*Outgoing)
	c.place = len(*h)
	*h = append(*h, c)
}
func (h *dueHeap) Pop() any {
	old := *h
	c := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return c
}
