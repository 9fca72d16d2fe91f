package dian

import (
	"context"
	"sync"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

const (
	maxTokenUpdates = 16               // UpdateTokens without an answer
	renewTime       = 25 * time.Second // for the token source, once TokenWillExpire has come
)

// tokens holds the client's token, and how it is replaced.
type tokens struct {
	c      *Client
	asking chan struct{} // held by the goroutine that calls the token source

	mu      sync.Mutex // guards what follows
	token   string
	ends    time.Time      // of token, as the server said; zero: not known
	updates []*tokenUpdate // sent and not answered, in order
	notice  time.Time      // what the application is about to be told; zero: nothing
	renews  bool           // the source is being asked because of TokenWillExpire
	off     *Error
}

// A tokenUpdate is an UpdateToken that waits for its answer.
type tokenUpdate struct {
	token  string
	answer chan *Error // capacity 1; nil for success
}

func newTokens(c *Client) *tokens {
	return &tokens{c: c, token: c.opts.token, asking: make(chan struct{}, 1)}
}

func (t *tokens) current() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.token
}

func (t *tokens) expires(ms int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ends = time.Time{}
	if ms > 0 {
		t.ends = time.UnixMilli(ms)
	}
}

// fetch asks the token source, if there is one, for the token to log in with.
func (t *tokens) fetch(ctx context.Context) error {
	if t.c.opts.tokenSource == nil {
		return nil
	}
	token, err := t.ask(ctx)
	if err != nil {
		return err
	}
	t.mu.Lock()
	t.token, t.ends = token, time.Time{}
	t.mu.Unlock()
	return nil
}

// ask calls the token source, one goroutine at a time. A source that goes on after
// its context has ended is left alone: nobody waits for it but the next to ask.
func (t *tokens) ask(ctx context.Context) (string, error) {
	select {
	case t.asking <- struct{}{}:
	case <-ctx.Done():
		return "", contextError(ctx)
	}
	type answer struct {
		token string
		err   error
	}
	answers := make(chan answer, 1)
	go func() { // the application's: Close cannot end it
		defer func() { <-t.asking }()
		token, err := t.c.opts.tokenSource(ctx)
		answers <- answer{token, err}
	}()
	var a answer
	select {
	case a = <-answers:
	case <-ctx.Done():
		return "", contextError(ctx)
	}
	switch {
	case a.err != nil && ctx.Err() != nil:
		return "", contextError(ctx)
	case a.err != nil:
		return "", localError("token source", "", ErrWrongCredentials, "", a.err)
	case len(a.token) > wire.TokenBytes:
		return "", localError("token source", "", ErrTokenMalformed, "over 8,192 bytes", nil)
	}
	return a.token, nil
}

// bearer returns the token for a lane. The session keeps it fresh; only while
// the line is down it may be over, and then the source is asked.
func (t *tokens) bearer(ctx context.Context) (string, error) {
	t.mu.Lock()
	token, over := t.token, !t.ends.IsZero() && time.Now().After(t.ends)
	t.mu.Unlock()
	if !over || t.c.opts.tokenSource == nil {
		return token, nil
	}
	if err := t.fetch(ctx); err != nil {
		return "", err
	}
	return t.current(), nil
}

// UpdateToken replaces the token, before it ends, by a newer one of the same user
// and app, and waits for the server's answer. If that is a refusal, an *Error with
// its code, the token before still counts. While the line is down the token is
// kept for the next login, and nil is returned. If the line breaks before the
// answer the error is ErrConnectionLost; if ctx ends it is the context's cause,
// and the token may still be taken.
func (c *Client) UpdateToken(ctx context.Context, token string) error {
	return c.tokens.update(ctx, token)
}

func (t *tokens) update(ctx context.Context, token string) error {
	const op = "update token"
	if token == "" || len(token) > wire.TokenBytes {
		return localError(op, "", ErrTokenMalformed, "empty, or over 8,192 bytes", nil)
	}
	u := &tokenUpdate{token: token, answer: make(chan *Error, 1)}
	t.mu.Lock()
	if t.off != nil {
		t.mu.Unlock()
		return t.off.with(op, "")
	}
	if len(t.updates) >= maxTokenUpdates {
		t.mu.Unlock()
		return localError(op, "", ErrOverLimit, "too many updates under way", nil)
	}
	// Sent with the lock held: the answers come in the order of the frames.
	f := &wire.Frame{Body: &wire.Frame_UpdateToken{UpdateToken: &wire.UpdateToken{Token: token}}}
	if err := t.c.sendFrame(f); err != nil {
		t.token, t.ends = token, time.Time{}
		t.mu.Unlock()
		return nil
	}
	t.updates = append(t.updates, u)
	t.mu.Unlock()
	select {
	case err := <-u.answer:
		if err != nil {
			return err
		}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// updated takes the server's answer to the oldest UpdateToken.
func (t *tokens) updated(a *wire.TokenUpdated) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.updates) == 0 {
		return
	}
	u := t.updates[0]
	t.updates = t.updates[1:]
	if code := Code(a.GetCode()); code != OK {
		u.answer <- &Error{Op: "update token", Origin: Server, Code: code, Detail: a.GetDetail()}
		return
	}
	t.token, t.ends = u.token, time.Time{}
	if ms := a.GetTokenExpiresMs(); ms > 0 {
		t.ends = time.UnixMilli(ms)
	}
	u.answer <- nil
}

// willExpire renews the token, or tells the application to.
func (t *tokens) willExpire(w *wire.TokenWillExpire) {
	ends := time.UnixMilli(w.GetTokenExpiresMs())
	if t.c.opts.tokenSource == nil {
		t.tell(ends)
		return
	}
	t.mu.Lock()
	renews := t.renews
	t.renews = true
	t.mu.Unlock()
	if renews { // what comes of that is new enough
		return
	}
	t.c.go_(func() {
		defer func() {
			t.mu.Lock()
			t.renews = false
			t.mu.Unlock()
		}()
		ctx, cancel := context.WithTimeout(t.c.ctx, renewTime)
		defer cancel()
		token, err := t.ask(ctx)
		if err == nil {
			err = t.update(ctx, token)
		}
		if err != nil && t.c.ctx.Err() == nil {
			t.c.opts.log.Warn("token not renewed", "code", uint32(CodeOf(err)))
			t.tell(ends)
		}
	})
}

// tell queues NotifyTokenWillExpire. While one is queued it only takes the later
// word: a server that repeats itself must not fill the queue.
func (t *tokens) tell(ends time.Time) {
	h := t.c.opts.handler.NotifyTokenWillExpire
	if h == nil {
		return
	}
	t.mu.Lock()
	queued := !t.notice.IsZero()
	t.notice = ends
	t.mu.Unlock()
	if queued {
		return
	}
	t.c.notify(func() {
		t.mu.Lock()
		ends := t.notice
		t.notice = time.Time{}
		t.mu.Unlock()
		h(ends)
	})
}

// lineDown fails what waits for an answer.
func (t *tokens) lineDown() {
	t.fail(localError("update token", "", ErrConnectionLost, "", nil))
}

func (t *tokens) fail(err *Error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, u := range t.updates {
		u.answer <- err
	}
	t.updates = nil
}

func (t *tokens) close(why *Error) {
	t.mu.Lock()
	t.off = why
	t.mu.Unlock()
	t.fail(why.with("update token", ""))
}
