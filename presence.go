package dian

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/dian-im/dian/internal/link"
	"github.com/dian-im/dian/internal/wire"
)

const (
	maxPresenceNames = 96 << 10 // bytes of names in one frame
	maxPresenceList  = 1 << 20  // users in one answer
	maxQueries       = 1024     // without an answer
)

// presence is who is online, as far as the token may see, and one's own status.
type presence struct {
	c *Client

	mu       sync.Mutex // guards what follows
	lastID   uint64
	queries  map[uint64]*presenceQuery
	all      bool                // subscribed to everybody
	names    map[string]struct{} // subscribed by name
	status   *wire.Status        // nil: never set
	off      *Error
	news     []UserStatus   // to be told by a callback that is queued
	newsAt   map[string]int // where a user stands in news
	newsWait bool           // that callback is queued
}

// A presenceQuery waits for the lists of one frame.
type presenceQuery struct {
	users     []UserStatus
	subscribe bool        // its users are news, not an answer
	answer    chan *Error // capacity 1; nil for success; nil itself if nobody waits
}

func newPresence(c *Client) *presence {
	return &presence{
		c: c, queries: map[uint64]*presenceQuery{}, names: map[string]struct{}{}, newsAt: map[string]int{},
	}
}

// SetStatus sets one's own status: busy or not, and a number for do-not-disturb
// whose meaning is the application's, 0 being off. It is kept over reconnects, and
// forgotten by the server when the client is closed. Errors: 9 with WithSendOnly,
// 12 after Close.
func (c *Client) SetStatus(busy bool, doNotDisturb int32) error {
	if c.opts.sendOnly {
		return localError("set status", "", ErrWrongLoginState, "a client that only sends has no status", nil)
	}
	p := c.presence
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.off != nil {
		return p.off.with("set status", "")
	}
	p.status = &wire.Status{Busy: busy, DoNotDisturb: doNotDisturb}
	// Without a session it goes out with the next.
	_ = c.sendFrame(&wire.Frame{Body: &wire.Frame_Status{Status: p.status}})
	return nil
}

// UserStatus returns the state of the named users, or with none of everybody who
// is online and whom the token may see. Errors: 23 a named user may not be seen,
// 207 the line is down or breaks before the answer, 1102 a malformed name, and the
// context's cause.
func (c *Client) UserStatus(ctx context.Context, users ...string) ([]UserStatus, error) {
	const op = "user status"
	parts, err := presenceParts(op, users)
	if err != nil {
		return nil, err
	}
	var all []UserStatus
	for _, part := range parts {
		q := &presenceQuery{answer: make(chan *Error, 1)}
		err := c.presence.ask(ctx, op, q, func(id uint64) *wire.Frame {
			return &wire.Frame{Body: &wire.Frame_PresenceQuery{PresenceQuery: &wire.PresenceQuery{Id: id, Users: part}}}
		})
		if err != nil {
			return nil, err
		}
		all = append(all, q.users...)
	}
	return all, nil
}

// StartUserStatusNotify makes NotifyUserStatus tell of the named users, or with
// none of everybody whom the token may see, those who come later included: first
// of their state now, then of changes. It is kept over reconnects. Errors are those
// of UserStatus; nothing is subscribed then.
func (c *Client) StartUserStatusNotify(ctx context.Context, users ...string) error {
	const op = "start user status notify"
	parts, err := presenceParts(op, users)
	if err != nil {
		return err
	}
	for _, part := range parts {
		q := &presenceQuery{subscribe: true, answer: make(chan *Error, 1)}
		err := c.presence.ask(ctx, op, q, func(id uint64) *wire.Frame { return subscribe(id, part, false) })
		if err != nil {
			return err
		}
		p := c.presence
		p.mu.Lock()
		p.all = p.all || len(part) == 0
		for _, u := range part {
			p.names[u] = struct{}{}
		}
		p.mu.Unlock()
	}
	return nil
}

// StopUserStatusNotify ends what StartUserStatusNotify began: for the named users,
// or with none the subscription to everybody. What is queued is still told. It
// does not wait for the server; errors: 1102 a malformed name, 12 after Close.
func (c *Client) StopUserStatusNotify(ctx context.Context, users ...string) error {
	const op = "stop user status notify"
	parts, err := presenceParts(op, users)
	if err != nil {
		return err
	}
	p := c.presence
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.off != nil {
		return p.off.with(op, "")
	}
	for _, part := range parts {
		p.all = p.all && len(part) > 0
		for _, u := range part {
			delete(p.names, u)
		}
		p.lastID++
		_ = c.sendFrame(subscribe(p.lastID, part, true)) // without a session there is nothing to stop
	}
	return context.Cause(ctx)
}

func subscribe(id uint64, users []string, stop bool) *wire.Frame {
	return &wire.Frame{Body: &wire.Frame_PresenceSubscribe{
		PresenceSubscribe: &wire.PresenceSubscribe{Id: id, Users: users, Stop: stop},
	}}
}

// presenceParts checks names and cuts them into lists that fit into a frame. No
// names are one empty list.
func presenceParts(op string, users []string) ([][]string, error) {
	for _, u := range users {
		if err := wire.CheckTarget(u); err != nil {
			return nil, checkError(op, u, err)
		}
	}
	return splitNames(users), nil
}

func splitNames(users []string) [][]string {
	var parts [][]string
	from, size := 0, 0
	for i, u := range users {
		if i > from && (i-from == wire.PresenceUsers || size+len(u) > maxPresenceNames) {
			parts = append(parts, users[from:i])
			from, size = i, 0
		}
		size += len(u) + 8
	}
	return append(parts, users[from:])
}

// ask sends a query and waits for its answer.
func (p *presence) ask(ctx context.Context, op string, q *presenceQuery, frame func(id uint64) *wire.Frame) error {
	p.mu.Lock()
	switch {
	case p.off != nil:
		p.mu.Unlock()
		return p.off.with(op, "")
	case len(p.queries) >= maxQueries:
		p.mu.Unlock()
		return localError(op, "", ErrOverLimit, "too many queries under way", nil)
	}
	p.lastID++
	id := p.lastID
	p.queries[id] = q
	err := p.c.sendFrame(frame(id))
	if err != nil {
		delete(p.queries, id)
		p.mu.Unlock()
		return localError(op, "", ErrConnectionLost, "", nil)
	}
	p.mu.Unlock()
	select {
	case failed := <-q.answer:
		if failed != nil {
			return failed.with(op, "")
		}
		return nil
	case <-ctx.Done():
		p.mu.Lock()
		delete(p.queries, id)
		p.mu.Unlock()
		return context.Cause(ctx)
	}
}

// list takes a part of an answer.
func (p *presence) list(l *wire.PresenceList) {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := p.queries[l.GetId()]
	if q == nil {
		return // nobody waits any more
	}
	var failed *Error
	switch code := Code(l.GetCode()); {
	case code != OK:
		failed = &Error{Origin: Server, Code: code, Detail: l.GetDetail()}
	case len(q.users)+len(l.GetUsers()) > maxPresenceList:
		failed = localError("", "", ErrBadData, "the answer is too long", nil)
	case q.subscribe:
		p.tellLocked(l.GetUsers())
	default:
		for _, u := range l.GetUsers() {
			q.users = append(q.users, userStatus(u))
		}
	}
	if failed == nil && l.GetMore() {
		return
	}
	delete(p.queries, l.GetId())
	switch {
	case q.answer != nil:
		q.answer <- failed
	case failed != nil:
		p.c.opts.log.Warn("presence subscription refused", "code", uint32(failed.Code))
	}
}

func (p *presence) change(users []*wire.Presence) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tellLocked(users)
}

// tellLocked queues news. While a callback is queued, later states of a user
// replace earlier ones, so a slow application costs one entry per user.
func (p *presence) tellLocked(users []*wire.Presence) {
	h := p.c.opts.handler.NotifyUserStatus
	if h == nil || len(users) == 0 {
		return
	}
	for _, u := range users {
		i, known := p.newsAt[u.GetUser()]
		if !known {
			if len(p.news) >= maxPresenceList {
				continue
			}
			i = len(p.news)
			p.news = append(p.news, UserStatus{})
			p.newsAt[u.GetUser()] = i
		}
		p.news[i] = userStatus(u)
	}
	if p.newsWait {
		return
	}
	p.newsWait = true
	p.c.notify(func() {
		p.mu.Lock()
		news := p.news
		p.news, p.newsAt, p.newsWait = nil, map[string]int{}, false
		p.mu.Unlock()
		h(news)
	})
}

func userStatus(u *wire.Presence) UserStatus {
	return UserStatus{
		User: u.GetUser(), Status: Status(min(u.GetStatus(), 255)), DoNotDisturb: u.GetDoNotDisturb(),
	}
}

// lineUp tells a new session the status and the subscriptions.
func (p *presence) lineUp(l *link.Link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.status != nil {
		_ = p.c.sendOn(l, &wire.Frame{Body: &wire.Frame_Status{Status: p.status}})
	}
	var parts [][]string
	if len(p.names) > 0 {
		parts = splitNames(slices.Sorted(maps.Keys(p.names)))
	}
	if p.all {
		parts = append(parts, nil)
	}
	for _, part := range parts {
		p.lastID++
		p.queries[p.lastID] = &presenceQuery{subscribe: true}
		_ = p.c.sendOn(l, subscribe(p.lastID, part, false))
	}
}

// lineDown fails what waits for an answer.
func (p *presence) lineDown() { p.fail(localError("", "", ErrConnectionLost, "", nil)) }

func (p *presence) fail(why *Error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, q := range p.queries {
		delete(p.queries, id)
		if q.answer != nil {
			q.answer <- why
		}
	}
}

func (p *presence) close(why *Error) {
	p.mu.Lock()
	p.off = why
	p.mu.Unlock()
	p.fail(why)
}
