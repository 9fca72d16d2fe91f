package dian

import (
	"cmp"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"sync"

	"github.com/dian-im/dian/internal/cork"
	"github.com/dian-im/dian/internal/unsent"
)

// uploadBytes is what an up-lane reads from its source and writes at once. Without
// a ReadFrom of the connection's own, net/http would take 32 KiB.
const uploadBytes = 256 << 10

var uploadBuffers = sync.Pool{New: func() any { return new([uploadBytes]byte) }}

// A laneConn is a connection of lanes: with large writes and, below TLS, few
// system calls for many records.
type laneConn struct {
	net.Conn
	cork *cork.Conn // nil without TLS
}

// ReadFrom sends a request's content. net/http calls it.
func (c *laneConn) ReadFrom(r io.Reader) (n int64, err error) {
	buf := uploadBuffers.Get().(*[uploadBytes]byte)
	defer uploadBuffers.Put(buf)
	for {
		m, readErr := r.Read(buf[:])
		if m > 0 {
			written, err := c.write(buf[:m])
			n += int64(written)
			if err != nil {
				return n, err
			}
		}
		switch {
		case readErr == io.EOF:
			return n, nil
		case readErr != nil:
			return n, readErr
		}
	}
}

func (c *laneConn) write(p []byte) (int, error) {
	if c.cork == nil {
		return c.Conn.Write(p)
	}
	c.cork.Cork()
	n, err := c.Conn.Write(p)
	return n, cmp.Or(err, c.cork.Uncork())
}

// laneDials makes t's connections laneConns, where the application has not said
// how to dial, and gives a lane what a has dialled ahead. By way of an HTTPS proxy
// net/http does the TLS itself.
func laneDials(t *http.Transport, a *ahead) {
	dialRaw := t.DialContext
	if dialRaw == nil {
		dialRaw = new(net.Dialer).DialContext
	}
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dialRaw(ctx, network, addr)
		if err == nil {
			unsent.Bound(conn)
		}
		return conn, err
	}
	if t.DialTLSContext == nil {
		a.dialTLS = dialsTLS(t, dial)
		t.DialTLSContext = a.first("https", a.dialTLS)
	}
	a.dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		raw, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &laneConn{raw, nil}, nil
	}
	t.DialContext = a.first("http", a.dial)
}

// dialsTLS returns a dial with t's TLS, with a cork below it.
func dialsTLS(t *http.Transport, dial dialFunc) dialFunc {
	secure := t.TLSClientConfig.Clone()
	if secure == nil {
		secure = &tls.Config{NextProtos: []string{"http/1.1"}}
	}
	timeout := cmp.Or(t.TLSHandshakeTimeout, handshakeTime)
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		raw, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		cfg := secure
		if cfg.ServerName == "" {
			host, _, err := net.SplitHostPort(addr)
			if err != nil {
				raw.Close()
				return nil, err
			}
			cfg = cfg.Clone()
			cfg.ServerName = host
		}
		below := cork.New(raw)
		conn := tls.Client(below, cfg)
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		if err := conn.HandshakeContext(ctx); err != nil {
			raw.Close()
			return nil, err
		}
		below.ReadAhead(true)
		return &laneConn{conn, below}, nil
	}
}
