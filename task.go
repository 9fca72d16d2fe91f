package dian

import (
	"context"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/dian-im/dian/internal/wire"
)

// progressEvery is the least time between two progress events of one task, so
// that there are never more than ten in a second, the last one included.
const progressEvery = 125 * time.Millisecond

// TaskState is where a task stands.
type TaskState uint8

// The states of a task. It ends in TaskDone, whatever its result.
const (
	TaskQueued    TaskState = iota // not begun: others go first
	TaskWaiting                    // for the line, the peer or the peer's answer
	TaskSending                    // on its way
	TaskVerifying                  // all bytes are there; the peer checks them
	TaskDone                       // has its result
)

// String returns the state in lower case: "queued".
func (s TaskState) String() string {
	switch s {
	case TaskQueued:
		return "queued"
	case TaskWaiting:
		return "waiting"
	case TaskSending:
		return "sending"
	case TaskVerifying:
		return "verifying"
	case TaskDone:
		return "done"
	}
	return "unknown state"
}

// A Task is one SendCmd, SendBuffer, SendFile or SendReader. It ends with
// exactly one Result, at the latest when its client is closed. Its methods may be
// called by any goroutine, callbacks included.
type Task struct {
	// Set by newTask, then only read.
	c      *Client
	id     string
	target string
	kind   Kind
	opts   sendOptions

	mu     sync.Mutex    // guards what follows
	done   chan struct{} // closed when result is set; nil before somebody asks
	state  TaskState
	result Result
	peer   *[16]byte // the place that accepted; nil before
	ending bool      // the result is being told: nothing more is accepted
	// Progress: known is what the task knows, shown what a callback was told.
	known, total int64
	shown        int64 // -1 before the first event
	pending      bool  // an event is queued or its timer runs
	lastEvent    time.Time
	timer        *time.Timer
	cancels      int // cancels asked for whose outcome is open
}

// newTask makes a task and enters it into the client's table; options of list come
// on top of opts. A task whose options are wrong, or whose client is closed, has its
// result already: ended tells.
func newTask(c *Client, kind Kind, target string, opts sendOptions, list ...SendOption) *Task {
	t := &Task{c: c, target: target, kind: kind, opts: opts, shown: -1}
	t.opts.set(list)
	if t.id = t.opts.sendID; t.id == "" {
		t.id = wire.NewSendID()
	}
	if err := t.check(); err != nil {
		t.finish(Result{Err: err})
		return t
	}
	if err := c.addTask(t); err != nil {
		t.finish(Result{Err: err})
	}
	return t
}

// check finds what can be refused before anything is sent.
func (t *Task) check() error {
	op := t.op()
	if err := wire.CheckTarget(t.target); err != nil {
		return checkError(op, t.target, err)
	}
	if err := wire.CheckSendID(t.id); err != nil {
		return checkError(op, t.target, err)
	}
	for _, f := range []struct {
		name       string
		has, limit int
	}{
		{"meta", len(t.opts.meta), t.c.limit((*wire.Limits).GetMetaBytes, wire.MetaBytes)},
		{"name", len(t.opts.name), wire.NameBytes},
		{"type", len(t.opts.typ), wire.TypeBytes},
	} {
		if f.has > f.limit {
			return localError(op, t.target, ErrBadParameter, f.name+" is too long", nil)
		}
	}
	if !utf8.ValidString(t.opts.name) || !utf8.ValidString(t.opts.typ) {
		return localError(op, t.target, ErrBadParameter, "name or type is not UTF-8", nil)
	}
	return nil
}

// op is the task's name in errors.
func (t *Task) op() string {
	if t.kind == Command { // many a second: without a new string
		return "send command"
	}
	return "send " + t.kind.String()
}

// ID returns the sendID, a UUID.
func (t *Task) ID() string { return t.id }

// Target returns the user the task sends to.
func (t *Task) Target() string { return t.target }

// Kind returns what the task carries.
func (t *Task) Kind() Kind { return t.kind }

// State returns where the task stands.
func (t *Task) State() TaskState {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.state
}

// Progress returns how many bytes the receiver has confirmed, and of how many.
// It never goes back.
func (t *Task) Progress() (sent, total int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.known, t.total
}

// Peer returns the receiving place that accepted a buffer or file, for
// WithInstance, and whether that is known: not before the peer has answered, and
// never for a command or for content so small that it needed no answer. What a
// place has in part only that place goes on with.
func (t *Task) Peer() (instance [16]byte, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.peer == nil {
		return [16]byte{}, false
	}
	return *t.peer, true
}

// setPeer notes who has accepted.
func (t *Task) setPeer(instance [16]byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.ending {
		t.peer = &instance
	}
}

// Done is closed when the task has its result. It does not wait for callbacks,
// so it can be waited for inside one.
func (t *Task) Done() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.done == nil {
		t.done = make(chan struct{})
		if t.state == TaskDone {
			close(t.done)
		}
	}
	return t.done
}

// Wait returns the result's error when the task is done, or the context's cause
// when that ends first; the task goes on then.
func (t *Task) Wait(ctx context.Context) error {
	done := t.Done()
	select {
	case <-done:
		return t.Result().Err
	default:
	}
	select {
	case <-done:
		return t.Result().Err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Result returns the result; before Done is closed it is the zero Result.
func (t *Task) Result() Result {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.result
}

// Cancel is Client.CancelSend for this task.
func (t *Task) Cancel() { t.c.cancelTask(t.id, t) }

// ended reports whether the task has its result.
func (t *Task) ended() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ending
}

// setState moves a task that is not done.
func (t *Task) setState(s TaskState) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.ending {
		t.state = s
	}
}

// progress notes how much the receiver has confirmed. Less than before changes
// nothing.
func (t *Task) progress(sent, total int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ending {
		return
	}
	t.total = total
	if sent <= t.known {
		return
	}
	t.known = sent
	if t.pending || t.c.opts.handler.NotifySendProgress == nil {
		return
	}
	t.pending = true
	if wait := progressEvery - time.Since(t.lastEvent); wait > 0 {
		t.timer = time.AfterFunc(wait, t.queueProgress)
		return
	}
	t.c.notify(t.showProgress)
}

func (t *Task) queueProgress() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.ending { // finish queues the last event itself
		t.c.notify(t.showProgress)
	}
}

// showProgress runs on the callback goroutine and tells the newest state.
func (t *Task) showProgress() {
	t.mu.Lock()
	t.pending = false
	p := Progress{SendID: t.id, Target: t.target, Sent: t.known, Total: t.total, Cookie: t.opts.cookie}
	known := t.known > t.shown
	t.shown = max(t.shown, t.known)
	t.lastEvent = time.Now()
	t.mu.Unlock()
	if known {
		t.c.opts.handler.NotifySendProgress(p)
	}
}

// finish gives the task its result; only the first call counts. What r leaves
// open about the task itself is filled in. The callbacks come in this order: last
// progress (of a success), the outcome of cancels, the result.
func (t *Task) finish(r Result) {
	t.mu.Lock()
	if t.ending {
		t.mu.Unlock()
		return
	}
	t.ending = true
	if t.timer != nil {
		t.timer.Stop()
	}
	r.SendID, r.Target, r.Kind, r.Cookie = t.id, t.target, t.kind, t.opts.cookie
	r.FileName = t.opts.path
	h := &t.c.opts.handler
	if t.kind != Command && r.Err == nil {
		t.known = r.Size
		t.total = t.known
		if h.NotifySendProgress != nil {
			t.c.notify(t.showProgress)
		}
	}
	t.state, t.result = TaskDone, r
	cancels := t.cancels
	t.cancels = 0
	if t.done != nil {
		close(t.done)
	}
	// Queued with the lock held, so that a cancel that comes now is told after.
	for range cancels {
		t.c.notifyCancel(t.id, t.opts.cookie, CodeOf(r.Err) == ErrCancelled)
	}
	if t.resultHandler() != nil {
		t.c.events.call(tellResult, t)
	}
	t.mu.Unlock()
	t.c.removeTask(t)
}

// resultHandler is the callback that gets the result, nil for none.
func (t *Task) resultHandler() func(Result) {
	switch h := &t.c.opts.handler; t.kind {
	case Buffer:
		return h.SendBufferResult
	case File:
		return h.SendFileResult
	default:
		return h.SendCmdResult
	}
}

// tellResult is the event of a task that is done.
func tellResult(task any) {
	t := task.(*Task)
	t.resultHandler()(t.Result())
}

// cancelAsked notes that a cancel is on its way; its outcome is told with the
// result. It reports false if the task is done.
func (t *Task) cancelAsked() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ending {
		return false
	}
	t.cancels++
	return true
}

// cancelRefused takes a cancelAsked back: it was too late. It reports false if
// the result came in between and has told the outcome.
func (t *Task) cancelRefused() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cancels == 0 {
		return false
	}
	t.cancels--
	return true
}
