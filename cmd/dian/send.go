package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/dian-im/dian"
)

// minWindow is how many files are in the client's queue, if there are so many:
// enough for a receiver to flush many small ones at once.
const minWindow = 64

// sendCmd is `dian send`.
type sendCmd struct {
	connection `embed:""`
	JSON       bool          `name:"json" help:"Print progress and results as JSON events."`
	Wait       time.Duration `placeholder:"DURATION" help:"Wait so long for an offline user."`
	Parallel   int           `default:"4" placeholder:"N" help:"How many files at the same time (${default})."`
	Name       string        `placeholder:"NAME" help:"The name to send along; the file's own unless given. For one file."`
	Type       string        `placeholder:"TYPE" help:"The media type to send along."`
	Meta       string        `placeholder:"TEXT" help:"Send this along, at most 4096 bytes."`

	Target string   `arg:"" name:"user" help:"To whom."`
	Files  []string `arg:"" name:"file" help:"What."`
}

// Run sends files and tells their results.
func (c *sendCmd) Run(con *console) error {
	con.json = c.JSON
	if c.Name != "" && len(c.Files) > 1 {
		return usage("--name is for one file, and these are %d", len(c.Files))
	}
	if c.Parallel < 1 || c.Parallel > 256 {
		return usage("--parallel: use 1 to 256")
	}
	ctx, stop := interruptible()
	defer stop()
	journal, err := openJournal()
	if err != nil {
		con.warn("unfinished sends will not be remembered: %s", err)
	}
	o, err := openOutbox(ctx, con, &c.connection, dian.WithParallel(c.Parallel))
	if err != nil {
		return err
	}
	defer logOut(o.client)
	con.openBars()
	defer con.closeBars()

	// The client has its own queue, in which small files pass the large ones. A
	// window keeps it, and the open files of the journal, short.
	window := make(chan struct{}, max(2*c.Parallel, minWindow))
	var failed atomic.Bool
	var running sync.WaitGroup
	for _, path := range c.Files {
		select {
		case window <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		running.Go(func() {
			defer func() { <-window }()
			if !c.sendOne(ctx, o, journal, path) {
				failed.Store(true)
			}
		})
	}
	running.Wait()
	return verdictOf(ctx, failed.Load())
}

// sendOne sends a file, or goes on with what an earlier process began, and
// reports whether it is there.
func (c *sendCmd) sendOne(ctx context.Context, o *outbox, j *journal, path string) bool {
	opts := sendOptions(c.Wait, c.Meta)
	if c.Name != "" {
		opts = append(opts, dian.WithName(c.Name))
	}
	if c.Type != "" {
		opts = append(opts, dian.WithType(c.Type))
	}
	entry := c.remember(o, j, path)
	defer entry.close()
	for {
		id, resumed := entry.id()
		these := append(opts[:len(opts):len(opts)], dian.WithSendID(id))
		if place, ok := entry.peer(); ok {
			these = append(these, dian.WithInstance(place))
		}
		task := o.client.SendFile(c.Target, path, these...)
		note := func() {
			if place, ok := task.Peer(); ok {
				entry.accepted(place)
			}
		}
		o.onPart(id, note)
		ended := o.con.showBar(quote(path), task)
		result := o.await(ctx, task)
		sent, _ := task.Progress()
		code := dian.CodeOf(result.Err)
		if resumed && sent == 0 && (code == dian.ErrBadSendID || code == dian.ErrCancelled) && ctx.Err() == nil {
			// The receiver does not go on with that one: the user is at another
			// place now, or a cancel of ours has reached it after all.
			ended()
			entry.renew()
			continue
		}
		// Told before it is forgotten: who is killed in between asks again under the same
		// id, and gets the same answer, instead of sending a second file.
		o.tellResult(result, quote(path))
		if final(code, resumed || sent > 0) {
			entry.forget()
		} else {
			note()
		}
		ended()
		return result.Err == nil
	}
}

// final reports whether a transfer that ended with code is over for good, so that
// the next attempt is a new one. begun says that the receiver may have a part.
func final(code dian.Code, begun bool) bool {
	switch code {
	case dian.ErrConnectionLost, dian.ErrNotLoggedIn, dian.ErrKicked, dian.ErrTokenExpired,
		dian.ErrNoAnswerFromServer, dian.ErrConnectFailed, dian.ErrTimedOut, dian.ErrConnectionClosed,
		dian.ErrTLSFault, dian.ErrServiceFault, dian.ErrInternal, dian.ErrUnknown,
		dian.ErrPeerNoAnswer: // it may have it: only the same id finds out
		return false
	case dian.ErrPeerOffline, dian.ErrPeerBusy, dian.ErrOverLimit:
		return !begun
	}
	return true
}

// remember returns the journal's entry for a file. If there can be none, because
// the file cannot be sent, the journal cannot be used, or another process sends
// the same, the entry only has a new id.
func (c *sendCmd) remember(o *outbox, j *journal, path string) *entry {
	loose := &entry{record: record{SendID: newSendID()}}
	if j == nil {
		return loose
	}
	absolute, err := filepath.Abs(path)
	if err != nil {
		return loose
	}
	info, err := os.Stat(absolute)
	if err != nil || !info.Mode().IsRegular() {
		return loose
	}
	e, err := j.open(record{
		Server: c.Server, App: o.client.App(), User: o.client.User(), Target: c.Target, Path: absolute,
		Name: c.Name, Source: identify(info),
	}, time.Now())
	if err != nil {
		if !errors.Is(err, errSending) { // a full disk, say
			o.con.warn("sending %s, which cannot be gone on with if this process ends: %s", quote(path), describe(err))
		}
		return loose
	}
	return e
}

func newSendID() string { return uuid.Must(uuid.NewV7()).String() }
