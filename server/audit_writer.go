package server

import (
	"bytes"
	"errors"
	"io"
	"runtime/debug"
	"time"
)

const (
	auditChunk    = 64 << 10 // bytes of lines that are written at a time
	auditRetryMin = 250 * time.Millisecond
	auditRetryMax = 5 * time.Second
)

// run writes what comes until close, and then what is left.
func (a *auditor) run() {
	defer close(a.done)
	defer a.sink.close()
	for stopping := false; !stopping; {
		stopping = a.await()
		if !a.write(a.take()) {
			a.log.Error("audit: lines are lost", "lines", uint64(a.waiting())+a.takeGap().lines)
			return
		}
	}
}

// await returns when there is something to write and some time has passed in which
// more could come, or when the server ends: then it reports true.
func (a *auditor) await() (stopping bool) {
	ripe, timer := a.ripe()
	if timer != nil {
		defer timer.Stop()
	}
	select {
	case <-a.wake:
	case <-ripe:
	case <-a.stop:
		return true
	}
	gather := time.NewTimer(auditGather)
	defer gather.Stop()
	select {
	case <-gather.C:
	case <-a.hurry:
	case <-a.stop:
		return true
	}
	return false
}

// take takes the queue over.
func (a *auditor) take() [][]auditRecord {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ripenLocked(time.Now())
	batch, n := a.queue.take()
	a.flying = n
	select {
	case <-a.hurry: // it was about these
	default:
	}
	return batch
}

// takeGap takes over what has found no room so far.
func (a *auditor) takeGap() auditGap {
	a.mu.Lock()
	defer a.mu.Unlock()
	gap := a.gap
	a.gap = auditGap{}
	return gap
}

// write writes a batch, and after it, in one line, what found no room until then. It
// reports false if the server ends and the sink does not take it.
func (a *auditor) write(batch [][]auditRecord) bool {
	made := 0 // lines that are not out yet
	for i, piece := range batch {
		for j := range piece {
			a.lines.add(&piece[j])
			made++
			if last := i == len(batch)-1 && j == len(piece)-1; len(a.lines.buf) < auditChunk && !last {
				continue
			}
			if !a.deliver() {
				return false
			}
			a.landed(made)
			made = 0
		}
		clear(piece)
		a.mu.Lock()
		a.queue.reuse(piece)
		a.mu.Unlock()
	}
	gap := a.takeGap()
	if gap.empty() {
		return true
	}
	a.lines.add(&auditRecord{at: time.Now(), act: &actRecord{event: auditLost, gap: gap}})
	if a.deliver() {
		return true
	}
	a.mu.Lock()
	a.gap.add(gap)
	a.mu.Unlock()
	return false
}

// landed notes that lines are out of the way, and lets tasks in again.
func (a *auditor) landed(lines int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.flying -= lines
	if !a.failing && a.queue.n+a.flying < a.limit/4 {
		a.shut.Store(false)
	}
	a.stats.auditLines.Add(float64(lines))
}

// deliver writes the lines that were made, and tries again for as long as the sink
// fails and the server runs. It reports whether they are out.
func (a *auditor) deliver() bool {
	lines := a.lines.buf
	a.lines.buf = lines[:0]
	at, pause := 0, auditRetryMin
	for {
		again, reopened := a.sink.next()
		if reopened { // not half a line in each of two files
			at = bytes.LastIndexByte(lines[:at], '\n') + 1
		}
		a.writing.Store(max(1, int64(time.Since(a.born))))
		n, err := a.attempt(lines[at:])
		a.writing.Store(0)
		at += min(max(n, 0), len(lines)-at)
		if at == len(lines) {
			a.works()
			return true
		}
		if err == nil {
			err = io.ErrShortWrite
		}
		a.fails(err)
		wait := time.NewTimer(pause)
		pause = min(2*pause, auditRetryMax)
		select {
		case <-wait.C:
		case <-again:
		case <-a.stop:
			wait.Stop()
			return false
		}
		wait.Stop()
	}
}

var errAuditPanic = errors.New("the audit's Writer has panicked")

// attempt calls the sink, which may be a stranger's.
func (a *auditor) attempt(p []byte) (n int, err error) {
	defer func() {
		if bug := recover(); bug != nil {
			a.stats.panics.Inc()
			a.log.Error("bug caught", "where", "audit", "stack", string(debug.Stack()))
			err = errAuditPanic
		}
	}()
	return a.sink.write(p)
}

// fails notes that the sink does not work, and says so once.
func (a *auditor) fails(err error) {
	a.mu.Lock()
	before := a.failing
	a.failing = true
	a.shut.Store(a.strict)
	a.mu.Unlock()
	if !before {
		a.log.Error("audit: lines cannot be written", "err", err, "tasks_refused", a.strict)
	}
}

func (a *auditor) works() {
	a.mu.Lock()
	before := a.failing
	a.failing = false
	a.mu.Unlock()
	if before {
		a.log.Warn("audit: lines can be written again", "waiting", a.waiting())
	}
}

// state is for metrics.
func (a *auditor) state() (waiting int, failing bool) {
	if a == nil {
		return 0, false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.queue.n + a.flying, a.failing
}
