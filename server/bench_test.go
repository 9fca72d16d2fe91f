package server

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/dian-im/dian/internal/link"
	"github.com/dian-im/dian/internal/wire"
)

// benchLink logs a raw link in and lets handle have its frames.
func benchLink(b *testing.B, r *testRelay, h *wire.Hello, handle func(*link.Link, *wire.Frame)) *link.Link {
	b.Helper()
	d := websocket.Dialer{
		NetDialContext: r.ln.DialContext, Subprotocols: []string{wire.ProtoSubprotocol},
		ReadBufferSize: link.ReadBufferBytes, WriteBufferSize: link.WriteBufferBytes, WriteBufferPool: link.WriteBuffers,
	}
	conn, _, err := d.Dial("ws://relay.example/v1/session", http.Header{})
	if err != nil {
		b.Fatal(err)
	}
	if err := link.WriteFirst(conn, false, helloFrame(h), link.DefaultWriteTimeout); err != nil {
		b.Fatal(err)
	}
	if _, err := link.ReadFirst(conn, false, wire.LoginBytes, link.DefaultWriteTimeout); err != nil {
		b.Fatal(err)
	}
	var l *link.Link
	l = link.New(conn, link.Config{QueueBytes: 4 << 20, QueueFrames: 1 << 16, Handle: func(f *wire.Frame) error {
		handle(l, f)
		return nil
	}})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.Run(b.Context())
	}()
	b.Cleanup(func() {
		l.Close(nil, websocket.CloseNormalClosure)
		<-ended
	})
	return l
}

// fastRates takes rates out of the way, as far as they can be. They are charged all
// the same.
func fastRates(c *Config) {
	fast := Limit{LoginsPerSecond: devRate, CommandsPerSecond: int(largest[cellCommands])}
	c.Limits = Limits{All: fast, App: fast, Address: fast, User: fast}
}

// BenchmarkCommandsInFlight measures commands of 100 bytes from one raw link to
// another, there and back, over loopback TCP: all three in this process. With an
// audit each command has its line: in a file, in one with hidden users, and in one
// whose disk takes a second for each write.
func BenchmarkCommandsInFlight(b *testing.B) {
	audits := []struct {
		name  string
		audit func(*testing.B) Audit
	}{
		{"/none", func(*testing.B) Audit { return Audit{} }},
		{"/audit", func(b *testing.B) Audit { return Audit{File: filepath.Join(b.TempDir(), "audit")} }},
		{"/audit-hidden", func(b *testing.B) Audit {
			return Audit{File: filepath.Join(b.TempDir(), "audit"), UserKey: relayKey.Secret}
		}},
		{"/audit-slow", func(*testing.B) Audit { return Audit{Writer: slowWriter{}, Queue: 1 << 20} }},
	}
	for _, window := range []int{1, 256} {
		for _, a := range audits {
			b.Run(fmt.Sprint(window)+a.name, func(b *testing.B) {
				benchCommands(b, window, a.audit(b))
			})
		}
	}
}

// slowWriter is a disk under load.
type slowWriter struct{}

func (slowWriter) Write(p []byte) (int, error) {
	<-time.After(time.Second)
	return len(p), nil
}

func benchCommands(b *testing.B, window int, audit Audit) {
	r := tcpRelay(b, fastRates, func(c *Config) { c.Audit = audit })
	benchLink(b, r, listenHello(r.token("bob"), 1), func(l *link.Link, f *wire.Frame) {
		c := f.GetCommand()
		if err := l.Send(ackFrame(&wire.CommandAck{Ref: c.GetRef(), Id: c.GetId(), Outcome: final})); err != nil {
			b.Error(err)
		}
	})
	free := make(chan struct{}, window)
	alice := benchLink(b, r, sendHello(r.token("alice")), func(_ *link.Link, f *wire.Frame) {
		if code := f.GetCommandResult().GetCode(); code != 0 {
			b.Errorf("result %d", code)
		}
		<-free
	})
	c := &wire.Command{Id: wire.NewSendID(), Target: "bob", Stream: 1, Floor: 1, Data: make([]byte, 100)}
	f := commandFrame(c)
	b.ReportAllocs()
	for b.Loop() {
		free <- struct{}{}
		c.Seq++
		if err := alice.Send(f); err != nil {
			b.Fatal(err)
		}
	}
	for range window { // the last ones
		free <- struct{}{}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commands/s")
}

// BenchmarkAuditRecord measures what a command's own goroutines pay for its line.
func BenchmarkAuditRecord(b *testing.B) {
	a, err := newAuditor(Audit{Writer: io.Discard}, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	a.start(testStats())
	defer a.close(b.Context())
	t := taskRecord{app: "app", from: "alice", to: "bob", sendID: wire.NewSendID(), kind: kindCommand, via: viaSession, begun: time.Now()}
	b.ReportAllocs()
	for b.Loop() {
		a.result(t, true)
	}
}

// BenchmarkAuditLine measures what the writer's goroutine pays.
func BenchmarkAuditLine(b *testing.B) {
	for name, key := range map[string]Secret{"plain": {}, "hidden": relayKey.Secret} {
		b.Run(name, func(b *testing.B) {
			l := auditLines{key: key}
			r := auditRecord{at: time.Now(), task: taskRecord{
				app: "app", from: "alice", to: "bob", sendID: wire.NewSendID(), kind: kindCommand, via: viaSession, size: 100, passed: 100,
				begun: time.Now(), fromAddress: "192.0.2.1", toAddress: "192.0.2.2",
			}}
			b.ReportAllocs()
			for b.Loop() {
				l.buf = l.buf[:0]
				l.add(&r)
			}
			b.SetBytes(int64(len(l.buf)))
		})
	}
}
