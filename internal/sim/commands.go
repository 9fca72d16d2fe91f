package sim

import (
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
	x := &sentCommand{id: fmt.Sprintf("command-%d", len(c.all)), number: len(c.all), life: c.life}
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
	from, to *line
	id       string
}

// command takes in a command and passes it on.
func (s *server) command(from *line, f *wire.Command) {
	answer := func(outcome wire.CommandOutcome, code wire.Code) {
		s.result(from, &wire.CommandResult{Id: f.Id, Outcome: outcome, Code: uint32(code), Origin: wire.Origin_ORIGIN_SERVER})
	}
	to := s.listener()
	switch {
	case to == nil:
		answer(wire.CommandOutcome_COMMAND_OUTCOME_FINAL, wire.PeerOffline)
		return
	case s.w.faulty && s.w.chance(40): // its queue is full
		answer(wire.CommandOutcome_COMMAND_OUTCOME_FINAL, wire.PeerBusy)
		return
	}
	s.refs++
	ref := s.refs
	p := &pendingCommand{from, to, f.Id}
	s.pending[ref] = p
	s.refOrder = append(s.refOrder, ref)
	passed := &wire.Command{Id: f.Id, Source: &wire.Peer{User: "alice"}, Ref: ref, Stream: f.Stream, Seq: f.Seq,
		Floor: f.Floor, Resent: f.Resent, Data: f.Data, Since: f.Since}
	b := s.w.bob
	to.toClient(func() { b.command(passed) })
	life := s.life
	s.w.after(commandWait, func() {
		if s.alive && s.life == life && s.pending[ref] == p {
			delete(s.pending, ref)
			answer(wire.CommandOutcome_COMMAND_OUTCOME_FINAL, wire.PeerNoAnswer)
		}
	})
}

func (s *server) result(to *line, r *wire.CommandResult) {
	a, life := s.w.alice, s.w.alice.life
	to.toClient(func() {
		if a.life == life && a.line == to {
			a.commands.result(r)
		}
	})
}

// acked takes in a CommandAck from bob.
func (s *server) acked(from *line, ack *wire.CommandAck) {
	p := s.pending[ack.Ref]
	if p == nil || p.to != from || p.id != ack.Id {
		return
	}
	delete(s.pending, ack.Ref)
	s.result(p.from, &wire.CommandResult{Id: ack.Id, Outcome: ack.Outcome, Code: ack.Code, Next: ack.Next, Origin: wire.Origin_ORIGIN_PEER})
}

// commandsLost tells the senders of what a line had not acked.
func (s *server) commandsLost(l *line) {
	var left []uint64
	for _, ref := range s.refOrder {
		p := s.pending[ref]
		if p == nil {
			continue
		}
		if p.to != l {
			left = append(left, ref)
			continue
		}
		delete(s.pending, ref)
		s.result(p.from, &wire.CommandResult{Id: p.id, Outcome: wire.CommandOutcome_COMMAND_OUTCOME_LOST,
			Code: uint32(wire.PeerNoAnswer), Origin: wire.Origin_ORIGIN_SERVER})
	}
	s.refOrder = left
}

// command takes in a command at bob's.
func (b *receiver) command(f *wire.Command) {
	d, ack := b.in.Arrive(b.w.now, f)
	if d != nil {
		b.w.history.delivered(d.ID, b.life)
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
func (h *history) delivered(id string, life int) {
	x := h.w.alice.commands.byID[id]
	h.w.note("bob gets %s", id)
	h.w.counts.Delivered++
	if x.delivered++; x.delivered > 1 {
		h.w.fail("%s is delivered a second time", id)
	}
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
