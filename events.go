package dian

import (
	"bytes"
	"runtime"
	"strconv"
	"sync"
)

// events runs a client's callbacks, one after the other, in the order of notify.
// Its queue is not bounded itself; what can be many is bounded before: results by
// the tasks, commands by the delivery queue, progress and presence by merging.
//
// The goroutine exists only while there is something to call, so an idle client
// has none, and a callback that comes after Close still runs.
type events struct {
	mu      sync.Mutex
	queue   []event
	spare   []event // empty, the memory of an earlier queue
	held    bool    // nothing is begun before release
	running bool
	runner  uint64    // the goroutine that runs callbacks, while one does
	idle    sync.Cond // running has become false; uses mu
}

// spareEvents is how long a queue's memory may be to be used again.
const spareEvents = 1024

func newEvents() *events {
	e := new(events)
	e.idle.L = &e.mu
	return e
}

// An event is a callback: of what, with what. There are many a second, and so none
// is a closure of its own that need not be.
type event struct {
	fn func(any)
	of any
}

func callFunc(fn any) { fn.(func())() }

// notify queues fn. It never waits.
func (e *events) notify(fn func()) { e.call(callFunc, fn) }

// call queues fn(of), as notify does.
func (e *events) call(fn func(any), of any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.queue = append(e.queue, event{fn, of})
	e.beginLocked()
}

// hold lets what is called wait for release, unless callbacks are running already: to
// begin with them takes a processor from the peers that wait for what the session's
// reader is about to send. Only that reader holds, and not for long.
func (e *events) hold() {
	e.mu.Lock()
	e.held = true
	e.mu.Unlock()
}

func (e *events) release() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.held = false
	e.beginLocked()
}

func (e *events) beginLocked() {
	if len(e.queue) > 0 && !e.running && !e.held {
		e.running = true
		go e.run()
	}
}

func (e *events) run() {
	id := goroutineID()
	e.mu.Lock()
	e.runner = id
	for len(e.queue) > 0 {
		batch := e.queue
		e.queue, e.spare = e.spare, nil
		e.mu.Unlock()
		for i, next := range batch {
			batch[i] = event{}
			next.fn(next.of)
		}
		e.mu.Lock()
		if cap(batch) <= spareEvents {
			e.spare = batch[:0]
		}
	}
	e.running, e.runner, e.queue, e.spare = false, 0, nil, nil
	e.idle.Broadcast()
	e.mu.Unlock()
}

// wait returns when nothing is queued, held or running. Inside a callback it returns at
// once: what is queued runs behind that callback.
func (e *events) wait() {
	id := goroutineID()
	e.mu.Lock()
	defer e.mu.Unlock()
	for (e.running || len(e.queue) > 0) && e.runner != id {
		e.idle.Wait()
	}
}

// inside reports whether it is called by a callback.
func (e *events) inside() bool {
	id := goroutineID()
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.running && e.runner == id
}

// goroutineID returns the number that a stack trace shows. Go hides it so that no
// state hangs on it; here it only tells whether Close was called inside a
// callback, which a context could tell only if every callback passed one on.
func goroutineID() uint64 {
	var b [64]byte
	text := b[:runtime.Stack(b[:], false)] // "goroutine 18 [running]:…"
	text = bytes.TrimPrefix(text, []byte("goroutine "))
	n, _, _ := bytes.Cut(text, []byte(" "))
	id, err := strconv.ParseUint(string(n), 10, 64)
	if err != nil {
		return 0
	}
	return id
}
