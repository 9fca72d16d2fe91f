package link

import (
	"net"

	"github.com/gorilla/websocket"

	"github.com/dian-im/dian/internal/wire"
)

// Noticed returns conn so that a Link on it, or on TLS above it, notices when its
// reader has handled all that has come and asks for more. See SendBy.
func Noticed(conn net.Conn) net.Conn { return &noticed{Conn: conn} }

type noticed struct {
	net.Conn
	asks func() // called by the reader before it asks for more; nil: nobody wants to know
}

// NetConn returns the connection below.
func (n *noticed) NetConn() net.Conn { return n.Conn }

func (n *noticed) Read(p []byte) (int, error) {
	if n.asks != nil {
		n.asks()
	}
	return n.Conn.Read(p)
}

func (n *noticed) onAsking(f func()) { n.asks = f }

// notice calls f before the reader of ws asks its connection for more, and reports
// whether it can.
func notice(ws *websocket.Conn, f func()) bool {
	for conn := ws.NetConn(); ; {
		if n, ok := conn.(interface{ onAsking(func()) }); ok {
			n.onAsking(f)
			return true
		}
		below, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return false
		}
		conn = below.NetConn()
	}
}

// SendBy is Send for a Handle that runs on the reader of another link, or of this
// one: it does not begin to write before that reader has handled all that has come,
// so that what belongs together goes out in one write. With a nil reader it is Send.
func (l *Link) SendBy(reader *Link, f *wire.Frame) error {
	if reader == nil {
		return l.Send(f)
	}
	idle, err := l.queue(f, false)
	if err == nil && idle {
		reader.woken = append(reader.woken, l)
	}
	return err
}

// WakeOthers lets what was sent with SendBy go out now, and then calls Handled. Only a
// Handle of this link calls it, before something that may take long.
func (l *Link) WakeOthers() {
	for i, other := range l.woken {
		l.woken[i] = nil
		other.flush(0)
	}
	l.woken = l.woken[:0]
	if l.cfg.Handled != nil {
		l.cfg.Handled()
	}
}
