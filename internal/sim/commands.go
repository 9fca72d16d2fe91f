package sim

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/dian-im/dian/internal/command"
	"github.com/dian-im/dian/internal/wire"
)

const (
	commandWait    = 30 * time.Second // the server's, for an ack
	commandTimeout = time.Minute      // the sender's, for a result
)

// A sentCommand is one that alice's application has sent.
type sentCommand struct {
	id        string
	number    int
	life      int // of alice
	results   int
	code      wire.Code
	delivered int // how often bob's application, or its queue, got it, in all his lives
	got       map[*receiver]gotCommand
}

// A gotCommand is when somebody got one, in which life of his.
type gotCommand struct {
	life int
	at   time.Time
}

// A commandSide is alice's part: the machine of one life and its results.
type commandSide struct {
	w       *world
	life    int
	box     *command.Sender
	wake    int
	streams uint64
	all     []*sentCommand
	byID    map[string]*sentCommand
}

func newCommandSide(w *world) *commandSide {
	return &commandSide{w: w, byID: map[string]*sentCommand{}}
}

// boot begins a life. Commands of the life before have no result any more.
func (c *commandSide) boot(life int) {
	c.life = life
	c.box = command.NewSender(commandTimeout, func() uint64 { c.streams++; return c.streams<<16 + uint64(life) })
}

// send sends the next command.
func (c *commandSide) send(wait time.Duration) {
	if !c.w.alice.alive {
		return
	}
	x := &sentCommand{id: fmt.Sprintf("command-%d", len(c.all)), number: len(c.all), life: c.life, got: map[*receiver]gotCommand{}}
	c.all = append(c.all, x)
	c.byID[x.id] = x
	c.w.counts.Commands++
	if !c.box.Add(c.w.now, &command.Outgoing{ID: x.id, Target: "bob", Data: []byte{byte(x.number)}, Task: x, Wait: wait}) {
		c.w.fail("%s is not taken", x.id)
	}
	c.do()
}

func (c *commandSide) lineUp(moment *wire.Moment) { c.box.LineUp(c.w.now, moment); c.do() }
func (c *commandSide) lineDown()                  { c.box.LineDown(); c.do() }

// do does what the machine says.
func (c *commandSide) do() {
	w, life := c.w, c.life
	var work command.Work
	c.box.Take(&work)
	for _, f := range work.Frames {
		l := w.alice.line
		if l == nil {
			w.fail("%s is sent without a session", f.Id)
			return
		}
		w.note("alice sends %s: stream %d seq %d floor %d resent %v", f.Id, f.Stream, f.Seq, f.Floor, f.Resent)
		l.toServer(func(s *server) { s.command(l, f) })
	}
	for _, o := range work.Outcomes {
		x := o.Command.Task.(*sentCommand)
		w.note("%s has its result: %d from %v", x.id, o.Code, o.Origin)
		if x.results++; x.results > 1 {
			w.fail("%s has a second result, %d", x.id, o.Code)
		}
		x.code = o.Code
		if o.Code == wire.OK && x.delivered == 0 {
			w.fail("%s: result 0, and nobody has got it", x.id)
		}
	}
	if at, ok := c.box.Wake(); ok {
		c.wake++
		wake := c.wake
		w.at(maxTime(at, w.now), func() {
			if c.wake == wake && c.life == life && w.alice.alive {
				c.box.Tick(w.now)
				c.do()
			}
		})
	}
}

// result takes in a CommandResult.
func (c *commandSide) result(r *wire.CommandResult) {
	c.box.Result(c.w.now, r)
	c.do()
}

// A pendingCommand waits at the server for an ack.
type pendingCommand struct {
	from commandSource
	to   *line
	id   string
}

// A commandSource has sent a command and gets its one result from the server.
type commandSource interface{ commandDone(r *wire.CommandResult) }

func (l *line) commandDone(r *wire.CommandResult) {
	a := l.end.(*sender)
	l.toClient(func() {
		if a.line == l {
			a.commands.result(r)
		}
	})
}

func refused(id string, code wire.Code) *wire.CommandResult {
	return &wire.CommandResult{Id: id, Outcome: wire.CommandOutcome_COMMAND_OUTCOME_FINAL, Code: uint32(code), Origin: wire.Origin_ORIGIN_SERVER}
}

func lost(id string) *wire.CommandResult {
	return &wire.CommandResult{Id: id, Outcome: wire.CommandOutcome_COMMAND_OUTCOME_LOST, Code: uint32(wire.PeerNoAnswer), Origin: wire.Origin_ORIGIN_SERVER}
}

// command takes in a command of alice's and passes it on, when it is known where bob is
// (session.forward, session.forwardLater).
func (s *server) command(from *line, f *wire.Command) {
	pass := func(to *line) {
		if code := s.pass(f, from, to); code != wire.OK {
			from.commandDone(refused(f.Id, code))
		}
	}
	if from.target == nil || !from.target.upThere {
		from.target = s.reach()
	}
	if from.target == nil && s.cluster != nil && s.cluster.seek(func() { pass(s.reach()) }) {
		return
	}
	pass(from.target)
}

// pass queues a command for bob, who may be nil (Server.pass).
func (s *server) pass(f *wire.Command, from commandSource, to *line) wire.Code {
	switch {
	case to == nil:
		return wire.PeerOffline
	case s.w.faulty && s.w.chance(40): // its queue is full
		return wire.PeerBusy
	case !to.upThere:
		return wire.PeerOffline
	}
	s.refs++
	ref := s.refs
	p := &pendingCommand{from, to, f.Id}
	s.pending[ref] = p
	s.refOrder = append(s.refOrder, ref)
	passed := &wire.Command{Id: f.Id, Source: &wire.Peer{User: "alice"}, Ref: ref, Stream: f.Stream, Seq: f.Seq,
		Floor: f.Floor, Resent: f.Resent, Data: f.Data, Since: f.Since}
	if to.far != nil {
		if err := to.far.deliver(to, passed); err != nil {
			if s.take(ref, to, f.Id) == nil {
				return wire.OK // the receiver has gone meanwhile, and from has heard of it
			}
			if errors.Is(err, errOutboxFull) {
				return wire.PeerBusy
			}
			return wire.PeerOffline
		}
	} else {
		b := to.end.(*receiver)
		to.toClient(func() { b.command(passed) })
	}
	s.after(commandWait, func() {
		if s.pending[ref] != p {
			return
		}
		if to.far != nil {
			s.cluster.owes(p, ref)
		}
		s.take(ref, to, f.Id)
		from.commandDone(refused(f.Id, wire.PeerNoAnswer))
	})
	return wire.OK
}

// take removes the command of a ref (pending.take).
func (s *server) take(ref uint64, to *line, id string) *pendingCommand {
	p := s.pending[ref]
	if p == nil || p.to != to || p.id != id {
		return nil
	}
	delete(s.pending, ref)
	if f, is := p.from.(*farCommand); is {
		f.c.settled[farRef{f.node, f.ref}] = s.w.now
	}
	return p
}

// acked takes in a CommandAck from bob.
func (s *server) acked(from *line, ack *wire.CommandAck) {
	if p := s.take(ack.Ref, from, ack.Id); p != nil {
		p.from.commandDone(&wire.CommandResult{Id: ack.Id, Outcome: ack.Outcome, Code: ack.Code, Next: ack.Next, Origin: wire.Origin_ORIGIN_PEER})
	}
}

// commandsLost tells the senders of what a line had not acked.
func (s *server) commandsLost(l *line) {
	order := s.refOrder
	s.refOrder = nil
	var left []uint64
	for _, ref := range order {
		p := s.pending[ref]
		switch {
		case p == nil:
		case p.to != l:
			left = append(left, ref)
		default:
			s.take(ref, l, p.id)
			p.from.commandDone(lost(p.id))
		}
	}
	s.refOrder = append(left, s.refOrder...)
}

// command takes in a command at bob's.
func (b *receiver) command(f *wire.Command) {
	d, ack := b.in.Arrive(b.w.now, f)
	if d != nil {
		b.w.history.delivered(d.ID, b)
		b.queue = append(b.queue, d)
		if len(b.queue) == 1 {
			b.handleNext()
		}
	}
	b.ack(ack)
}

// handleNext has the application handle the next command, in order.
func (b *receiver) handleNext() {
	life, d := b.life, b.queue[0]
	b.w.after(b.w.upTo(b.slow), func() {
		if b.life != life || !b.living() {
			return
		}
		b.queue = b.queue[1:]
		b.ack(b.in.Handled(d, wire.OK, nil, ""))
		if len(b.queue) > 0 {
			b.handleNext()
		}
	})
}

func (b *receiver) ack(a *wire.CommandAck) {
	if a == nil || b.line == nil || !b.living() {
		return
	}
	l := b.line
	a = proto.CloneOf(a) // the machine uses it again while this one is on its way
	b.w.note("bob acks %s: %v %d next %d", a.Id, a.Outcome, a.Code, a.Next)
	l.toServer(func(s *server) { s.acked(l, a) })
}

// delivered notes a command in the queue of bob's application: in the order of
// sending within one life of each, and never twice.
func (h *history) delivered(id string, b *receiver) {
	life := b.life
	x := h.w.alice.commands.byID[id]
	h.w.note("%s gets %s", b.name(), id)
	h.w.counts.Delivered++
	// A node that has stood still passes on what was in its sockets, and nobody can tell
	// another life of bob's that its sender has sent it again meanwhile. Nor do two of bob
	// know what the other one has got.
	before, again := x.got[b]
	if again && (before.life == life || !h.w.wentOn.After(before.at)) {
		h.w.fail("%s is delivered a second time", id)
	}
	x.delivered++
	x.got[b] = gotCommand{life, h.w.now}
	if last := h.lastCommand; last != nil && h.lastLife == life && last.life == x.life && last.number > x.number {
		h.w.fail("%s is delivered after %s", id, last.id)
	}
	if h.lastLife != life || h.lastCommand == nil || h.lastCommand.life <= x.life {
		h.lastCommand, h.lastLife = x, life
	}
}

// checkCommands is for the end.
func (w *world) checkCommands() {
	for _, x := range w.alice.commands.all {
		switch {
		case x.results == 0 && x.life == w.alice.life:
			w.fail("%s has no result", x.id)
		case x.results == 1 && x.code != wire.OK && x.code != wire.PeerNoAnswer && x.code != wire.ConnectionLost && x.delivered > 0:
			w.fail("%s: result %d, and it was delivered", x.id, x.code)
		}
		if x.results > 0 && x.code != wire.OK {
			w.counts.CommandsFailed++
		}
	}
}
