package main

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A front is what stands before the nodes of a cluster: it gives each connection to the
// first of them that takes it, and does not look into it. It counts bytes.
type front struct {
	ln    net.Listener
	nodes []string // addresses, the preferred one first

	up, down atomic.Int64 // bytes taken from clients and for them so far

	mu    sync.Mutex
	conns map[net.Conn]struct{} // nil when it is closed
	doing sync.WaitGroup
}

func newFront(nodes ...string) (*front, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	f := &front{ln: ln, nodes: nodes, conns: map[net.Conn]struct{}{}}
	f.doing.Go(f.accept)
	return f, nil
}

func (f *front) url() string { return "http://" + f.ln.Addr().String() }

func (f *front) close() {
	f.ln.Close()
	f.mu.Lock()
	for c := range f.conns {
		c.Close()
	}
	f.conns = nil
	f.mu.Unlock()
	f.doing.Wait()
}

func (f *front) accept() {
	for {
		near, err := f.ln.Accept()
		if err != nil {
			return // it is closed
		}
		if f.keep(near) {
			f.doing.Go(func() { f.carry(near) })
		}
	}
}

// keep has close end a connection, and does it at once if that has been called.
func (f *front) keep(c net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.conns == nil {
		c.Close()
		return false
	}
	f.conns[c] = struct{}{}
	return true
}

func (f *front) drop(c net.Conn) {
	c.Close()
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.conns, c)
}

// carry joins a client's connection with one to a living node. Both end with either:
// an HTTP client or server that closes one direction closes both.
func (f *front) carry(near net.Conn) {
	defer f.drop(near)
	far := f.dial()
	if far == nil || !f.keep(far) {
		return
	}
	defer f.drop(far)
	var both sync.WaitGroup
	for _, way := range []struct {
		to, from net.Conn
		count    *atomic.Int64
	}{{far, near, &f.up}, {near, far, &f.down}} {
		both.Go(func() {
			frontCopy(way.to, way.from, way.count)
			near.Close()
			far.Close()
		})
	}
	both.Wait()
}

func (f *front) dial() net.Conn {
	for _, node := range f.nodes {
		if c, err := net.DialTimeout("tcp", node, time.Second); err == nil {
			return c
		}
	}
	return nil
}

// frontCopy copies until one of the two ends, and counts what it has taken.
func frontCopy(to io.Writer, from io.Reader, count *atomic.Int64) {
	buf := make([]byte, bareBuffer)
	for {
		n, err := from.Read(buf)
		count.Add(int64(n))
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
