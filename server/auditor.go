package server

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// auditGather is how long lines are gathered before they are written: a write
	// for each would wake a goroutine for each command.
	auditGather = 20 * time.Millisecond
	// auditStuck is how long a write may take before it counts as failed.
	auditStuck = 5 * time.Second
	// auditLast is how long the last write may take when the server ends.
	auditLast = 5 * time.Second
	// auditAdminSpare is room in the queue for acts of operators alone.
	auditAdminSpare = 1024

	// Lines about refused logins: who has no token must not fill the record, and
	// with AuditFail shut everybody out.
	auditRefusalsAtOnce    = 100
	auditRefusalsPerSecond = 20
)

// An auditor is the queue of lines and the goroutine that writes them. A nil one
// keeps no record; all methods that others call allow it. None of them blocks or
// calls anybody.
type auditor struct {
	// Set before start, then only read.
	log    *slog.Logger
	limit  int
	strict bool // AuditFail
	sink   *auditSink
	stats  *metrics
	born   time.Time

	wake  chan struct{} // capacity 1: there is something to write
	hurry chan struct{} // capacity 1: there is much
	stop  chan struct{} // closed by close
	done  chan struct{} // closed when the writer has ended

	shut    atomic.Bool  // new tasks are refused
	writing atomic.Int64 // since when a write runs, in ns after born; 0: none does

	mu       sync.Mutex // guards the rest
	queue    auditQueue
	flying   int // lines that the writer has taken and not written
	gap      auditGap
	failing  bool
	refusals bucket
	open     openTasks

	lines auditLines // owned by the writer
}

// newAuditor opens the sink that a describes; nil if there is none.
func newAuditor(a Audit, log *slog.Logger) (*auditor, error) {
	if !a.enabled() {
		return nil, nil
	}
	key, err := a.key()
	if err != nil {
		return nil, err
	}
	sink, err := openAuditSink(a)
	if err != nil {
		return nil, err
	}
	q := &auditor{
		log: log, limit: a.Queue, strict: a.WhenFailing == AuditFail, sink: sink, born: time.Now(),
		wake: make(chan struct{}, 1), hurry: make(chan struct{}, 1),
		stop: make(chan struct{}), done: make(chan struct{}),
		lines: auditLines{key: key, noAddresses: a.NoAddresses},
	}
	if q.limit == 0 {
		q.limit = defaultAuditQueue
	}
	q.open.init()
	return q, nil
}

// start begins to write.
func (a *auditor) start(stats *metrics) {
	if a == nil {
		return
	}
	a.stats = stats
	a.add(auditRecord{act: &actRecord{event: auditRelay, action: "start"}})
	go a.run()
}

// close writes what is left and ends the writer. If the sink does not take it, or
// hangs, the rest is lost and the log says how much.
func (a *auditor) close(ctx context.Context) {
	if a == nil {
		return
	}
	a.finishOpen()
	a.add(auditRecord{act: &actRecord{event: auditRelay, action: "stop"}})
	close(a.stop)
	patience := time.NewTimer(auditLast)
	defer patience.Stop()
	select {
	case <-a.done:
	case <-patience.C:
		a.log.Error("audit: the last write does not end", "lines", a.waiting())
	case <-ctx.Done():
		a.log.Error("audit: cut off", "lines", a.waiting())
	}
}

// waiting is how many lines are not written yet.
func (a *auditor) waiting() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.queue.n + a.flying
}

// refuses reports whether a new task has to be refused because nobody would know
// of it (AuditFail), and counts it then.
func (a *auditor) refuses() bool {
	if a == nil || !a.strict {
		return false
	}
	if !a.shut.Load() {
		since := a.writing.Load()
		if since == 0 || time.Since(a.born)-time.Duration(since) < auditStuck {
			return false
		}
	}
	a.mu.Lock()
	a.gap.tasks++
	a.mu.Unlock()
	signal(a.wake) // so that it is told even if nothing follows
	a.stats.auditRefused.Inc()
	return true
}

// add puts a record into the queue, or counts it as lost.
func (a *auditor) add(r auditRecord) {
	if r.at.IsZero() {
		r.at = time.Now()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.addLocked(r)
}

func (a *auditor) addLocked(r auditRecord) {
	room := a.limit
	if r.act != nil && (r.act.event == auditAdmin || r.act.event == auditRelay) {
		room += auditAdminSpare
	}
	waiting := a.queue.n + a.flying
	if waiting >= room {
		a.gap.lines++
		a.stats.auditDropped.Inc()
		return
	}
	a.queue.push(r)
	if a.strict && waiting+1 >= a.limit/2 {
		a.shut.Store(true)
	}
	if a.queue.n == 1 {
		signal(a.wake)
	}
	if a.queue.n == a.limit/8 {
		signal(a.hurry)
	}
}

// signal makes sure that the reader of c wakes up.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// refused adds a line about somebody without a good token, unless there are
// too many.
func (a *auditor) refused(r actRecord) {
	if a == nil {
		return
	}
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.queue.n+a.flying >= a.limit/4 || !a.refusals.take(now, auditRefusalsAtOnce, auditRefusalsPerSecond) {
		a.gap.refused++
		if a.gap.refused == 1 {
			signal(a.wake)
		}
		return
	}
	a.addLocked(auditRecord{at: now, act: &r})
}

// act adds a line that is not about a task.
func (a *auditor) act(r actRecord) {
	if a != nil {
		a.add(auditRecord{act: &r})
	}
}
