package link

import (
	"context"
	"net"
	"net/http"
	"testing"

	"github.com/gorilla/websocket"

	"github.com/dian-im/dian/internal/memnet"
	"github.com/dian-im/dian/internal/wire"
)

// listener is a net.Listener that can be dialled.
type listener interface {
	net.Listener
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// sockets returns the two ends of a WebSocket over l.
func sockets(t testing.TB, l listener) (client, server *websocket.Conn) {
	t.Helper()
	upgraded := make(chan *websocket.Conn, 1)
	upgrader := websocket.Upgrader{
		ReadBufferSize: IdleReadBytes, WriteBufferSize: WriteBufferBytes, WriteBufferPool: WriteBuffers,
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if ws, err := upgrader.Upgrade(Guarded(w), r, nil); err == nil {
			upgraded <- ws
		}
	})}
	served := make(chan struct{})
	go func() {
		defer close(served)
		srv.Serve(l)
	}()
	dialer := websocket.Dialer{
		NetDialContext: l.DialContext,
		ReadBufferSize: ReadBufferBytes, WriteBufferSize: WriteBufferBytes, WriteBufferPool: WriteBuffers,
	}
	client, _, err := dialer.DialContext(t.Context(), "ws://relay.mem/v1/session", nil)
	if err != nil {
		t.Fatal(err)
	}
	server = <-upgraded
	srv.Close() // the connection itself is not the server's any more
	<-served
	t.Cleanup(func() {
		client.Close()
		server.Close()
	})
	return client, server
}

// memPair returns the two ends of a WebSocket in memory, and the client's end of
// the connection below, to do harm to.
func memPair(t testing.TB) (client, server *websocket.Conn, below *memnet.Conn) {
	t.Helper()
	client, server = sockets(t, memnet.Listen())
	return client, server, client.NetConn().(*memnet.Conn)
}

func ignore(*wire.Frame) error { return nil }

// run runs a link until it ends and hands its error over.
func run(t testing.TB, l *Link) <-chan error {
	ended := make(chan error, 1)
	go func() { ended <- l.Run(t.Context()) }()
	return ended
}

func received(n int64) *wire.Frame {
	return &wire.Frame{Body: &wire.Frame_Received{Received: &wire.Received{Transfer: "t", Offset: n}}}
}

func lineOff(code wire.Code) *wire.Frame {
	return &wire.Frame{Body: &wire.Frame_LineOff{LineOff: &wire.LineOff{Code: uint32(code)}}}
}

func encoded(t testing.TB, frames ...*wire.Frame) (msg []byte) {
	t.Helper()
	for _, f := range frames {
		var err error
		if msg, err = wire.AppendBinary(msg, f); err != nil {
			t.Fatal(err)
		}
	}
	return msg
}
