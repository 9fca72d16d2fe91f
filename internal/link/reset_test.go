package link

import (
	"errors"
	"io"
	"regexp"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/dian-im/dian/internal/wire"
)

// A peer that is not heard may still hear (case 88): it is told by a reset, which does
// not queue behind what was never acknowledged. An orderly end is none.
func TestWhoIsGivenUpGetsAReset(t *testing.T) {
	big := &wire.Frame{Body: &wire.Frame_Command{Command: &wire.Command{Data: make([]byte, 16<<10)}}}
	for name, c := range map[string]struct {
		cfg  Config
		peer func(*Link, *websocket.Conn)
		want string
		read error // of the peer, in the end
	}{
		"silent": {Config{Heartbeat: 50 * time.Millisecond}, func(*Link, *websocket.Conn) {}, ErrSilent.Error(), syscall.ECONNRESET},
		"takes nothing": {Config{WriteTimeout: 50 * time.Millisecond, QueueBytes: 64 << 20}, func(l *Link, _ *websocket.Conn) {
			for l.Send(big) == nil && l.Err() == nil {
			}
		}, "link: write: .* i/o timeout", syscall.ECONNRESET},
		"closed": {Config{}, func(l *Link, ws *websocket.Conn) {
			l.Close(nil, websocket.CloseNormalClosure)
			ws.ReadMessage() // answers it
		}, ErrClosed.Error(), nil},
	} {
		t.Run(name, func(t *testing.T) {
			client, server := sockets(t, loopback(t))
			c.cfg.Handle = ignore
			l := New(server, c.cfg)
			ended := run(t, l)
			c.peer(l, client)
			if err := <-ended; !regexp.MustCompile(c.want).MatchString(err.Error()) {
				t.Errorf("Run = %v, want %v", err, c.want)
			}
			if _, err := io.Copy(io.Discard, client.NetConn()); !errors.Is(err, c.read) {
				t.Errorf("the peer's read ended with %v, want %v", err, c.read)
			}
		})
	}
}
