package server

import (
	"fmt"
	"net/http"
	"testing"

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
// another, there and back, over loopback TCP: all three in this process.
func BenchmarkCommandsInFlight(b *testing.B) {
	for _, window := range []int{1, 256} {
		b.Run(fmt.Sprint(window), func(b *testing.B) {
			r := tcpRelay(b, fastRates)
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
		})
	}
}
