package server

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// laneBuffer is what a running pair of lanes holds, beside half of it in the two
	// corks below TLS; waiting lanes hold nothing. It is so large that who reads and
	// who writes seldom wait for each other's turn on a busy processor.
	laneBuffer = 1 << 20
	// slowBuffer is what it holds, without corks, until warmBytes have passed, and
	// again until as many have if warmPairs others have the large buffers then: a
	// record of TLS. A receiver who never reads gets no further than the sockets'
	// buffers, and those who stop later are few, so that a thousand of them do not
	// hold a quarter of a gigabyte (cases 45 and 46).
	slowBuffer = 16 << 10
	warmBytes  = 1 << 20
	// fastBytes have to pass in stalledAfter where a lane has a use for large buffers.
	fastBytes = 16 << 20
	// unknownBuffer is what is waited for of a body of unknown length.
	unknownBuffer = 128 << 10
)

// warmPairs is how many pairs of lanes have the large buffers at once. More than a
// processor has work for would only hold memory.
func warmPairs() int { return 16 * runtime.GOMAXPROCS(0) }

var (
	laneBuffers = sync.Pool{New: func() any { return new([laneBuffer]byte) }}
	slowBuffers = sync.Pool{New: func() any { return new([slowBuffer]byte) }}
)

// copied says what a pair has done. Dropped and written bytes were read from the
// up-lane; up and down are the errors that ended it, io.EOF for a body that is
// through.
type copied struct {
	dropped, written int64
	up, down         error
}

// run copies from u into d until one of them ends, after dropping some bytes. It
// has both lanes for itself, and no lock.
func (t *transfer) run(u *upLane, d *downLane, drop int64) copied {
	n := d.end - d.at
	if u.left >= 0 {
		if n = min(n, u.left-drop); n <= 0 { // the receiver has all of it
			dropped, err := u.skip(u.left)
			return copied{dropped: dropped, up: err}
		}
	}
	at := &pace{t: t, d: d}
	defer t.ts.warm.give(at)
	over := make(chan struct{})
	var r ring
	r.init()
	var watch sync.WaitGroup
	watched := make(chan struct{}) // closed when u and d have their final connections
	watch.Go(func() {
		<-watched
		select {
		case <-over:
			return
		case <-u.stopped:
		case <-d.stopped:
			d.interrupt()
		case <-d.r.Context().Done():
			d.interrupt()
		}
		r.stop()
		u.interrupt()
		select {
		case <-over:
		case <-d.stopped:
			d.interrupt()
		}
	})
	defer watch.Wait()
	defer close(over)

	if d.splice && u.spliceable() && n >= spliceMin && take(u, d) {
		close(watched)
		return t.splice(u, d, at, drop, n)
	}
	close(watched)
	if d.bounded && !d.started {
		if u.left < 0 {
			return t.runUnknown(u, d, drop, n)
		}
		d.end = d.at + n
		d.head(t, true)
	}
	return t.runRing(&r, u, d, at, drop, n)
}

// skip is discard for a goroutine that nobody watches over.
func (u *upLane) skip(n int64) (int64, error) {
	over := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-over:
		case <-u.stopped:
			u.interrupt()
		}
	})
	defer watch.Wait()
	defer close(over)
	return u.discard(n)
}

// discard reads n bytes of the body and forgets them.
func (u *upLane) discard(n int64) (int64, error) {
	buf := slowBuffers.Get().(*[slowBuffer]byte)
	defer slowBuffers.Put(buf)
	var got int64
	for body := u.body(); got < n; {
		m, err := body.Read(buf[:min(int64(len(buf)), n-got)])
		got += int64(m)
		if err != nil && got < n {
			return got, err
		}
	}
	return got, nil
}

// runUnknown serves a bounded range from a body of unknown length: only what is
// there is known to come.
func (t *transfer) runUnknown(u *upLane, d *downLane, drop, n int64) (res copied) {
	if res.dropped, res.up = u.discard(drop); res.up != nil {
		return res
	}
	buf := make([]byte, min(n, unknownBuffer))
	got, body := 0, u.body()
	for got < len(buf) && res.up == nil {
		var m int
		m, res.up = body.Read(buf[got:])
		got += m
	}
	if got == 0 {
		return res
	}
	d.end = d.at + int64(got)
	d.head(t, true)
	res.written, res.down = t.put(d, buf[:got])
	if res.down == nil {
		res.down = d.flush()
	}
	return res
}

// put writes to the down-lane and counts.
func (t *transfer) put(d *downLane, p []byte) (int64, error) {
	n, err := d.Write(p)
	t.moved.Add(int64(n))
	return int64(n), err
}

// takenConn is a connection that was taken out of net/http.
type takenConn struct {
	conn net.Conn
	tcp  *net.TCPConn // conn, if bytes may be moved by the kernel
	body io.Reader    // of an up-lane: what net/http had read, then the connection
}

// spliceable reports whether the up-lane's connection may be taken: its length is
// known and large, and no record layer is between us and the bytes.
func (u *upLane) spliceable() bool {
	return u.taken != nil || u.left >= spliceMin && u.r.TLS == nil && u.r.ProtoMajor == 1 && u.r.ProtoAtLeast(1, 1)
}

// take takes both connections out of net/http. False means that they have to be
// served by net/http's ways; that one of them was taken does not matter then.
func take(u *upLane, d *downLane) bool {
	if d.taken == nil {
		conn, _, err := d.control.Hijack() // its head was flushed, and a GET has no body
		if err != nil {
			d.splice = false
			return false
		}
		d.taken = &takenConn{conn: conn, tcp: tcpOf(conn)}
	}
	if d.taken.tcp == nil {
		d.splice = false
		return false
	}
	if u.taken == nil {
		conn, rw, err := u.control.Hijack()
		if err != nil {
			return false
		}
		u.taken = &takenConn{conn: conn, tcp: tcpOf(conn)}
		u.taken.body = &takenBody{u: u, buffered: rw.Reader, left: u.left}
	}
	return u.taken.tcp != nil
}

// tcpOf looks through connections that only watch another one.
func tcpOf(conn net.Conn) *net.TCPConn {
	for range 4 {
		switch c := conn.(type) {
		case *net.TCPConn:
			return c
		case *tls.Conn:
			return nil // what is below it is not the content
		case interface{ NetConn() net.Conn }:
			conn = c.NetConn()
		default:
			return nil
		}
	}
	return nil
}

// takenBody is the body of an up-lane that was taken.
type takenBody struct {
	u         *upLane
	buffered  *bufio.Reader // what net/http had read already
	left      int64
	continued bool
}

// proceed answers an Expect: 100-continue, if net/http has not.
func (b *takenBody) proceed() error {
	if b.continued {
		return nil
	}
	b.continued = true
	if b.u.read || !strings.EqualFold(b.u.r.Header.Get("Expect"), "100-continue") {
		return nil
	}
	_, err := io.WriteString(b.u.taken.conn, "HTTP/1.1 100 Continue\r\n\r\n")
	return err
}

func (b *takenBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	if err := b.proceed(); err != nil {
		return 0, err
	}
	p = p[:min(int64(len(p)), b.left)]
	n, err := 0, error(nil)
	if k := b.buffered.Buffered(); k > 0 {
		n, err = b.buffered.Read(p[:min(k, len(p))])
	} else {
		n, err = b.u.taken.conn.Read(p)
	}
	b.left -= int64(n)
	if err == io.EOF && b.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// splice copies n bytes between two TCP connections without looking at them; on
// Linux they do not even come into this process.
func (t *transfer) splice(u *upLane, d *downLane, at *pace, drop, n int64) (res copied) {
	body := u.taken.body.(*takenBody)
	if res.up = body.proceed(); res.up != nil {
		return res
	}
	u.read = true
	if res.dropped, res.up = u.discard(drop); res.up != nil {
		return res
	}
	for k := body.buffered.Buffered(); k > 0 && n > 0; k = body.buffered.Buffered() {
		p, _ := body.buffered.Peek(int(min(int64(k), n)))
		m, err := t.put(d, p)
		_, _ = body.buffered.Discard(int(m))
		body.left -= m
		res.written += m
		n -= m
		if err != nil {
			res.down = err
			return res
		}
	}
	// In steps, so that the transfer's progress is seen about every 100 ms.
	for step := int64(256 << 10); n > 0; {
		begun := time.Now()
		from := io.LimitedReader{R: u.taken.tcp, N: min(step, n)}
		m, err := d.taken.tcp.ReadFrom(&from)
		t.moved.Add(m)
		u.pass(at, m)
		body.left -= m
		res.written += m
		n -= m
		switch took := time.Since(begun); {
		case err != nil:
			// Which side it was decides what becomes of the other one.
			if !isStopped(d.stopped) && u.died() {
				res.up = err
			} else {
				res.down = err
			}
			return res
		case from.N > 0:
			res.up = io.ErrUnexpectedEOF // the sender's connection ended early
			return res
		case took < 50*time.Millisecond:
			step = min(step*2, 64<<20)
		case took > 200*time.Millisecond:
			step = max(step/2, 16<<10)
		}
	}
	return res
}

// died reports whether a copy failed because of the up-lane. The kernel's error
// does not say which side it was; a read does.
func (u *upLane) died() bool {
	if isStopped(u.stopped) {
		return true
	}
	_ = u.taken.conn.SetReadDeadline(time.Now().Add(time.Millisecond))
	_, err := u.taken.conn.Read(make([]byte, 1))
	return err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
}

func isStopped(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// answerer returns where the response to an up-lane goes, and what sends it off.
func (u *upLane) answerer() (http.ResponseWriter, func()) {
	if u.taken == nil {
		if u.interrupted.Load() && u.r.ProtoMajor == 1 {
			u.w.Header().Set("Connection", "close")
		}
		return u.w, func() {}
	}
	hand := &handAnswer{header: u.w.Header().Clone(), status: http.StatusOK}
	return hand, func() { hand.send(u) }
}

// handAnswer is a small response that is written by hand, because the connection
// is not net/http's any more.
type handAnswer struct {
	header http.Header
	status int
	body   []byte
}

func (h *handAnswer) Header() http.Header         { return h.header }
func (h *handAnswer) WriteHeader(status int)      { h.status = status }
func (h *handAnswer) Write(p []byte) (int, error) { h.body = append(h.body, p...); return len(p), nil }

// send writes the response and closes the connection.
func (h *handAnswer) send(u *upLane) {
	conn := u.taken.conn
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second)) // the answer is small; it fits or the client is gone
	h.header.Set("Connection", "close")
	h.header.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	if h.status != http.StatusNoContent {
		h.header.Set("Content-Length", strconv.Itoa(len(h.body)))
	}
	w := bufio.NewWriter(conn)
	_, _ = w.WriteString("HTTP/1.1 " + strconv.Itoa(h.status) + " " + http.StatusText(h.status) + "\r\n")
	_ = h.header.Write(w)
	_, _ = w.WriteString("\r\n")
	_, _ = w.Write(h.body)
	if w.Flush() != nil || u.taken.tcp == nil {
		return
	}
	if b := u.taken.body.(*takenBody); b.left == 0 {
		return
	}
	// Unread bytes would reset the connection, and the client might never see the
	// answer: let it read that first.
	_ = u.taken.tcp.CloseWrite()
	_ = conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	_, _ = io.Copy(io.Discard, io.LimitReader(conn, 64<<20))
}
