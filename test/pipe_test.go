package test

import (
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// pipe is a TCP forwarder that can be slow and can cut what it carries. Of several
// targets each connection goes to one, by chance, as a load balancer does it.
type pipe struct {
	addr    string
	targets []string
	ln      net.Listener
	rate    atomic.Int64           // bytes a second in each direction of each connection; 0: as fast as it goes
	divert  atomic.Pointer[string] // new connections go there instead; nil: to a target
	opened  atomic.Int64           // connections that were accepted
	idle    atomic.Int64           // a connection on which nothing moves for so many nanoseconds is cut; 0: never
	up      atomic.Int64           // bytes that went towards a target, what was sent twice counted twice
	life    time.Duration          // every connection is cut at this age; 0: never

	mu    sync.Mutex // guards conns
	conns map[net.Conn]bool
	wg    sync.WaitGroup
}

// startPipe forwards a new loopback address to targets until the test ends.
func startPipe(t *testing.T, targets ...string) *pipe {
	return startMortalPipe(t, 0, targets...)
}

// startMortalPipe is startPipe with an age at which each connection is cut.
func startMortalPipe(t *testing.T, life time.Duration, targets ...string) *pipe {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &pipe{addr: ln.Addr().String(), targets: targets, ln: ln, life: life, conns: make(map[net.Conn]bool)}
	p.wg.Go(func() {
		for {
			near, err := ln.Accept()
			if err != nil {
				return
			}
			p.wg.Go(func() { p.carry(near) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		p.cut()
		p.wg.Wait()
	})
	return p
}

func (p *pipe) limit(bytesPerSecond int64) { p.rate.Store(bytesPerSecond) }

// cut resets every connection that is open now.
func (p *pipe) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.conns {
		conn.(*net.TCPConn).SetLinger(0)
		conn.Close()
	}
}

func (p *pipe) carry(near net.Conn) {
	defer near.Close()
	p.opened.Add(1)
	far, err := p.dial()
	if err != nil {
		return
	}
	defer far.Close()
	p.mu.Lock()
	p.conns[near], p.conns[far] = true, true
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.conns, near)
		delete(p.conns, far)
	}()
	if p.life > 0 {
		end := time.AfterFunc(p.life, func() {
			near.(*net.TCPConn).SetLinger(0)
			near.Close()
			far.Close()
		})
		defer end.Stop()
	}
	var both sync.WaitGroup
	both.Go(func() { p.copy(far, near, &p.up) })
	both.Go(func() { p.copy(near, far, nil) })
	both.Wait()
}

// dial connects to one of the targets that are there.
func (p *pipe) dial() (conn net.Conn, err error) {
	if to := p.divert.Load(); to != nil {
		return net.Dial("tcp", *to)
	}
	for _, i := range rand.Perm(len(p.targets)) {
		if conn, err = net.Dial("tcp", p.targets[i]); err == nil {
			break
		}
	}
	return conn, err
}

// copy forwards at the present rate, adds to count what it has forwarded, and
// passes a half-close on.
func (p *pipe) copy(to, from net.Conn, count *atomic.Int64) {
	buffer := make([]byte, 64<<10)
	for {
		if idle := p.idle.Load(); idle > 0 {
			from.SetReadDeadline(time.Now().Add(time.Duration(idle)))
		}
		n, err := from.Read(buffer)
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				from.Close()
				return
			}
			if count != nil {
				count.Add(int64(n))
			}
			if rate := p.rate.Load(); rate > 0 {
				time.Sleep(time.Duration(n) * time.Second / time.Duration(rate))
			}
		}
		if err != nil {
			if err == io.EOF {
				to.(*net.TCPConn).CloseWrite()
			} else {
				to.Close()
			}
			return
		}
	}
}
