package server

import (
	"net"
	"sync"
)

// lines are the connections of a server in dev mode, and whose they are, so that its
// page can cut them. A nil lines knows nothing and does nothing.
type lines struct {
	mu  sync.Mutex
	all map[*doorConn]owner // guarded by mu
}

type owner struct{ app, user string }

func newLines() *lines { return &lines{all: make(map[*doorConn]owner)} }

func (l *lines) add(c *doorConn) {
	if l != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.all[c] = owner{}
	}
}

func (l *lines) remove(c *doorConn) {
	if l != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.all, c)
	}
}

// own notes who uses a connection: whose request was the last.
func (l *lines) own(c *doorConn, app, user string) {
	if l != nil && c != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		if _, there := l.all[c]; there {
			l.all[c] = owner{app, user}
		}
	}
}

// cut resets the connections that fit, as a network that fails does, and returns how
// many that were. keep is left alone: the answer goes there.
func (l *lines) cut(keep *doorConn, fits func(owner) bool) int {
	if l == nil {
		return 0
	}
	var list []*doorConn
	l.mu.Lock()
	for c, who := range l.all {
		if c != keep && fits(who) {
			list = append(list, c)
		}
	}
	l.mu.Unlock()
	for _, c := range list {
		if tcp, ok := rawConn(c.Conn).(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // no goodbye
		}
		c.Close()
	}
	return len(list)
}
