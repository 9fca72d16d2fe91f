package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/dian-im/dian"
)

const (
	cancelPatience = 5 * time.Second // how long results may take after Ctrl-C
	closePatience  = 3 * time.Second // how long logging out may take: the process ends anyway
)

// An outbox is a client that sends, and tells what becomes of it: progress as it
// comes, each result when its last progress has been told.
type outbox struct {
	con    *console
	client *dian.Client

	mu    sync.Mutex               // guards what follows
	told  map[string]chan struct{} // by sendID: closed when the last callback was
	parts map[string]func()        // by sendID: see onPart
}

// openOutbox logs in with the role that takes nobody's place.
func openOutbox(ctx context.Context, con *console, c *connection, opts ...dian.Option) (*outbox, error) {
	o := &outbox{con: con, told: make(map[string]chan struct{}), parts: make(map[string]func())}
	result := func(r dian.Result) { close(o.of(r.SendID)) }
	client, err := c.connect(ctx, con, append(opts, dian.WithSendOnly(), dian.WithHandler(con.lineTold(dian.Handler{
		SendCmdResult: result, SendBufferResult: result, SendFileResult: result,
		NotifySendProgress: func(p dian.Progress) {
			con.tell(progressEvent{"progress", p.SendID, p.Target, p.Sent, p.Total})
			if p.Sent < p.Total {
				o.hasPart(p.SendID)
			}
		},
	})))...)
	if err != nil {
		return nil, err
	}
	o.client = client
	return o, nil
}

// logOut closes a client at the end of the process, with bounded patience for a
// relay that does not answer.
func logOut(client *dian.Client) {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		client.Close()
	}()
	patience := time.NewTimer(closePatience)
	defer patience.Stop()
	select {
	case <-closed:
	case <-patience.C:
	}
}

// of returns the channel of a task; whoever comes first makes it.
func (o *outbox) of(sendID string) chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.told[sendID] == nil {
		o.told[sendID] = make(chan struct{})
	}
	return o.told[sendID]
}

// onPart has fn called once, as a callback, when the receiver of a task is seen to
// have a part of it and not all.
func (o *outbox) onPart(sendID string, fn func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.parts[sendID] = fn
}

func (o *outbox) hasPart(sendID string) {
	o.mu.Lock()
	fn := o.parts[sendID]
	delete(o.parts, sendID)
	o.mu.Unlock()
	if fn != nil {
		fn()
	}
}

// await returns a task's result. When ctx ends it cancels the task and waits a
// few seconds for the result; then the client is closed, which gives one.
func (o *outbox) await(ctx context.Context, task *dian.Task) dian.Result {
	select {
	case <-task.Done():
	case <-ctx.Done():
		task.Cancel()
		patience := time.NewTimer(cancelPatience)
		select {
		case <-task.Done():
		case <-patience.C:
			go o.client.Close() // gives every task its result, and then takes its time
			<-task.Done()
		}
		patience.Stop()
	}
	<-o.of(task.ID())
	o.mu.Lock()
	delete(o.told, task.ID())
	delete(o.parts, task.ID())
	o.mu.Unlock()
	return task.Result()
}

// tellResult tells a result; what is its object in text: a file's or buffer's
// name, in quotes.
func (o *outbox) tellResult(r dian.Result, what string) {
	tellResult(o.con, r, what)
}

func tellResult(con *console, r dian.Result, what string) {
	code := dian.CodeOf(r.Err)
	event := resultEvent{
		Event: "result", SendID: r.SendID, To: r.Target, Kind: r.Kind.String(), Code: code, Text: "ok",
		Receipt: r.Receipt.String(), LengthOnly: r.LengthOnly, Size: r.Size, File: r.FileName, Reply: r.Reply,
	}
	if r.Err != nil {
		event.Text = describe(r.Err)
		con.tell(event)
		con.warn("send %s to %s: %s", what, quote(r.Target), event.Text)
		return
	}
	con.tell(event)
	switch {
	case r.Kind != dian.Command:
		text := fmt.Sprintf("sent %s to %s: %s, %s", what, quote(r.Target), sizeText(r.Size), receiptText(r.Receipt))
		if r.LengthOnly {
			text += ", only the length was checked"
		}
		con.say("%s", text)
	case len(r.Reply) > 0:
		con.say("sent to %s; it answers %s", quote(r.Target), quote(string(r.Reply)))
	default:
		con.say("sent to %s", quote(r.Target))
	}
}

// verdictOf is a verb's error after its last result.
func verdictOf(ctx context.Context, failed bool) error {
	if s, ok := interrupted(ctx); ok {
		return s
	}
	if failed {
		return status(statusFailed)
	}
	return nil
}
