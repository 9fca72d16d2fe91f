package dian

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"github.com/dian-im/dian/internal/link"
	"github.com/dian-im/dian/internal/wire"
)

// A Client is one login: a session that is kept alive over lost connections, and
// the tasks and deliveries that it carries. Its methods may be called by any
// goroutine, callbacks included. Close it when it is not needed any more, after
// NotifyLineOff too.
type Client struct {
	// Set by Connect, then only read.
	opts     options
	net      *network
	ctx      context.Context // ends with Close
	cancel   context.CancelFunc
	events   *events
	commands *commands
	presence *presence
	tokens   *tokens
	out      *outgoing
	in       *incoming // nil with WithSendOnly
	user     string
	app      string
	done     chan struct{} // closed when the line is off for good
	closed   chan struct{} // closed when Close has done its work

	endOnce sync.Once

	mu      sync.Mutex // guards what follows
	live    *link.Link // the session in service, or nil
	wel     *wire.Welcome
	tasks   map[string]*Task // without a result
	off     *Error           // why the line is off for good
	closing bool             // Close has been called
	stopped bool             // Close waits for goroutines: no new ones
	running sync.WaitGroup
}

// Connect logs in at a server, "https://relay.example.com" or with a path in
// front of ours, and returns a client whose session is live. It tries once; after
// that the client reconnects by itself until it is closed or the line is off for
// good. ctx bounds the login alone.
//
// Its error is an *Error: 203 the server cannot be reached, 209 TLS fault, 202 no
// answer, 205 or 1105 ctx ended, 5 a bad URL or option, 7 the token source failed,
// 18 to 21 the token was refused, 8 the server is stopping, 1111 it takes no more
// logins at the moment, 1402 the receive folder cannot be used.
func Connect(ctx context.Context, server string, opts ...Option) (*Client, error) {
	o := newOptions(opts)
	if o.token == "" && o.tokenSource == nil {
		return nil, localError("connect", "", ErrBadParameter, "neither token nor token source", nil)
	}
	n, err := newNetwork(server, &o)
	if err != nil {
		return nil, err
	}
	c := &Client{
		opts: o, net: n, events: newEvents(),
		done: make(chan struct{}), closed: make(chan struct{}),
		tasks: map[string]*Task{},
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.commands = newCommands(c)
	c.presence = newPresence(c)
	c.tokens = newTokens(c)
	conn, err := c.connect(ctx)
	if err != nil {
		c.cancel()
		notIn := localError("connect", "", ErrNotLoggedIn, "", nil)
		if c.out != nil {
			c.out.close(notIn)
		}
		if c.in != nil {
			c.in.close(notIn)
		}
		c.running.Wait()
		n.close()
		return nil, err
	}
	c.go_(c.commands.keepTime)
	first := c.startSession(conn)
	c.go_(func() { c.serve(first) })
	return c, nil
}

// connect makes what the first login needs, and logs in.
func (c *Client) connect(ctx context.Context) (*websocket.Conn, error) {
	// The receive folder depends on the user, so the token comes first.
	if err := c.tokens.fetch(ctx); err != nil {
		return nil, err
	}
	c.out = newOutgoing(c)
	if !c.opts.sendOnly {
		in, err := newIncoming(c)
		if err != nil {
			if _, ok := err.(*Error); !ok {
				err = localError("connect", "", ErrFileWrite, "receive folder", err)
			}
			return nil, err
		}
		c.in = in
	}
	conn, welcome, failed := c.net.login(ctx, c.hello())
	if failed != nil {
		return nil, failed
	}
	c.user, c.app = welcome.GetUser(), welcome.GetApp()
	c.setWelcome(welcome)
	return conn, nil
}

// hello is the first frame of a session.
func (c *Client) hello() *wire.Hello {
	name := c.opts.clientName
	if len(name) > wire.ClientBytes {
		name = name[:wire.ClientBytes]
	}
	h := &wire.Hello{
		Token: c.tokens.current(), Client: strings.ToValidUTF8(name, ""),
		Role: wire.Role_ROLE_LISTEN, LastEpoch: c.welcome().GetEpoch(),
	}
	if c.opts.sendOnly {
		h.Role = wire.Role_ROLE_SEND
	} else {
		id := c.in.instance()
		h.Instance = id[:]
	}
	return h
}

// User returns the user that the server knows the client as.
func (c *Client) User() string { return c.user }

// App returns the app that the user belongs to.
func (c *Client) App() string { return c.app }

// Instance returns the id of the receiving place: it stays the same as long as
// the receive folder does. It is zero with WithSendOnly.
func (c *Client) Instance() [16]byte {
	if c.in == nil {
		return [16]byte{}
	}
	return c.in.instance()
}

// Done is closed when the line is off for good: after NotifyLineOff is queued, or
// by Close.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err tells why the line is off for good, as an *Error; nil while it is not, a
// line that is being reconnected included. After Close it is ErrNotLoggedIn,
// unless the line was off before.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.off == nil {
		return nil
	}
	return c.off
}

// Close logs out. Unfinished tasks end with 12; what was received in part is kept
// for a later login. It returns when all goroutines of the client have ended and
// the last callback has returned; inside a callback it does not wait for that
// one, and what is queued behind it is still called. It takes at most a few
// seconds beyond the callbacks. Its error is always nil, and further calls do
// nothing more.
func (c *Client) Close() error {
	c.mu.Lock()
	first := !c.closing
	c.closing = true
	c.mu.Unlock()
	if !first {
		if !c.events.inside() { // else the first may be below us, or wait for this callback
			<-c.closed
			c.events.wait()
		}
		return nil
	}
	c.lineOff(localError("session", "", ErrNotLoggedIn, "logged out", nil), false)
	c.mu.Lock()
	l := c.live
	c.mu.Unlock()
	if l != nil {
		l.Close(nil, websocket.CloseNormalClosure)
	}
	c.cancel()
	c.mu.Lock()
	c.stopped = true
	c.mu.Unlock()
	c.running.Wait()
	c.finishTasks(localError("", "", ErrNotLoggedIn, "", nil))
	c.net.close()
	close(c.closed)
	c.events.wait()
	return nil
}

// lineOff ends the line for good, once: every task gets its result.
func (c *Client) lineOff(why *Error, tell bool) {
	c.endOnce.Do(func() {
		c.mu.Lock()
		c.off = why
		c.mu.Unlock()
		c.commands.close(why)
		c.out.close(why)
		if c.in != nil {
			c.in.close(why)
		}
		c.presence.close(why)
		c.tokens.close(why)
		c.finishTasks(why)
		if h := c.opts.handler.NotifyLineOff; h != nil && tell {
			c.notify(func() { h(why) })
		}
		close(c.done)
	})
}

// finishTasks gives every task that is left a result.
func (c *Client) finishTasks(why *Error) {
	c.mu.Lock()
	left := make([]*Task, 0, len(c.tasks))
	for _, t := range c.tasks {
		left = append(left, t)
	}
	c.mu.Unlock()
	for _, t := range left {
		t.finish(Result{Err: why.with(t.op(), t.target)})
	}
}

// loseTransfers ends all buffers and files because the line was down for too
// long. What the receiver has of them it keeps.
func (c *Client) loseTransfers(why *Error) {
	c.mu.Lock()
	var left []*Task
	for _, t := range c.tasks {
		if t.kind != Command {
			left = append(left, t)
		}
	}
	c.mu.Unlock()
	for _, t := range left {
		t.finish(Result{Err: why.with(t.op(), t.target)})
	}
}

// addTask enters a task, unless the line is off or its id is in use.
func (c *Client) addTask(t *Task) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.off != nil:
		return c.off.with(t.op(), t.target)
	case c.closing:
		return localError(t.op(), t.target, ErrNotLoggedIn, "", nil)
	case c.tasks[t.id] != nil:
		return localError(t.op(), t.target, ErrBadSendID, "a task with this id is under way", nil)
	}
	c.tasks[t.id] = t
	return nil
}

func (c *Client) removeTask(t *Task) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tasks[t.id] == t {
		delete(c.tasks, t.id)
	}
}

// CancelSend asks for the end of an unfinished buffer or file. CancelSendResult
// tells whether that took: with nil, and then the task's result is 1105; or with
// ErrBadSendID, because it was too late, or sendID names a command or nothing,
// and then nothing else changes.
func (c *Client) CancelSend(sendID string) {
	c.mu.Lock()
	t := c.tasks[sendID]
	c.mu.Unlock()
	c.cancelTask(sendID, t)
}

func (c *Client) cancelTask(sendID string, t *Task) {
	if t == nil {
		c.notifyCancel(sendID, nil, false)
		return
	}
	if t.kind == Command || !t.cancelAsked() {
		c.notifyCancel(sendID, t.opts.cookie, false)
		return
	}
	if !c.out.cancel(sendID) && t.cancelRefused() {
		c.notifyCancel(sendID, t.opts.cookie, false)
	}
}

func (c *Client) notifyCancel(sendID string, cookie any, took bool) {
	h := c.opts.handler.CancelSendResult
	if h == nil {
		return
	}
	r := CancelResult{SendID: sendID, Cookie: cookie}
	if !took {
		r.Err = localError("cancel", "", ErrBadSendID, "nothing to cancel", nil)
	}
	c.notify(func() { h(r) })
}

// What the rest of the package builds on.

// notify queues a callback. It never waits and never drops.
func (c *Client) notify(fn func()) { c.events.notify(fn) }

// go_ starts a goroutine that Close waits for. c.ctx ends it. Once Close waits
// there are no new ones: what they would have done is over.
func (c *Client) go_(fn func()) { c.begin(fn) }

// begin is go_, and reports whether fn runs.
func (c *Client) begin(fn func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.stopped {
		c.running.Go(fn)
	}
	return !c.stopped
}

// sendFrame queues f on the session. An error means that there is no session:
// whoever needs the frame sends it again after the next lineUp. A session that
// takes no more is ended, so that there will be one. A frame that cannot be
// encoded is an error too, which fields checked by package wire do not cause.
func (c *Client) sendFrame(f *wire.Frame) error {
	c.mu.Lock()
	l := c.live
	c.mu.Unlock()
	if l == nil {
		return localError("session", "", ErrConnectionLost, "", nil)
	}
	return c.sendOn(l, f)
}

// welcome returns the latest Welcome, nil before the first. It is not changed.
func (c *Client) welcome() *wire.Welcome {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wel
}

func (c *Client) setWelcome(w *wire.Welcome) {
	c.mu.Lock()
	c.wel = w
	c.mu.Unlock()
	c.tokens.expires(w.GetTokenExpiresMs())
}

// limit returns one of the server's limits in bytes, never more than our own.
func (c *Client) limit(get func(*wire.Limits) int64, own int) int {
	if v := get(c.welcome().GetLimits()); v > 0 && v < int64(own) {
		return int(v)
	}
	return own
}

// resumeWindow is how long unfinished tasks wait for the line.
func (c *Client) resumeWindow() time.Duration {
	if c.opts.resumeWindow > 0 {
		return c.opts.resumeWindow
	}
	if ms := c.welcome().GetLimits().GetResumeWindowMs(); ms > 0 {
		return time.Duration(min(ms, int64(24*time.Hour/time.Millisecond))) * time.Millisecond
	}
	return defaultResumeWindow
}

// http returns the client for lanes: HTTP/1.1, no timeout, no redirects.
func (c *Client) http() *http.Client { return c.net.lanes }

// laneURL returns the absolute URL of a lane's path.
func (c *Client) laneURL(path string) string { return c.net.laneURL(c.welcome().GetLaneBase(), path) }

// prepareLane dials a lane's connection beside an offer.
func (c *Client) prepareLane() {
	c.net.prepareLane(c.laneURL(""), func(fn func(context.Context)) bool {
		return c.begin(func() { fn(c.ctx) })
	})
}

// bearer returns a token for a lane's Authorization header.
func (c *Client) bearer(ctx context.Context) (string, error) { return c.tokens.bearer(ctx) }
