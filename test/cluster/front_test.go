package cluster

import (
	"io"
	"net"
	"sync"
	"testing"
)

// A front is a load balancer before the relays: each new connection goes to the node
// that it points to then.
type front struct {
	url string

	mu    sync.Mutex
	to    string // guarded by mu: host:port; "" refuses
	conns map[net.Conn]string
}

func newFront(t *testing.T, to *node) *front {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &front{url: "http://" + ln.Addr().String(), conns: map[net.Conn]string{}}
	f.point(to)
	var serving sync.WaitGroup
	t.Cleanup(func() {
		ln.Close()
		f.cut()
		serving.Wait()
	})
	serving.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { f.serve(conn) })
		}
	})
	return f
}

// point lets new connections go to a node; nil lets none in.
func (f *front) point(to *node) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.to = ""
	if to != nil {
		f.to = to.url[len("http://"):]
	}
}

// cut resets all connections.
func (f *front) cut() { f.cutTo(nil) }

// cutTo resets those that go to a node, or all.
func (f *front) cutTo(to *node) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for conn, at := range f.conns {
		if to == nil || at == to.url[len("http://"):] {
			_ = conn.(*net.TCPConn).SetLinger(0)
			conn.Close()
		}
	}
}

func (f *front) serve(conn net.Conn) {
	defer conn.Close()
	f.mu.Lock()
	to := f.to
	f.mu.Unlock()
	if to == "" {
		return
	}
	far, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer far.Close()
	f.mu.Lock()
	f.conns[conn], f.conns[far] = to, to
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.conns, conn)
		delete(f.conns, far)
		f.mu.Unlock()
	}()
	var both sync.WaitGroup
	pass := func(to, from net.Conn) {
		_, err := io.Copy(to, from)
		if err != nil {
			to.Close()
			from.Close()
			return
		}
		_ = to.(*net.TCPConn).CloseWrite()
	}
	both.Go(func() { pass(conn, far) })
	both.Go(func() { pass(far, conn) })
	both.Wait()
}
