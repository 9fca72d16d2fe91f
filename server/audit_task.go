package server

import (
	"time"

	relay "github.com/dian-im/dian/internal/transfer"
	"github.com/dian-im/dian/internal/wire"
)

// How a task came to the relay.
const (
	viaSession = "session"
	viaPost    = "post"
	viaTus     = "tus"
	viaPut     = "put"
)

const kindCommand = "command"

// errAuditFails refuses a new task when nobody would know of it.
var errAuditFails = &wire.Error{Code: wire.ServiceFault, Detail: "the relay cannot keep its record of tasks at the moment"}

// mayBegin refuses new tasks while the audit fails, if the operator wants that.
func (a *auditor) mayBegin() *wire.Error {
	if a.refuses() {
		return errAuditFails
	}
	return nil
}

// wellFormed returns a user or sendID for a line, "" if it is none.
func wellFormed(s string, check func(string) error) string {
	if check(s) != nil {
		return ""
	}
	return s
}

// refusedCommand adds the line of a command that went nowhere.
func (a *auditor) refusedCommand(by claims, via string, c *wire.Command, no *wire.Error) {
	a.refusedTask(by, no, taskRecord{
		kind: kindCommand, via: via, to: c.Target, sendID: c.Id, size: int64(len(c.Data)), resent: c.Resent,
	})
}

// refusedOffer adds the line of a transfer that never was.
func (a *auditor) refusedOffer(p proposal, no *wire.Error) {
	o := p.offer
	a.refusedTask(p.claims, no, taskRecord{
		kind: kindName(o.Kind), via: p.via(), to: o.Target, sendID: o.SendId, size: max(0, o.Size),
	})
}

// refusedTask adds the line of a refusal. While new tasks are refused because lines
// cannot be written it is only counted: the room is for what runs.
func (a *auditor) refusedTask(by claims, no *wire.Error, t taskRecord) {
	if a == nil || no == errAuditFails || a.refuses() {
		return
	}
	t.app, t.from, t.fromAddress = by.App, by.User, by.address
	t.to, t.sendID = wellFormed(t.to, wire.CheckUser), wellFormed(t.sendID, wire.CheckSendID)
	t.code, t.begun = no.Code, time.Now()
	a.result(t, true)
}

// command adds the line of a command that went to a session, with what its sender
// was told.
func (a *auditor) command(to *session, p pendingCommand, r *wire.CommandResult, heard bool) {
	if a == nil {
		return
	}
	user, address, via := p.from.sender()
	t := taskRecord{
		app: to.app, from: user, to: to.user, sendID: p.id, kind: kindCommand, via: via,
		size: int64(p.bytes), passed: int64(p.bytes), replied: int64(len(r.Reply)),
		code: wire.Code(r.Code), peer: r.Origin == wire.Origin_ORIGIN_PEER, resent: p.resent,
		begun: p.deadline.Add(-to.pending.wait), fromAddress: address, toAddress: to.address,
	}
	switch {
	case r.Outcome == wire.CommandOutcome_COMMAND_OUTCOME_FINAL:
		a.result(t, heard)
	case via == viaPost: // nobody sends it again: it is told as 604
		t.code, t.peer = wire.PeerNoAnswer, false
		a.result(t, heard)
	case r.Outcome == wire.CommandOutcome_COMMAND_OUTCOME_GAP:
		a.noResult(t, outcomeGap, wire.PeerNoAnswer)
	default:
		a.noResult(t, outcomeLost, wire.PeerNoAnswer)
	}
}

// A trail is what audit and admin want to know of a transfer beside what it is. The
// transfer's mu guards it.
type trail struct {
	begun    time.Time
	via      string
	from, to string // addresses
	inlined  bool   // the content is in the offer
	replaced bool   // another place is asked: the task goes on in another transfer
	moved    bool   // it goes on at another node of the cluster
	had      bool   // the receiver had it, or had ended it, before it was asked
	copied   int64  // bytes of lanes
	rate     speed
}

// note looks at an event before the machine gets it.
func (tr *trail) note(event relay.RelayEvent) {
	switch e := event.(type) {
	case relay.RelayAnswered:
		tr.had = tr.had || e.Decision == wire.Decision_DECISION_HAVE
	case relay.RelayStanding:
		tr.had = tr.had || e.State == wire.TransferState_TRANSFER_STATE_HAVE || e.State == wire.TransferState_TRANSFER_STATE_CANCELLED
	}
}

// taskLocked returns the line of a transfer as it stands.
func (t *transfer) taskLocked() taskRecord {
	passed := t.m.Relayed()
	if t.trail.inlined { // the offer has it
		passed = t.what.Size
	}
	return taskRecord{
		app: t.key.app, from: t.key.source, to: t.key.target, sendID: t.key.sendID, kind: t.kind, via: t.trail.via,
		size: t.what.Size, passed: passed, had: t.trail.had, begun: t.trail.begun,
		fromAddress: t.trail.from, toAddress: t.trail.to,
	}
}

// auditEndLocked adds the line of a transfer that has ended. Its end is remembered,
// so a sender that did not hear of it gets the same again.
func (t *transfer) auditEndLocked() {
	a := t.ts.srv.audit
	if a == nil {
		return
	}
	v := t.m.Verdict()
	task := t.taskLocked()
	unknown := t.m.Forgotten() && v.Code == wire.BadSendID
	if t.trail.replaced || t.trail.moved || unknown && !t.what.HTTP {
		// Its sender offers it again.
		a.noResult(task, outcomeForgotten, wire.BadSendID)
		return
	}
	task.code, task.peer = v.Code, v.Origin == wire.Origin_ORIGIN_PEER
	if v.Code == wire.OK {
		task.receipt = receiptName(v.Receipt)
		// Content of some size that was not sent was there before.
		task.had = task.had || t.trail.copied == 0 && task.size > 0 && !t.trail.inlined
	}
	// An HTTP client may ask for what is unknown again and again.
	a.result(task, !unknown)
}

// auditStopLocked adds the line of a transfer that the end of the server breaks off.
func (t *transfer) auditStopLocked() {
	if a := t.ts.srv.audit; a != nil && !t.m.State().Ended() {
		a.noResult(t.taskLocked(), outcomeUnfinished, wire.ServiceFault)
	}
}
