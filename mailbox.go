package dian

import "sync"

// mailboxMost bounds what waits in one mailbox. Only a server that repeats itself
// while a disk is slow gets there.
const mailboxMost = 1024

// A mailbox runs functions one after the other, on a goroutine that exists only
// while there is something to run.
type mailbox struct {
	start func(func()) // starts a goroutine that somebody waits for

	mu      sync.Mutex // guards what follows
	queue   []func()
	running bool
}

// post queues fn and never waits. It reports false if the mailbox is full and fn
// was not taken; with must it is taken in any case.
func (m *mailbox) post(must bool, fn func()) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !must && len(m.queue) >= mailboxMost {
		return false
	}
	m.queue = append(m.queue, fn)
	if !m.running {
		m.running = true
		m.start(m.run)
	}
	return true
}

func (m *mailbox) run() {
	m.mu.Lock()
	for len(m.queue) > 0 {
		batch := m.queue
		m.queue = nil
		m.mu.Unlock()
		for i, fn := range batch {
			batch[i] = nil
			fn()
		}
		m.mu.Lock()
	}
	m.running = false
	m.mu.Unlock()
}
