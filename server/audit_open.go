package server

import (
	"cmp"
	"container/list"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

const (
	// auditOpenTime is how long a task without a result may wait for one before it
	// gets its line. A sender that is told "lost", "gap" or "unknown" tries again
	// within seconds.
	auditOpenTime = 10 * time.Minute
	// maxAuditOpen bounds how many do; beyond it the oldest gets its line early.
	maxAuditOpen = 65_536
)

// openTasks are the tasks that went on without the relay being told how: each has
// one line in the end, whether its sender tries again or not. Somebody who wants no
// line cannot have it so by breaking off at the right moment.
type openTasks struct {
	byKey map[taskKey]*list.Element
	order *list.List // of *openTask, the oldest first
}

type openTask struct {
	record taskRecord
	at     time.Time // when it ended here
	lined  bool      // it has its line: only the same result again is looked out for
}

func (t *openTask) until() time.Time { return t.at.Add(auditOpenTime) }

func (o *openTasks) init() { o.byKey, o.order = map[taskKey]*list.Element{}, list.New() }

// take removes and returns the task of a key, or nil.
func (o *openTasks) take(key taskKey) *openTask {
	e := o.byKey[key]
	if e == nil {
		return nil
	}
	delete(o.byKey, key)
	return o.order.Remove(e).(*openTask)
}

// result adds the line of a task's result. heard is false if its sender had gone
// and will ask for it again: then the same result has no second line.
func (a *auditor) result(t taskRecord, heard bool) {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	lined := false
	if old := a.open.take(t.key()); old != nil {
		lined = old.lined && old.record.code == t.code
		t.begun, t.passed = old.record.begun, max(t.passed, old.record.passed)
		t.toAddress = cmp.Or(t.toAddress, old.record.toAddress)
	}
	if !lined {
		a.addLocked(auditRecord{at: now, task: t})
	}
	if !heard {
		a.openLocked(&openTask{record: t, at: now, lined: true})
	}
}

// noResult notes a task that has ended here without a result; code is the one that
// comes nearest.
func (a *auditor) noResult(t taskRecord, outcome string, code wire.Code) {
	now := time.Now()
	t.outcome, t.code, t.peer = outcome, code, false
	a.mu.Lock()
	defer a.mu.Unlock()
	if old := a.open.take(t.key()); old != nil {
		t.begun = old.record.begun
		t.passed = max(t.passed, old.record.passed)
		if old.lined { // its result is known, and was not heard
			old.at = now
			a.openLocked(old)
			return
		}
	}
	a.openLocked(&openTask{record: t, at: now})
}

func (a *auditor) openLocked(t *openTask) {
	if a.open.order.Len() >= maxAuditOpen {
		a.lineLocked(a.open.order.Front().Value.(*openTask))
	}
	a.open.byKey[t.record.key()] = a.open.order.PushBack(t)
	if a.open.order.Len() == 1 {
		signal(a.wake) // the writer sets its clock
	}
}

// lineLocked gives an open task its line and forgets it.
func (a *auditor) lineLocked(t *openTask) {
	a.open.take(t.record.key())
	if !t.lined {
		a.addLocked(auditRecord{at: t.at, task: t.record})
	}
}

// ripenLocked gives their lines to the tasks that nobody has come back for.
func (a *auditor) ripenLocked(now time.Time) {
	for e := a.open.order.Front(); e != nil; e = a.open.order.Front() {
		t := e.Value.(*openTask)
		if now.Before(t.until()) {
			return
		}
		a.lineLocked(t)
	}
}

// ripe returns a timer that fires when the oldest open task is due; nothing if there
// is none.
func (a *auditor) ripe() (<-chan time.Time, *time.Timer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	e := a.open.order.Front()
	if e == nil {
		return nil, nil
	}
	timer := time.NewTimer(time.Until(e.Value.(*openTask).until()))
	return timer.C, timer
}

// finishOpen gives their lines to all open tasks: the server ends.
func (a *auditor) finishOpen() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for e := a.open.order.Front(); e != nil; e = a.open.order.Front() {
		a.lineLocked(e.Value.(*openTask))
	}
}
