package server

import (
	"context"
	"io"
	"net"
	"net/http"
	"runtime"
	"sync/atomic"
	"time"

	relay "github.com/dian-im/dian/internal/transfer"
)

const (
	// lanePatience is how long a request waits for the other side before it is told
	// to come again (docs/protocol.md §8). Proxies often give up after 30 s, and
	// net/http does not notice a vanished client whose body nobody reads.
	lanePatience = 25 * time.Second
	// spliceMin is the least content for which two connections are taken out of
	// net/http: they cannot be used again afterwards.
	spliceMin = 1 << 20
)

// laneEnd says why a lane was ended by others.
type laneEnd uint8

const (
	laneLive      laneEnd = iota
	laneDisplaced         // a newer lane of its side is there
	laneBroken            // the lane of the other side broke, what was under way is lost
	laneOver              // the transfer has ended
	laneExpired           // the session's token has, or the session was kicked
	laneRevoked           // the key of its token does not count any more
	laneStopping          // the server stops
)

// lane is what both kinds have.
type lane struct {
	stopped chan struct{} // closed when others end it
	why     laneEnd       // guarded by the transfer's mu
}

func (l *lane) endLocked(why laneEnd) {
	if l.why == laneLive {
		l.why = why
		close(l.stopped)
	}
}

// An upLane is a request with content from the sender. Its handler's goroutine
// owns it, except for lane.
type upLane struct {
	lane
	w        http.ResponseWriter
	r        *http.Request
	control  *http.ResponseController
	p        int64         // where it stands in the content
	left     int64         // bytes to come; -1 if it did not say
	token    claims        // who sends
	patience time.Duration // for the other side; 0: as long as the transfer lives
	into     *downLane     // guarded by mu: where its bytes went
	read     bool          // the body was touched: a "100 Continue" has gone out
	content  *content      // what body returns, before a hijack
	taken    *takenConn    // after a hijack
	passed   int64         // bytes that have gone on since it last asked to be wide
	wide     *net.TCPConn  // its connection, while the kernel may hold as much of it as it likes
	seat     *pace         // for that

	interrupted atomic.Bool
	through     atomic.Bool // all of its content was read
}

func newUpLane(w http.ResponseWriter, r *http.Request, token claims, p int64, patience time.Duration) *upLane {
	u := &upLane{
		lane: lane{stopped: make(chan struct{})}, w: w, r: r, control: http.NewResponseController(w),
		token: token, p: p, left: r.ContentLength, patience: patience,
	}
	_ = u.control.SetReadDeadline(time.Time{}) // a lane has no deadline of its own
	_ = u.control.SetWriteDeadline(time.Time{})
	return u
}

// wideBytes is how much of a lane has to have passed for the kernel to hold more of
// it than of others, as a fast client far away needs. widePairs is how many lanes may
// at once: of those who stop after that it holds megabytes.
const wideBytes = 1 << 20

func widePairs() int { return 32 * runtime.GOMAXPROCS(0) }

// pass notes that n bytes have gone on, in the pace of a pair.
func (u *upLane) pass(p *pace, n int64) {
	ts := p.t.ts
	now := int64(time.Since(ts.born))
	p.last.Store(now)
	if u.seat != nil {
		u.seat.last.Store(now)
	}
	if u.passed += n; u.passed < wideBytes || u.wide != nil || u.r.ProtoMajor != 1 {
		return
	}
	door, _ := u.r.Context().Value(doorKey{}).(*doorConn)
	if door == nil {
		return // a program's own listener
	}
	u.passed = 0 // it asks again after as much
	if tcp, ok := rawConn(door).(*net.TCPConn); ok && ts.wide.take(p, now) {
		u.wide, u.seat = tcp, p
		freeUnread(tcp)
	}
}

// over gives back what a lane had more than others. Not before its end: what its client
// has been told that there is room for would find none, and be sent again.
func (u *upLane) over(ts *transfers) {
	if u.wide != nil {
		ts.wide.give(u.seat)
		boundUnread(u.wide)
		u.wide, u.seat = nil, nil
	}
}

// body is where the content comes from.
func (u *upLane) body() io.Reader {
	u.read = true
	if u.taken != nil {
		return u.taken.body
	}
	if u.content == nil {
		u.content = &content{Reader: u.r.Body, left: u.r.ContentLength, through: &u.through}
	}
	return u.content
}

// content is a request's content; it says when it is through.
type content struct {
	io.Reader
	left    int64 // -1: it did not say
	through *atomic.Bool
}

func (c *content) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	if c.left -= int64(n); c.left == 0 || err == io.EOF {
		c.through.Store(true)
	}
	return n, err
}

// interrupt frees a goroutine that reads the body, if it is not through. net/http takes
// a deadline that strikes behind the body for the end of its client, for all requests to
// come on the connection: none may.
func (u *upLane) interrupt() {
	if u.through.Load() {
		return
	}
	u.interrupted.Store(true)
	if u.taken != nil {
		_ = u.taken.conn.SetReadDeadline(time.Unix(1, 0))
		return
	}
	_ = u.control.SetReadDeadline(time.Unix(1, 0))
}

// client returns a context that ends when the lane's client has gone, as far as one can
// know that: of a lane that was interrupted when its body was through, net/http says so
// although the client is there and waits for the answer.
func (u *upLane) client(ctx context.Context) context.Context {
	if u.interrupted.Load() {
		return context.WithoutCancel(ctx)
	}
	return ctx
}

func (t *transfer) endUpLocked(why laneEnd) {
	if t.up != nil && !(why == laneOver && t.deliveredLocked()) {
		t.up.endLocked(why)
	}
}

func (t *transfer) endDownLocked(why laneEnd) {
	if d := t.down; d != nil && !(why == laneOver && d.running && t.deliveredLocked()) {
		d.endLocked(why)
	}
}

// deliveredLocked reports whether the lanes are about to end well by themselves:
// the verdict may be faster than the last few instructions of a pair, and need
// not cost them their connections.
func (t *transfer) deliveredLocked() bool {
	return t.m.State() == relay.RelayDone && t.m.At() == t.what.Size
}

// upOutcome is how an up-lane ended.
type upOutcome uint8

const (
	upConfirmed upOutcome = iota // all of it, by the receiver
	upOver                       // the transfer has ended: its verdict says how
	upConflict                   // HEAD, and go on from there
	upAway                       // the receiver is not there now
	upBroken                     // its own connection broke
	upExpired                    // the token's time is over
	upRevoked                    // its key does not count any more
	upStopping                   // the server stops
)

// outcomes of an up-lane that others have ended.
func (l laneEnd) outcome() upOutcome {
	switch l {
	case laneOver:
		return upOver
	case laneExpired:
		return upExpired
	case laneRevoked:
		return upRevoked
	case laneStopping:
		return upStopping
	}
	return upConflict
}

// upload runs an up-lane: waits for down-lanes, copies into them and, when the
// content of the request is through, waits for the receiver's word.
func (t *transfer) upload(ctx context.Context, u *upLane) upOutcome {
	begun := time.Now()
	defer func() { t.ts.srv.metrics.laneSeconds("up", time.Since(begun)) }()
	defer u.over(t.ts)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.up != nil {
		t.up.endLocked(laneDisplaced)
	}
	t.up = u
	t.distrustLocked() // a Reload may have come between
	t.stepLocked(relay.RelayUpJoined{})
	defer func() {
		if t.up == u {
			t.up = nil
			t.stepLocked(relay.RelayUpEnded{})
		}
	}()
	wait := newPatience(u.patience)
	defer wait.stop()
	for u.left != 0 {
		if t.m.State().Ended() {
			return upOver
		}
		if u.why != laneLive {
			return u.why.outcome()
		}
		join, d := t.m.Join(u.p), t.down
		switch {
		case join.Do == relay.RelayConflict && d != nil && d.joined:
			return upConflict
		case join.Do == relay.RelaySkip:
			t.mu.Unlock()
			n, err := u.skip(t.what.Size - u.p)
			t.mu.Lock()
			u.p += n
			if err != nil && err != io.EOF {
				return upBroken
			}
			u.left = 0
		case join.Do == relay.RelayCopy && d != nil && d.joined && !d.running && !d.whole() && d.why == laneLive:
			wait.stop()
			if outcome := t.feedLocked(u, d, join.Drop); outcome != upConfirmed {
				return outcome
			}
			wait = newPatience(u.patience)
		default:
			ctx := u.client(ctx)
			if t.waitLocked(ctx, u.stopped, wait.c) {
				return upAway
			}
			if ctx.Err() != nil {
				return upBroken
			}
		}
	}
	return t.confirmLocked(ctx, u)
}

// waitLocked waits for a change, or an end of the lane, without the lock. True
// means that patience is over.
func (t *transfer) waitLocked(ctx context.Context, stopped <-chan struct{}, patience <-chan time.Time) bool {
	changed := t.changeLocked()
	t.mu.Unlock()
	defer t.mu.Lock()
	select {
	case <-changed:
	case <-stopped:
	case <-ctx.Done():
	case <-patience:
		return true
	}
	return false
}

// patience is a timer that may be none.
type patience struct {
	c     <-chan time.Time
	timer *time.Timer
}

func newPatience(d time.Duration) patience {
	if d == 0 {
		return patience{}
	}
	timer := time.NewTimer(d)
	return patience{timer.C, timer}
}

func (p patience) stop() {
	if p.timer != nil {
		p.timer.Stop()
	}
}

// feedLocked copies from an up-lane into a down-lane until one of them ends.
// upConfirmed means that the up-lane goes on.
func (t *transfer) feedLocked(u *upLane, d *downLane, drop int64) upOutcome {
	d.running, u.into = true, d
	t.mu.Unlock()
	res := t.run(u, d, drop)
	t.mu.Lock()
	u.p += res.dropped + res.written
	if u.left >= 0 {
		u.left -= res.dropped + res.written
	}
	d.at += res.written
	t.stepLocked(relay.RelayTick{}) // counts what was copied
	d.running = false
	if res.down != nil {
		d.endLocked(laneBroken)
	}
	if t.m.State().Ended() && !d.whole() {
		d.endLocked(laneOver)
	}
	t.wakeLocked()
	if u.p == t.what.Size {
		u.left = 0
	}
	switch {
	case t.m.State().Ended():
		return upOver
	case d.why != laneLive && !d.whole():
		return upConflict // what was under way is lost
	case u.why != laneLive:
		return u.why.outcome()
	case res.up == io.EOF:
		u.left = 0 // its length was not known before
	case res.up != nil:
		return upBroken
	}
	return upConfirmed
}

// confirmLocked waits, after the last byte of an up-lane, until the receiver has
// confirmed it, or for the verdict if it is the content's last byte.
func (t *transfer) confirmLocked(ctx context.Context, u *upLane) upOutcome {
	ctx = u.client(ctx)
	last := u.p == t.what.Size
	t.stepLocked(relay.RelaySync{})
	wait := newPatience(u.patience)
	defer func() { wait.stop() }()
	for {
		switch {
		case t.m.State().Ended():
			return upOver
		case !last && t.m.Synced() >= u.p:
			return upConfirmed
		case u.why != laneLive:
			return u.why.outcome()
		case t.m.At() < u.p && t.m.State() != relay.RelayVerifying:
			return upConflict // the receiver came back and wants it again
		}
		live := t.m.ReceiverLive()
		if !last && live && !t.m.Syncing() {
			t.stepLocked(relay.RelaySync{}) // the one before was overtaken by a new lane
		}
		if t.waitLocked(ctx, u.stopped, wait.c) {
			if !live {
				return upAway
			}
			wait = newPatience(u.patience) // the transfer's own timer decides
		}
		if ctx.Err() != nil && !t.m.State().Ended() {
			return upBroken
		}
	}
}
