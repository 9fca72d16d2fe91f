package dian

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"
)

const (
	aheadIdle  = 90 * time.Second // for so long after a lane its connection is expected to be there still
	aheadFresh = 4 * time.Second  // a connection that no lane wants is given up: servers soon close one without a request
)

type dialFunc = func(ctx context.Context, network, addr string) (net.Conn, error)

// ahead dials a lane's connection beside the offer, because both take round trips: one
// at a time, and none when a lane's connection of a little earlier can be used again.
type ahead struct {
	// Set by laneDials, then only read; nil if the application dials.
	dial, dialTLS dialFunc

	mu     sync.Mutex // guards what follows
	lane   time.Time  // when a lane ended last whose connection can be used again
	next   *aheadConn // nil: none
	closed bool
}

// An aheadConn is a connection that is being dialled, or that waits for its lane.
type aheadConn struct {
	to    string        // scheme, space and address
	ready chan struct{} // closed when conn is set
	conn  net.Conn      // nil: it failed
}

// keeps notes that a lane has ended and its connection can be used again.
func (a *ahead) keeps() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lane = time.Now()
}

// want says that a connection is to be dialled; nil if there is no need.
func (a *ahead) want(to string) *aheadConn {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed || a.next != nil || !a.lane.IsZero() && time.Since(a.lane) < aheadIdle {
		return nil
	}
	a.next = &aheadConn{to: to, ready: make(chan struct{})}
	return a.next
}

// have says how the dialling of c went. A connection that nobody takes is closed.
func (a *ahead) have(c *aheadConn, conn net.Conn, err error) {
	if err != nil {
		a.forget(c)
		close(c.ready)
		return
	}
	c.conn = conn
	close(c.ready)
	time.AfterFunc(aheadFresh, func() {
		if a.forget(c) {
			conn.Close()
		}
	})
}

// forget makes c nobody's, and reports whether it was there for a lane.
func (a *ahead) forget(c *aheadConn) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.next != c {
		return false
	}
	a.next = nil
	return true
}

// first returns a dial that takes what was dialled ahead, if there is something.
func (a *ahead) first(scheme string, dial dialFunc) dialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		if conn := a.take(ctx, scheme+" "+addr); conn != nil {
			return conn, nil
		}
		return dial(ctx, network, addr)
	}
}

// take returns the connection that was dialled ahead, and waits for one that is being
// dialled; nil if there is none.
func (a *ahead) take(ctx context.Context, to string) net.Conn {
	a.mu.Lock()
	c := a.next
	a.mu.Unlock()
	if c == nil || c.to != to {
		return nil
	}
	select {
	case <-c.ready:
	case <-ctx.Done():
		return nil
	}
	if !a.forget(c) {
		return nil
	}
	return c.conn
}

// close gives up what waits for a lane. Nothing is being dialled any more.
func (a *ahead) close() {
	a.mu.Lock()
	c := a.next
	a.next, a.closed = nil, true
	a.mu.Unlock()
	if c != nil {
		c.conn.Close()
	}
}

// prepareLane dials what the next lane needs. Work runs something with a context that
// ends with the client, or reports that this has ended.
func (n *network) prepareLane(lane string, work func(func(context.Context)) bool) {
	u, err := url.Parse(lane)
	if err != nil || n.own == nil || n.viaProxy(u) {
		return
	}
	port, dial := "80", n.ahead.dial
	if u.Scheme == "https" {
		port, dial = "443", n.ahead.dialTLS
	}
	if u.Port() != "" {
		port = u.Port()
	}
	if dial == nil {
		return // the application's own, of which nothing is known
	}
	addr := net.JoinHostPort(u.Hostname(), port)
	c := n.ahead.want(u.Scheme + " " + addr)
	if c == nil {
		return
	}
	if !work(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, handshakeTime)
		defer cancel()
		conn, err := dial(ctx, "tcp", addr)
		n.ahead.have(c, conn, err)
	}) {
		n.ahead.forget(c)
	}
}

// viaProxy reports whether a lane's connection is a proxy's.
func (n *network) viaProxy(u *url.URL) bool {
	if n.own.Proxy == nil {
		return false
	}
	proxy, err := n.own.Proxy(&http.Request{URL: u, Header: http.Header{}})
	return proxy != nil || err != nil
}
