package server

import (
	"container/list"
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

const (
	// maxStrangers is how many connections may have shown neither a token nor a
	// ticket yet. One that has not done so for strangerTime makes room for another.
	maxStrangers = 2048
	strangerTime = 2 * time.Second
	// Between two tries to accept after an error.
	acceptPause     = 5 * time.Millisecond
	acceptPauseMost = time.Second
)

// connectionsOf is how many connections a row may have that may have so many
// sessions: each has lanes beside it.
func connectionsOf(l *limits) int64 { return 2*l.most[cellSessions] + 64 }

// connectsOf is how fast an address may connect: lanes and requests do that too.
func connectsOf(l *limits) rate { return perSecond(4*l.most[cellLogins] + 20) }

// A door is Serve's listener. It bounds what connections cost before anything is
// known of them (cases 52 and 53), and goes on whatever Accept says: net/http ends
// at errors that pass, such as no memory for a socket.
type door struct {
	net.Listener
	srv  *Server
	most int64         // connections in all
	done chan struct{} // closed by Close
	end  sync.Once

	mu        sync.Mutex
	strangers list.List // guarded by mu: *doorConn, the longest there first
}

func newDoor(ln net.Listener, s *Server) *door {
	d := &door{Listener: ln, srv: s, done: make(chan struct{})}
	if files := maxFiles(); files > 0 {
		d.most = files / 5 * 4 // the rest is for everything else
	}
	return d
}

// Close closes the listener.
func (d *door) Close() error {
	d.end.Do(func() { close(d.done) })
	return d.Listener.Close()
}

// Accept returns the next connection that may come in.
func (d *door) Accept() (net.Conn, error) {
	pause := acceptPause
	for {
		conn, err := d.Listener.Accept()
		switch {
		case err == nil:
			pause = acceptPause
			if c := d.admit(conn); c != nil {
				return c, nil
			}
			if tcp, ok := rawConn(conn).(*net.TCPConn); ok {
				_ = tcp.SetLinger(0) // the kernel need not remember it either
			}
			conn.Close()
			continue
		case !passing(err):
			return nil, err
		}
		d.srv.metrics.acceptErrors.Inc()
		d.srv.log.Debug("a connection could not be accepted; trying on", "err", err)
		d.evict()
		select {
		case <-time.After(pause):
		case <-d.done:
			return nil, net.ErrClosed
		}
		pause = min(2*pause, acceptPauseMost)
	}
}

// passing reports whether an error of Accept is about one connection, or about the
// machine at the moment, and not about the listener.
func passing(err error) bool {
	if errors.Is(err, net.ErrClosed) {
		return false
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno != syscall.EBADF && errno != syscall.EINVAL && errno != syscall.ENOTSOCK
	}
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}

// admit lets a connection in, or returns nil.
func (d *door) admit(conn net.Conn) *doorConn {
	q := &d.srv.quota
	c := &doorConn{Conn: conn, door: d, came: time.Now()}
	rows := &q.policy.Load().rows
	from := addrOf(conn.RemoteAddr().String())
	c.proxied = within(q.policy.Load().trusted, from)
	if !c.proxied { // a proxy is many people
		c.address = q.address(from)
	}
	if a := c.address; a != nil {
		if !a.connects.take(q.now(), connectsOf(&rows[scopeAddress]), 1) {
			return d.refuse(c, scopeAddress)
		}
		if !a.add(countConnections, 1, connectionsOf(&rows[scopeAddress])) {
			return d.refuse(c, scopeAddress)
		}
	}
	most := connectionsOf(&rows[scopeAll])
	if d.most > 0 {
		most = min(most, d.most)
	}
	if !q.all.add(countConnections, 1, most) {
		if c.address != nil {
			c.address.add(countConnections, -1, 0)
		}
		d.evict()
		return d.refuse(c, scopeAll)
	}
	if !d.enter(c) {
		c.leave()
		return d.refuse(nil, scopeAll)
	}
	d.srv.lines.add(c)
	return c
}

// refuse counts a refusal. c has not been counted.
func (d *door) refuse(c *doorConn, s scope) *doorConn {
	if c != nil {
		d.srv.quota.releaseAddress(c.address)
	}
	d.srv.quota.over("connections", s, wire.OverLimit, "")
	return nil
}

// enter puts a connection among the strangers. An address may have no more of them
// than places are free, so that a few cannot take all.
func (d *door) enter(c *doorConn) bool {
	if d.strangerCount() >= maxStrangers {
		d.evict()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	free := maxStrangers - d.strangers.Len()
	if a := c.address; a != nil {
		if !a.add(countStrangers, 1, int64(free)) {
			return false
		}
	} else if free == 0 {
		return false
	}
	c.stranger = d.strangers.PushBack(c)
	return true
}

func (d *door) strangerCount() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.strangers.Len()
}

// evict closes the stranger that has been there longest, if that is long enough: one
// that means to log in would have done so.
func (d *door) evict() {
	d.mu.Lock()
	first := d.strangers.Front()
	if first == nil || time.Since(first.Value.(*doorConn).came) < strangerTime {
		d.mu.Unlock()
		return
	}
	c := first.Value.(*doorConn)
	d.vouchLocked(c)
	d.mu.Unlock()
	c.Close()
	d.srv.quota.over("connections", scopeAll, wire.OverLimit, "")
}

// vouchLocked takes a connection from the strangers.
func (d *door) vouchLocked(c *doorConn) {
	if c.stranger == nil {
		return
	}
	d.strangers.Remove(c.stranger)
	c.stranger = nil
	if c.address != nil {
		c.address.add(countStrangers, -1, 0)
	}
}

// A doorConn is a connection that came through the door.
type doorConn struct {
	net.Conn
	door    *door
	address *holder[netip.Addr] // whom it counts for; nil for a proxy's or shared one
	proxied bool
	came    time.Time
	closed  sync.Once
	proxy   proxyHeader

	stranger *list.Element // guarded by the door's mu; nil when it is none
}

// NetConn returns the connection below.
func (c *doorConn) NetConn() net.Conn { return c.Conn }

// Read reads what comes behind the proxy's header, if there has to be one.
func (c *doorConn) Read(p []byte) (int, error) {
	if err := c.meet(); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

// RemoteAddr returns the client's address: as the proxy's header says, if there has
// to be one.
func (c *doorConn) RemoteAddr() net.Addr {
	if c.meet() == nil && c.proxy.client != nil {
		return c.proxy.client
	}
	return c.Conn.RemoteAddr()
}

// CloseWrite lets a client that is still sending read an answer first.
func (c *doorConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// Close closes the connection and counts it no more.
func (c *doorConn) Close() error {
	err := c.Conn.Close()
	c.closed.Do(c.leave)
	return err
}

func (c *doorConn) leave() {
	c.door.srv.lines.remove(c)
	c.door.mu.Lock()
	c.door.vouchLocked(c)
	c.door.mu.Unlock()
	q := &c.door.srv.quota
	q.all.add(countConnections, -1, 0)
	if c.address != nil {
		c.address.add(countConnections, -1, 0)
		c.address.release(q.now())
	}
}

type doorKey struct{}

// withDoor lets requests find the door that their connection came through.
func withDoor(ctx context.Context, conn net.Conn) context.Context {
	for {
		if c, ok := conn.(*doorConn); ok {
			return context.WithValue(ctx, doorKey{}, c)
		}
		below, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return ctx
		}
		conn = below.NetConn()
	}
}

// doorOf returns what withDoor has noted, or nil.
func doorOf(ctx context.Context) *doorConn {
	c, _ := ctx.Value(doorKey{}).(*doorConn)
	return c
}

// vouch says that the client is no stranger any more. A nil doorConn is of a
// program's own listener.
func (c *doorConn) vouch() {
	if c != nil {
		c.door.mu.Lock()
		defer c.door.mu.Unlock()
		c.door.vouchLocked(c)
	}
}
