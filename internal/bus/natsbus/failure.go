package natsbus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// A failure is what is logged of an error: never what a server, a message or a file has
// said, which could hold subjects and secrets.
type failure struct {
	level  slog.Level
	kind   string
	action string // of a permission: "publish" or "subscribe"
	prefix string // of a permission: the subject's first word
}

// failureOf sorts an error of nats.go.
func failureOf(err error) failure {
	if err == nil {
		return failure{level: slog.LevelWarn, kind: "no reason is known"}
	}
	for _, e := range []error{
		nats.ErrAuthorization, nats.ErrAuthExpired, nats.ErrAuthRevoked, nats.ErrAccountAuthExpired,
		nats.ErrNkeysNotSupported, nats.ErrMaxSubscriptionsExceeded, nats.ErrMaxConnectionsExceeded,
		nats.ErrMaxAccountConnectionsExceeded, nats.ErrSecureConnWanted, nats.ErrNoEchoNotSupported,
	} {
		if errors.Is(err, e) {
			return failure{level: slog.LevelError, kind: strings.TrimPrefix(e.Error(), "nats: ")}
		}
	}
	if errors.Is(err, nats.ErrPermissionViolation) {
		f := failure{level: slog.LevelError, kind: "permissions violation", action: "publish"}
		if strings.Contains(err.Error(), "Subscription to") {
			f.action = "subscribe"
		}
		if _, subject, ok := strings.Cut(err.Error(), ` to "`); ok {
			subject, _, _ = strings.Cut(subject, `"`)
			f.prefix, _, _ = strings.Cut(subject, ".")
		}
		return f
	}
	for _, e := range []error{
		nats.ErrStaleConnection, nats.ErrNoServers, nats.ErrNoInfoReceived, nats.ErrSlowConsumer,
		errBehind, io.EOF, net.ErrClosed, os.ErrDeadlineExceeded, context.DeadlineExceeded,
	} {
		if errors.Is(err, e) {
			return failure{level: slog.LevelWarn, kind: strings.TrimPrefix(e.Error(), "nats: ")}
		}
	}
	// These say addresses and names of hosts, no more.
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return failure{level: slog.LevelWarn, kind: op.Error()}
	}
	if name, ok := errors.AsType[*net.DNSError](err); ok {
		return failure{level: slog.LevelWarn, kind: name.Error()}
	}
	if errors.Is(err, nats.ErrTLS) {
		return failure{level: slog.LevelError, kind: strings.TrimPrefix(err.Error(), "nats: ")}
	}
	if file, ok := errors.AsType[*fs.PathError](err); ok {
		return failure{level: slog.LevelError, kind: "a file to log in with cannot be read: " + file.Err.Error()}
	}
	for _, said := range []string{
		"maximum payload violation", "maximum control line exceeded", "unknown protocol operation",
		"authentication timeout", "secure connection - tls required", "invalid websocket connection",
	} {
		if strings.Contains(strings.ToLower(err.Error()), said) {
			return failure{level: slog.LevelError, kind: said}
		}
	}
	return failure{level: slog.LevelError, kind: fmt.Sprintf("%T", err)}
}

// A journal logs failures, so that one that comes again and again is not a flood.
type journal struct {
	log *slog.Logger

	mu   sync.Mutex // guards last
	last map[string]*repeated
}

type repeated struct {
	at   time.Time // of the last line
	more int       // failures since then
}

func newJournal(log *slog.Logger) *journal {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &journal{log: log, last: make(map[string]*repeated)}
}

// failed logs what has happened and why, unless the same was logged less than pause ago;
// the next line then says how many it stands for.
func (j *journal) failed(what string, err error, pause time.Duration) {
	f := failureOf(err)
	key := what + "\x00" + f.kind + "\x00" + f.action + "\x00" + f.prefix
	j.mu.Lock()
	r := j.last[key]
	if r == nil {
		r = &repeated{}
		j.last[key] = r
	}
	now := time.Now()
	if !r.at.IsZero() && now.Sub(r.at) < pause {
		r.more++
		j.mu.Unlock()
		return
	}
	more := r.more
	r.at, r.more = now, 0
	j.mu.Unlock()
	attrs := []slog.Attr{slog.String("err", f.kind)}
	if f.action != "" {
		attrs = append(attrs, slog.String("action", f.action), slog.String("prefix", f.prefix))
	}
	if more > 0 {
		attrs = append(attrs, slog.Int("more", more))
	}
	j.log.LogAttrs(context.Background(), f.level, what, attrs...)
}
