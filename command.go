package dian

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/dian-im/dian/internal/command"
	"github.com/dian-im/dian/internal/link"
	"github.com/dian-im/dian/internal/wire"
)

// commands joins the two machines of commands, outbox and inorder, to a client:
// it gives them the time and does what they say.
type commands struct {
	c    *Client
	kick chan struct{} // capacity 1: keepTime looks again

	mu   sync.Mutex // guards what follows
	box  *command.Sender
	line *link.Link // the session, once unresolved commands were sent on it
	wake time.Time  // what keepTime waits for; zero: nothing
	off  *Error
	out  commandFrame
	work *command.Work // empty, for who takes the next; nil: none is left

	inMu sync.Mutex // guards in
	in   *command.Receiver

	deliver func(any) // handle, of a *command.Incoming
	answer  ackFrame  // owned by the session's reader
}

// Frames that are used again: sending encodes at once.
type (
	commandFrame struct {
		frame wire.Frame
		body  wire.Frame_Command
	}
	ackFrame struct {
		frame wire.Frame
		body  wire.Frame_CommandAck
	}
)

func (f *commandFrame) of(c *wire.Command) *wire.Frame {
	f.body.Command, f.frame.Body = c, &f.body
	return &f.frame
}

func (f *ackFrame) of(a *wire.CommandAck) *wire.Frame {
	f.body.CommandAck, f.frame.Body = a, &f.body
	return &f.frame
}

func newCommands(c *Client) *commands {
	random := func() uint64 {
		for {
			if n := rand.Uint64(); n != 0 {
				return n
			}
		}
	}
	m := &commands{
		c: c, kick: make(chan struct{}, 1),
		box: command.NewSender(c.opts.commandTimeout, random),
		in:  command.NewReceiver(c.opts.ackHandled),
	}
	m.deliver = func(d any) { m.handle(d.(*command.Incoming)) }
	return m
}

// SendCmd sends up to 65,536 bytes to a user, in one piece; they are copied. It
// does not wait: the Task and SendCmdResult tell the result. Commands of this
// client to one target arrive in the order of the calls and once each, over lost
// connections too. A command cannot be cancelled.
//
// Results: 0 the peer has it, 603 it is offline, 604 no answer in time or fate
// unknown, 602 its queue is full, 606 it refused, 1100 too large, 1102 bad target,
// 5 bad option, 207 the line was down for too long, 1111 more than 65,536 commands
// or 64 MiB of them are under way or the server has a limit (docs/configuration.md),
// 12 the client is closed, 23 not allowed.
func (c *Client) SendCmd(target string, data []byte, opts ...SendOption) *Task {
	t := newTask(c, Command, target, sendOptions{}, opts...)
	if t.ended() {
		return t
	}
	if limit := c.limit((*wire.Limits).GetCommandBytes, wire.CommandBytes); len(data) > limit {
		t.finish(Result{Size: int64(len(data)), Err: localError(t.op(), target, ErrCommandTooLarge, "", nil)})
		return t
	}
	c.commands.send(t, bytes.Clone(data))
	return t
}

func (m *commands) send(t *Task, data []byte) {
	m.mu.Lock()
	if m.off != nil {
		off := m.off
		m.mu.Unlock()
		t.finish(Result{Size: int64(len(data)), Err: off.with(t.op(), t.target)})
		return
	}
	taken := m.box.Add(time.Now(), &command.Outgoing{
		ID: t.id, Target: t.target, Data: data, Meta: bytes.Clone(t.opts.meta), Task: t, Wait: t.opts.wait,
	})
	m.doAndUnlock()
	if !taken {
		t.finish(Result{Size: int64(len(data)), Err: localError(t.op(), t.target, ErrOverLimit, "too many commands under way", nil)})
	}
}

// doAndUnlock does what the outbox says: frames with the lock held, so that they
// keep their order, and results without it.
func (m *commands) doAndUnlock() {
	work := m.work
	if m.work = nil; work == nil {
		work = new(command.Work)
	}
	m.box.Take(work)
	for _, f := range work.Frames {
		if m.line != nil {
			// An error ends the session; lineDown and lineUp then send it again.
			_ = m.c.push(m.line, m.out.of(f))
		}
	}
	if at, ok := m.box.Wake(); ok && (m.wake.IsZero() || at.Before(m.wake)) {
		m.wake = at
		select {
		case m.kick <- struct{}{}:
		default:
		}
	}
	if len(work.Outcomes) == 0 {
		m.giveLocked(work)
		m.mu.Unlock()
		return
	}
	m.mu.Unlock()
	for _, o := range work.Outcomes {
		r := Result{Reply: bytes.Clone(o.Reply), Size: int64(len(o.Command.Data))}
		if o.Code != wire.OK {
			r.Reply = nil
			r.Err = &Error{Op: "send command", Peer: o.Command.Target, Origin: ownOrigin(o.Origin), Code: Code(o.Code), Detail: o.Detail}
		}
		o.Command.Task.(*Task).finish(r)
	}
	m.mu.Lock()
	m.giveLocked(work)
	m.mu.Unlock()
}

// giveLocked takes work that is done, for its memory, unless it has grown large.
func (m *commands) giveLocked(work *command.Work) {
	work.Clear()
	if cap(work.Frames) <= 64 && cap(work.Outcomes) <= 64 {
		m.work = work
	}
}

// keepTime tells the outbox when it is time.
func (m *commands) keepTime() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-m.c.ctx.Done():
			return
		case <-m.kick:
		case <-timer.C:
			m.mu.Lock()
			m.box.Tick(time.Now())
			m.wake = time.Time{}
			m.doAndUnlock()
		}
		m.mu.Lock()
		at := m.wake
		m.mu.Unlock()
		if !at.IsZero() {
			timer.Reset(time.Until(at))
		}
	}
}

// lineUp sends what has no result, before anything new, and lets new ones go.
func (m *commands) lineUp(l *link.Link, moment *wire.Moment) {
	m.inMu.Lock()
	m.in.LineUp(moment)
	m.inMu.Unlock()
	m.mu.Lock()
	m.line = l
	m.box.LineUp(time.Now(), moment)
	m.doAndUnlock()
}

func (m *commands) lineDown() {
	m.mu.Lock()
	m.line = nil
	m.box.LineDown()
	m.doAndUnlock()
}

func (m *commands) result(r *wire.CommandResult) {
	m.mu.Lock()
	m.box.Result(time.Now(), r)
	m.doAndUnlock()
}

// lose ends all commands because the line was down for too long.
func (m *commands) lose() {
	m.mu.Lock()
	if m.line == nil {
		m.box.End(wire.Origin_ORIGIN_UNSPECIFIED, wire.ConnectionLost, "")
	}
	m.doAndUnlock()
}

func (m *commands) close(why *Error) {
	m.mu.Lock()
	m.off = why
	m.box.End(why.Origin.wire(), wire.Code(why.Code), why.Detail)
	m.doAndUnlock()
}

// arrive takes a command from a peer, on the session's reader.
func (m *commands) arrive(l *link.Link, c *wire.Command) {
	h := &m.c.opts.handler
	if h.NotifyCmdData == nil && h.HandleCmd == nil {
		m.ack(l, command.Final(c, wire.PeerRefused, "commands are not handled"))
		return
	}
	m.inMu.Lock()
	d, ack := m.in.Arrive(time.Now(), c)
	m.inMu.Unlock()
	// The ack first: a callback that closes the client would take it with it, and the
	// sender would not know that its command has arrived. It says that the command is
	// queued, which nothing can prevent any more.
	if ack != nil {
		m.ack(l, ack)
	}
	if d != nil {
		m.c.events.call(m.deliver, d)
	}
}

// refuse answers a command whose fields are wrong, which a good server stops.
func (m *commands) refuse(l *link.Link, c *wire.Command, err error) {
	if wire.CheckSendID(c.GetId()) == nil {
		m.ack(l, command.Final(c, wire.Code(checkError("", "", err).Code), ""))
	}
}

func (m *commands) ack(l *link.Link, a *wire.CommandAck) {
	// An error ends the session, and the sender asks again.
	_ = m.c.sendBy(l, l, m.answer.of(a))
}

// handle gives a command to the application, on the callback goroutine.
func (m *commands) handle(d *command.Incoming) {
	h := &m.c.opts.handler
	data := CmdData{Source: d.Source, SendID: d.ID, Data: d.Data, Meta: d.Meta}
	var reply []byte
	var err error
	if h.HandleCmd != nil {
		reply, err = h.HandleCmd(data)
	} else {
		h.NotifyCmdData(data)
	}
	code, detail := OK, ""
	switch limit := m.c.limit((*wire.Limits).GetReplyBytes, wire.ReplyBytes); {
	case err != nil:
		reply = nil
		code, detail = handlerCode(err)
	case len(reply) > limit:
		reply, code, detail = nil, ErrCommandTooLarge, "the reply is too large"
	}
	m.inMu.Lock()
	ack := m.in.Handled(d, wire.Code(code), bytes.Clone(reply), detail)
	m.inMu.Unlock()
	if ack != nil {
		_ = m.c.sendFrame(&wire.Frame{Body: &wire.Frame_CommandAck{CommandAck: ack}})
	}
}

// handlerCode is what a sender gets for a handler's error: the code it carries,
// or 606. Only an *Error's Detail travels: other texts may hold paths or names.
func handlerCode(err error) (Code, string) {
	code := CodeOf(err)
	if code == OK || code == ErrUnknown {
		code = ErrPeerRefused
	}
	detail := ""
	if e, ok := errors.AsType[*Error](err); ok {
		detail = strings.ToValidUTF8(e.Detail, "")
		if len(detail) > wire.DetailBytes {
			detail = strings.ToValidUTF8(detail[:wire.DetailBytes], "")
		}
	}
	return code, detail
}
