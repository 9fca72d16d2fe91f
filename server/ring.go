package server

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/dian-im/dian/internal/cork"
)

// A ring is the buffer between the two goroutines of a pair. What arrives while
// a write runs is gathered and goes out with the next one: a tls.Conn reads only
// one record of 16 KiB at a time, and writing each on would cost half the speed.
type ring struct {
	mu      sync.Mutex
	change  sync.Cond
	buf     []byte
	in, out int64 // guarded by mu: bytes put in and taken out
	err     error // guarded by mu: why no more comes in
	stopped bool  // guarded by mu: nobody wants the rest
}

func (r *ring) init() { r.change.L = &r.mu }

// reset begins anew with another buffer. A ring that was stopped stays so.
func (r *ring) reset(buf []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.buf, r.in, r.out, r.err = buf, 0, 0, nil
}

func (r *ring) stop() {
	r.mu.Lock()
	r.stopped = true
	r.mu.Unlock()
	r.change.Broadcast()
}

func (r *ring) isStopped() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stopped
}

// room returns free space to read into, or nil if there is no need.
func (r *ring) room() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	size := int64(len(r.buf))
	for r.in-r.out == size && !r.stopped {
		r.change.Wait()
	}
	if r.stopped {
		return nil
	}
	at := r.in % size
	return r.buf[at:min(at+size-(r.in-r.out), size)]
}

// filled says that n bytes were read, and the error after them.
func (r *ring) filled(n int, err error) {
	r.mu.Lock()
	r.in += int64(n)
	if err != nil && r.err == nil {
		r.err = err
	}
	r.mu.Unlock()
	r.change.Broadcast()
}

// next returns bytes to write, whether more are there, or why none will come.
func (r *ring) next() (p []byte, more bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.in == r.out && r.err == nil && !r.stopped {
		r.change.Wait()
	}
	if r.stopped {
		return nil, false, errStopped
	}
	if r.in == r.out {
		return nil, false, r.err
	}
	// At most half at once, so that there is room to read into while a write runs.
	size := int64(len(r.buf))
	at := r.out % size
	n := min(r.in-r.out, size-at, size/2)
	return r.buf[at : at+n], n < r.in-r.out, nil
}

func (r *ring) written(n int) {
	r.mu.Lock()
	r.out += int64(n)
	r.mu.Unlock()
	r.change.Broadcast()
}

var (
	errStopped = errors.New("lane stopped")
	errEnough  = errors.New("as much as was wanted")
)

// runRing copies n bytes, or until the body's end: the first ones of a lane with
// little memory, the others with much if they come fast and there is any to be had.
func (t *transfer) runRing(r *ring, u *upLane, d *downLane, at *pace, drop, n int64) (res copied) {
	cold, fast := warmBytes-(d.at-d.from), true
	for n > 0 && (cold > 0 || !fast || !t.ts.warm.take(at, int64(time.Since(t.ts.born)))) {
		if cold <= 0 {
			cold = warmBytes
		}
		begun := time.Now()
		part := t.passCold(r, u, d, at, drop, min(n, cold))
		res = copied{res.dropped + part.dropped, res.written + part.written, part.up, part.down}
		if part.written < min(n, cold) || part.up != nil || part.down != nil {
			return res
		}
		drop, n, cold, fast = 0, n-part.written, cold-part.written, isFast(part.written, time.Since(begun))
	}
	if n == 0 {
		return res
	}
	if in := corkOf(u.r); in != nil {
		in.ReadAhead(true)
		defer in.ReadAhead(false)
	}
	buf := laneBuffers.Get().(*[laneBuffer]byte)
	defer laneBuffers.Put(buf)
	r.reset(buf[:])
	rest := t.pass(r, u, d, at, corkOf(d.r), drop, n)
	return copied{res.dropped + rest.dropped, res.written + rest.written, rest.up, rest.down}
}

// isFast reports whether a lane in which n bytes took so long has a use for large
// buffers. In a slow one a single large write would take as long as standing still.
func isFast(n int64, took time.Duration) bool {
	return took.Seconds() <= float64(n)/fastBytes*stalledAfter.Seconds()
}

// passCold copies n bytes through one small buffer, in one goroutine: a thousand lanes
// that do this at once have each other to overlap with.
func (t *transfer) passCold(r *ring, u *upLane, d *downLane, at *pace, drop, n int64) (res copied) {
	buf := slowBuffers.Get().(*[slowBuffer]byte)
	defer slowBuffers.Put(buf)
	body := u.body()
	for res.written < n {
		p := buf[:min(slowBuffer, n-res.written)]
		if res.dropped < drop {
			p = buf[:min(slowBuffer, drop-res.dropped)]
		}
		m, err := body.Read(p)
		if res.dropped < drop {
			res.dropped += int64(m)
		} else if m > 0 {
			written, err := t.put(d, p[:m])
			res.written += written
			u.pass(at, written)
			if err = cmp.Or(err, d.flush()); err != nil {
				res.down = err
				u.interrupt() // as in pass: the answer must not wait for the rest of the body
				return res
			}
		}
		switch {
		case err == nil || res.written == n:
		case !r.isStopped():
			res.up = err
			return res
		case !isStopped(u.stopped):
			res.down = errStopped
			return res
		default:
			return res
		}
	}
	return res
}

// pass copies n bytes through the ring, with one goroutine that reads and one that
// writes. out is below the down-lane's TLS; nil: every write goes out by itself.
func (t *transfer) pass(r *ring, u *upLane, d *downLane, at *pace, out *cork.Conn, drop, n int64) (res copied) {
	body := u.body()
	var dropped int64
	var reader sync.WaitGroup
	reader.Go(func() {
		for todo := drop + n; todo > 0; {
			p := r.room()
			if p == nil {
				return
			}
			want := todo
			if dropped < drop { // what is dropped never gets into the ring
				want = drop - dropped
			}
			m, err := body.Read(p[:min(int64(len(p)), want)])
			todo -= int64(m)
			if dropped < drop {
				dropped += int64(m)
				m = 0
			}
			if todo == 0 {
				err = errEnough
			}
			if m > 0 || err != nil {
				r.filled(m, err)
			}
			if err != nil {
				return
			}
		}
	})
	for {
		p, more, err := r.next()
		if err != nil {
			switch {
			case err == errStopped && !isStopped(u.stopped):
				res.down = err // what is in the ring is lost
			case err != errStopped && err != errEnough:
				res.up = err
			}
			break
		}
		if out != nil {
			out.Cork()
		}
		m, err := t.put(d, p)
		res.written += m
		u.pass(at, m)
		if err == nil && (!more || out != nil) {
			err = d.flush()
		}
		if out != nil {
			err = cmp.Or(err, out.Uncork())
		}
		if err != nil {
			res.down = err
			r.stop()
			u.interrupt() // the reader may be in the middle of waiting for the client
			break
		}
		r.written(len(p))
	}
	reader.Wait()
	res.dropped = dropped
	return res
}

// corkListener puts a cork.Conn below each connection's TLS.
type corkListener struct{ net.Listener }

func (l corkListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return cork.New(conn), nil
}

type corkKey struct{}

// withCork lets the handlers of a connection find what is below its TLS.
func withCork(ctx context.Context, conn *tls.Conn) context.Context {
	if c, ok := conn.NetConn().(*cork.Conn); ok {
		return context.WithValue(ctx, corkKey{}, c)
	}
	return ctx
}

// corkOf returns the cork below a request's TLS. It is nil where there is none, or
// where other requests share the connection.
func corkOf(r *http.Request) *cork.Conn {
	if r.ProtoMajor != 1 {
		return nil
	}
	c, _ := r.Context().Value(corkKey{}).(*cork.Conn)
	return c
}
