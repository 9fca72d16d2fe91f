package server

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dian-im/dian/internal/link"
	"github.com/dian-im/dian/internal/wire"
)

// commands counts the commands of all sessions that have no result yet.
type commands struct{ pending atomic.Int64 }

// A commandSource has sent a command and gets its one result.
type commandSource interface {
	// commandDone gets the result of a command of this size. It may be called on
	// any goroutine, does not block and does not keep r. It reports whether there
	// is still somebody to hear it.
	commandDone(size int, r *resultFrame) (heard bool)
	// sender tells who that is, for the audit.
	sender() (user, address, via string)
}

// A resultFrame is a CommandResult with the frame around it, in one piece and
// used again for the next: Link.Send encodes at once.
type resultFrame struct {
	frame  wire.Frame
	body   wire.Frame_CommandResult
	result wire.CommandResult
	by     *link.Link // whose reader tells it; nil: no reader does
}

func (r *resultFrame) set(id string, outcome wire.CommandOutcome, code wire.Code, origin wire.Origin, detail string) {
	r.body.CommandResult = &r.result
	r.frame.Body = &r.body
	r.result.Id, r.result.Outcome, r.result.Code, r.result.Origin = id, outcome, uint32(code), origin
	r.result.Detail = detail
	r.result.Next, r.result.Reply, r.result.Header = 0, nil, nil
}

// refuse makes it a final answer of the server.
func (r *resultFrame) refuse(id string, code wire.Code, detail string) {
	r.set(id, wire.CommandOutcome_COMMAND_OUTCOME_FINAL, code, wire.Origin_ORIGIN_SERVER, detail)
}

// commandSize is what a command costs as long as it has no result.
func commandSize(c *wire.Command) int {
	return len(c.Data) + len(c.Meta) + len(c.Header) + commandOverhead
}

// command handles a Command of this session. Its reader calls it.
func (s *session) command(f *wire.Frame, c *wire.Command) {
	refusal := s.forward(f, c)
	if refusal == nil {
		return // commandDone will be called
	}
	id := c.Id
	if len(id) > 36 { // no sendID; the sender will know its beginning
		id = id[:36]
	}
	s.srv.metrics.command(wire.CommandOutcome_COMMAND_OUTCOME_FINAL, refusal.Code)
	if s.srv.audit != nil {
		s.srv.audit.refusedCommand(s.token(), viaSession, c, refusal)
	}
	s.results.refuse(id, refusal.Code, refusal.Detail)
	_ = s.sendBy(s.link, &s.results.frame) // fails only for a session that ends
}

func (s *session) forward(f *wire.Frame, c *wire.Command) *wire.Error {
	if refusal := s.party.command(1); refusal != nil {
		return refusal
	}
	if refusal := checkCommand(c); refusal != nil {
		return refusal
	}
	if s.srv.cfg.Authorize != nil {
		s.link.WakeOthers() // it may take its time
	}
	if refusal := s.srv.allow(s.ctx, *s.claims.Load(), VerbSend, c.Target, "command"); refusal != nil {
		return refusal
	}
	if refusal := s.srv.audit.mayBegin(); refusal != nil {
		return refusal
	}
	size := commandSize(c)
	if refusal := s.party.sent(int64(size)); refusal != nil {
		return refusal
	}
	if s.target == nil || s.target.user != c.Target || !s.target.live() {
		s.aim(s.srv.reach(s.app, c.Target))
	}
	if s.target == nil && s.forwardLater(c, size) {
		return nil
	}
	refusal := s.srv.pass(f, c, s.peer, s, s.link, size, s.target, s.targetShare)
	if refusal != nil {
		s.party.sent(-int64(size))
		if refusal.Code == wire.PeerOffline {
			s.party.absent()
		}
	}
	return refusal
}

// aim remembers whom the next commands go to; nil is nobody.
func (s *session) aim(to *session) {
	if s.targetShare != nil {
		s.targetShare.leave()
		s.targetShare = nil
	}
	if s.target = to; to != nil {
		s.targetShare = to.shares.get(s.user)
	}
}

// sent counts bytes of the user's commands without result.
func (p *party) sent(n int64) *wire.Error {
	if p.user.add(countSent, n, p.app.limits.Load().user.most[cellQueued]) {
		return nil
	}
	return p.q.over(cellNames[cellQueued], scopeUser, wire.OverLimit, "too much without result")
}

// checkCommand is wire.CheckCommand with the codes of docs/protocol.md §6.
func checkCommand(c *wire.Command) *wire.Error {
	err := wire.CheckCommand(c)
	if err == nil {
		return nil
	}
	refusal := asRefusal(err)
	if refusal.Code == wire.BadSendID {
		refusal = &wire.Error{Code: wire.BadParameter, Detail: refusal.Detail}
	}
	return refusal
}

// asRefusal returns the *wire.Error in err.
func asRefusal(err error) *wire.Error {
	if refusal, ok := errors.AsType[*wire.Error](err); ok {
		return refusal
	}
	return &wire.Error{Code: wire.BadParameter, Detail: err.Error()}
}

// pass stamps a checked and allowed command and queues it for a receiver, which
// may be nil. Without an error, from gets commandDone once; with one it never
// does, and the receiver never gets the command. f is the frame of c, and by the
// link whose reader calls, or nil.
func (s *Server) pass(f *wire.Frame, c *wire.Command, source *wire.Peer, from commandSource, by *link.Link, size int, to *session, sh *share) *wire.Error {
	if to == nil {
		return &wire.Error{Code: wire.PeerOffline}
	}
	if no := to.room(sh, size); no != nil {
		return no
	}
	ref, code := to.pending.add(pendingCommand{from: from, id: c.Id, size: size, bytes: len(c.Data), resent: c.Resent, share: sh})
	if code != wire.OK {
		return &wire.Error{Code: code}
	}
	s.commands.pending.Add(1)
	to.party.keep(commandOverhead)
	c.Source, c.Ref = source, ref
	var err error
	if to.far != nil {
		err = to.far.deliver(to, f, from)
	} else {
		err = to.link.SendBy(by, f)
	}
	if err == nil {
		return nil
	}
	p, ok := to.pending.take(ref, c.Id)
	if !ok {
		return nil // the receiver has gone meanwhile, and from has heard of it
	}
	to.settled(p)
	switch {
	case errors.Is(err, link.ErrFull):
		return &wire.Error{Code: wire.PeerBusy}
	case errors.Is(err, link.ErrClosed):
		return &wire.Error{Code: wire.PeerOffline}
	}
	s.log.Error("command not encoded", "err", err)
	return &wire.Error{Code: wire.Internal}
}

// settled gives back what a command to this session has cost that has a result.
func (s *session) settled(c pendingCommand) {
	s.srv.commands.pending.Add(-1)
	s.party.keep(-commandOverhead)
	c.share.settle(c.size)
}

// commandAck handles the word of this session on a command. Its reader calls it.
func (s *session) commandAck(a *wire.CommandAck) error {
	if err := wire.CheckCommandAck(a); err != nil {
		return violation(err)
	}
	p, ok := s.pending.take(a.Ref, a.Id)
	if !ok { // timed out, or never there
		s.srv.metrics.ignored.WithLabelValues("command_ack").Inc()
		return nil
	}
	s.results.set(a.Id, a.Outcome, wire.Code(a.Code), wire.Origin_ORIGIN_PEER, a.Detail)
	s.results.result.Next, s.results.result.Reply, s.results.result.Header = a.Next, a.Reply, a.Header
	s.results.by = s.link
	s.settle(p, &s.results)
	return nil
}

// settle tells the sender of a command to this session its result.
func (s *session) settle(p pendingCommand, r *resultFrame) {
	s.settled(p)
	final := r.result.Outcome == wire.CommandOutcome_COMMAND_OUTCOME_FINAL
	if !final { // before its sender can send it again
		s.srv.audit.command(s, p, &r.result, true)
	}
	heard := p.from.commandDone(p.size, r)
	if final {
		s.srv.audit.command(s, p, &r.result, heard)
	}
}

// commandDone passes a result to the sender's connection.
func (s *session) commandDone(size int, r *resultFrame) bool {
	s.party.sent(-int64(size))
	s.srv.metrics.command(r.result.Outcome, wire.Code(r.result.Code))
	return s.sendBy(r.by, &r.frame) == nil // a sender that has gone asks again in its next session
}

func (s *session) sender() (user, address, via string) { return s.user, s.address, viaSession }

// A pendingCommand waits for its receiver's ack.
type pendingCommand struct {
	from     commandSource // nil in a free slot
	id       string
	size     int
	bytes    int  // of its data
	resent   bool // its sender has sent it before
	share    *share
	ref      uint64
	deadline time.Time
	next     int32 // of a free slot: the next free one, or -1
}

// slotBits is how many bits of a ref are the slot's index. The others count, so
// that no ref is ever used again.
const slotBits = 16

// pending holds the commands that were passed to one session. One timer serves
// all of them: a timer for each would cost more than the rest of a command.
type pending struct {
	// Set before use.
	wait    time.Duration
	expired func(pendingCommand) // called without the lock

	mu    sync.Mutex // guards the rest
	slots []pendingCommand
	free  int32 // first free slot, or -1
	used  int
	count uint64
	timer *time.Timer // nil before the first command
	armed bool
	over  bool
}

// add takes a command in and returns its ref; a code says why not.
func (p *pending) add(c pendingCommand) (ref uint64, code wire.Code) {
	c.deadline = time.Now().Add(p.wait)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.over:
		return 0, wire.PeerOffline
	case c.share.commands() >= maxPending-p.used:
		return 0, wire.PeerBusy
	}
	at := p.free
	switch {
	case p.used < len(p.slots):
		p.free = p.slots[at].next
	case len(p.slots) >= maxPending:
		return 0, wire.PeerBusy
	default:
		at = int32(len(p.slots))
		p.slots = append(p.slots, pendingCommand{})
	}
	p.count++
	c.ref = p.count<<slotBits | uint64(at)
	p.slots[at] = c
	p.used++
	c.share.add(c.size)
	if !p.armed {
		p.armed = true
		if p.timer == nil {
			p.timer = time.AfterFunc(p.wait, p.sweep)
		} else {
			p.timer.Reset(p.wait)
		}
	}
	return c.ref, wire.OK
}

// take removes the command of a ref if it is still there under this id.
func (p *pending) take(ref uint64, id string) (pendingCommand, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := ref & (1<<slotBits - 1)
	if at >= uint64(len(p.slots)) {
		return pendingCommand{}, false
	}
	c := p.slots[at]
	if c.from == nil || c.ref != ref || c.id != id {
		return pendingCommand{}, false
	}
	p.freeLocked(int32(at))
	return c, true
}

func (p *pending) freeLocked(at int32) {
	p.slots[at] = pendingCommand{next: p.free}
	p.free = at
	p.used--
	if p.used == 0 && len(p.slots) > 256 { // a burst is over
		p.slots, p.free = nil, -1
	}
}

// sweep is the timer's function: it ends the commands whose time is over.
func (p *pending) sweep() {
	for _, c := range p.due(time.Now()) {
		p.expired(c)
	}
}

func (p *pending) due(now time.Time) []pendingCommand {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.armed = false
	if p.over {
		return nil
	}
	var due []pendingCommand
	var first time.Time
	for at := range p.slots {
		c := p.slots[at]
		switch {
		case c.from == nil:
		case !c.deadline.After(now):
			due = append(due, c)
			p.slots[at] = pendingCommand{next: p.free}
			p.free = int32(at)
			p.used--
		case first.IsZero() || c.deadline.Before(first):
			first = c.deadline
		}
	}
	if !first.IsZero() {
		p.armed = true
		// Not for every command its own sweep: a few may wait a little longer.
		p.timer.Reset(max(first.Sub(now), 50*time.Millisecond))
	}
	return due
}

// close ends the table and returns what was in it.
func (p *pending) close() []pendingCommand {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	if p.timer != nil {
		p.timer.Stop()
	}
	var left []pendingCommand
	for _, c := range p.slots {
		if c.from != nil {
			left = append(left, c)
		}
	}
	p.slots, p.free, p.used = nil, -1, 0
	return left
}

// commandExpired tells a sender that this session gave no ack in time.
func (s *session) commandExpired(c pendingCommand) {
	var r resultFrame
	r.refuse(c.id, wire.PeerNoAnswer, "no ack in time")
	if s.far != nil { // the receiver's node writes the audit
		s.settled(c)
		c.from.commandDone(c.size, &r)
		return
	}
	s.settle(c, &r)
}

// commandsLost tells all senders whose commands a session had not acked that its
// line broke: nobody knows whether they were delivered.
func (s *session) commandsLost() {
	var r resultFrame
	for _, c := range s.pending.close() {
		r.set(c.id, wire.CommandOutcome_COMMAND_OUTCOME_LOST, wire.PeerNoAnswer,
			wire.Origin_ORIGIN_SERVER, "the receiver's line broke")
		s.settle(c, &r)
	}
}

// postedCommand is the source of a command that came by POST.
type postedCommand struct {
	by     claims
	result chan *wire.CommandResult // capacity 1
}

func (p *postedCommand) commandDone(_ int, r *resultFrame) bool {
	// The message is used again, and bytes in it are those of a receiver's message.
	p.result <- &wire.CommandResult{
		Id: r.result.Id, Outcome: r.result.Outcome, Code: r.result.Code,
		Origin: r.result.Origin, Detail: r.result.Detail, Reply: bytes.Clone(r.result.Reply),
	}
	return true
}

func (p *postedCommand) sender() (user, address, via string) { return p.by.User, p.by.address, viaPost }

// post sends a command for an HTTP request and waits for its result, which is
// always final.
func (s *Server) post(ctx context.Context, by *caller, c *wire.Command) *wire.CommandResult {
	refused := func(e *wire.Error) *wire.CommandResult {
		s.metrics.command(wire.CommandOutcome_COMMAND_OUTCOME_FINAL, e.Code)
		s.audit.refusedCommand(by.claims, viaPost, c, e)
		return &wire.CommandResult{Id: c.Id, Code: uint32(e.Code), Detail: e.Detail}
	}
	if refusal := checkCommand(c); refusal != nil {
		return refused(refusal)
	}
	if refusal := s.allow(ctx, by.claims, VerbSend, c.Target, "command"); refusal != nil {
		return refused(refusal)
	}
	if refusal := s.audit.mayBegin(); refusal != nil {
		return refused(refusal)
	}
	if !s.keys.trusts(by.claims) { // reading the body took a while
		return refused(&wire.Error{Code: wire.TokenRefused})
	}
	from := &postedCommand{by: by.claims, result: make(chan *wire.CommandResult, 1)}
	f := &wire.Frame{Body: &wire.Frame_Command{Command: c}}
	to := s.listener(by.App, c.Target)
	var sh *share
	if to != nil {
		sh = to.shares.get(by.User)
		defer sh.leave()
	}
	if refusal := s.pass(f, c, &wire.Peer{User: by.User}, from, nil, commandSize(c), to, sh); refusal != nil {
		if refusal.Code == wire.PeerOffline {
			by.absent()
		}
		return refused(refusal)
	}
	for {
		change := s.keys.change()
		if !s.keys.trusts(by.claims) {
			// It is delivered, or will be; only its sender does not count any more.
			s.withdraw(to, c, wire.TokenRefused)
			return &wire.CommandResult{Id: c.Id, Code: uint32(wire.TokenRefused)}
		}
		select {
		case r := <-from.result:
			s.metrics.command(r.Outcome, wire.Code(r.Code))
			if r.Outcome != wire.CommandOutcome_COMMAND_OUTCOME_FINAL {
				// Lost: fate unknown. A gap is no answer to a command without stream.
				return &wire.CommandResult{Id: c.Id, Code: uint32(wire.PeerNoAnswer), Detail: r.Detail}
			}
			return r
		case <-change:
		case <-ctx.Done(): // the client has gone; nobody reads what is returned
			s.withdraw(to, c, wire.PeerNoAnswer)
			return &wire.CommandResult{Id: c.Id, Code: uint32(wire.PeerNoAnswer)}
		}
	}
}

// withdraw ends a POST's command whose result nobody waits for any more. What its
// receiver did with it nobody will know, and that is what the audit has.
func (s *Server) withdraw(to *session, c *wire.Command, code wire.Code) {
	s.metrics.command(wire.CommandOutcome_COMMAND_OUTCOME_FINAL, code)
	p, ok := to.pending.take(c.Ref, c.Id)
	if !ok {
		return // its result is on its way, and has its line
	}
	to.settled(p)
	s.audit.command(to, p, &wire.CommandResult{Code: uint32(code), Outcome: wire.CommandOutcome_COMMAND_OUTCOME_FINAL}, true)
}
