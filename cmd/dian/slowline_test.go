package main

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// slowLine forwards connections to the relay at a limited rate.
type slowLine struct {
	listener net.Listener
	target   string
	rate     atomic.Int64 // bytes a second of each direction; 0: no limit
	running  sync.WaitGroup

	mu   sync.Mutex // guards open and shut
	open map[net.Conn]bool
	shut bool
}

func (l *slowLine) accept() {
	for {
		near, err := l.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", l.target)
		if err != nil {
			near.Close()
			continue
		}
		l.mu.Lock()
		l.open[near], l.open[far] = true, true
		if l.shut {
			near.Close()
			far.Close()
		}
		l.mu.Unlock()
		l.running.Go(func() { l.carry(near, far) })
		l.running.Go(func() { l.carry(far, near) })
	}
}

func (l *slowLine) carry(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	block := make([]byte, 32<<10)
	for {
		n, err := from.Read(block)
		if _, failed := to.Write(block[:n]); failed != nil || err != nil {
			return
		}
		if rate := l.rate.Load(); rate > 0 {
			<-time.After(time.Duration(n) * time.Second / time.Duration(rate))
		}
	}
}

func (l *slowLine) close() {
	l.listener.Close()
	l.mu.Lock()
	l.shut = true
	for conn := range l.open {
		conn.Close()
	}
	l.mu.Unlock()
	l.running.Wait()
}
