package dian

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/websocket"

	"github.com/dian-im/dian/internal/link"
	"github.com/dian-im/dian/internal/wire"
)

const (
	handshakeTime = 20 * time.Second // TCP, proxy, TLS and upgrade together
	welcomeTime   = 10 * time.Second // from Hello to Welcome
)

// network is how a client reaches its server: the session's dialer and the HTTP
// client of the lanes, with the same proxy, dial and TLS settings.
type network struct {
	base   *url.URL // of the server, without a slash at the end
	dialer *websocket.Dialer
	lanes  *http.Client
	own    *http.Transport // of lanes, to be closed; nil if the application gave one of another kind
	ahead  ahead
}

// newNetwork reads the server's URL and the options that belong to it.
func newNetwork(server string, o *options) (*network, error) {
	base, err := url.Parse(server)
	switch {
	case err != nil:
		return nil, localError("connect", "", ErrBadParameter, "the server's URL cannot be read", nil)
	case base.Scheme != "http" && base.Scheme != "https" || base.Host == "":
		return nil, localError("connect", "", ErrBadParameter, "the server's URL is not http:// or https:// and a host", nil)
	case base.User != nil || base.RawQuery != "" || base.Fragment != "":
		return nil, localError("connect", "", ErrBadParameter, "the server's URL has more than scheme, host and path", nil)
	}
	base = base.JoinPath()
	base.Path, base.RawPath = strings.TrimRight(base.Path, "/"), strings.TrimRight(base.RawPath, "/")

	n := &network{base: base, lanes: &http.Client{}}
	given := http.DefaultTransport
	if o.httpClient != nil {
		n.lanes.Jar = o.httpClient.Jar
		if o.httpClient.Transport != nil {
			given = o.httpClient.Transport
		}
	}
	t, ok := given.(*http.Transport)
	if ok {
		t = t.Clone()
		n.own, n.lanes.Transport = t, t
	} else {
		n.lanes.Transport = given
		t = &http.Transport{Proxy: http.ProxyFromEnvironment}
	}
	if o.tls != nil {
		t.TLSClientConfig = o.tls.Clone()
	}
	if t.TLSClientConfig != nil {
		t.TLSClientConfig = t.TLSClientConfig.Clone()
		t.TLSClientConfig.NextProtos = []string{"http/1.1"}
	}
	// Lanes are HTTP/1.1, one connection each: no transfer waits behind another.
	t.ForceAttemptHTTP2 = false
	t.Protocols = new(http.Protocols)
	t.Protocols.SetHTTP1(true)
	t.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	t.DisableCompression = true
	t.MaxConnsPerHost = 0
	t.MaxIdleConnsPerHost = max(t.MaxIdleConnsPerHost, o.parallel+o.parallelReceive)
	t.ResponseHeaderTimeout = 0 // a lane's answer may wait for the other side
	n.lanes.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	n.dialer = &websocket.Dialer{
		NetDialContext:    t.DialContext,
		NetDialTLSContext: t.DialTLSContext,
		Proxy:             t.Proxy,
		TLSClientConfig:   t.TLSClientConfig,
		HandshakeTimeout:  handshakeTime,
		Jar:               n.lanes.Jar,
		Subprotocols:      []string{wire.ProtoSubprotocol},
		ReadBufferSize:    link.ReadBufferBytes,
		WriteBufferSize:   link.WriteBufferBytes,
		WriteBufferPool:   link.WriteBuffers,
	}
	if ok {
		laneDials(t, &n.ahead)
	}
	return n, nil
}

func (n *network) close() {
	n.ahead.close()
	if n.own != nil {
		n.own.CloseIdleConnections()
	}
}

// laneURL returns the absolute URL of a lane's path. A base that the server names
// may move lanes to another host, but not from TLS to plain text.
func (n *network) laneURL(laneBase, path string) string {
	base := n.base
	if laneBase != "" {
		if u, err := n.base.Parse(laneBase); err == nil && u.Host != "" &&
			(u.Scheme == "https" || u.Scheme == "http" && n.base.Scheme == "http") {
			base = u
		}
	}
	return strings.TrimRight(base.Scheme+"://"+base.Host+base.EscapedPath(), "/") + "/" + strings.TrimLeft(path, "/")
}

// login dials and logs in once. It ends with ctx, whatever the server is silent in:
// every connection that is dialled is closed then.
func (n *network) login(ctx context.Context, hello *wire.Hello) (*websocket.Conn, *wire.Welcome, *Error) {
	u := *n.base.JoinPath("v1", "session")
	u.Scheme = map[string]string{"http": "ws", "https": "wss"}[u.Scheme]
	ends := &endsWith{ctx: ctx}
	d := *n.dialer
	if d.NetDialContext == nil {
		d.NetDialContext = new(net.Dialer).DialContext
	}
	d.NetDialContext = ends.dials(d.NetDialContext)
	if d.NetDialTLSContext != nil {
		d.NetDialTLSContext = ends.dials(d.NetDialTLSContext)
	}
	conn, welcome, failed := dialAndGreet(ctx, &d, u.String(), hello)
	if !ends.release() && failed == nil {
		conn.Close()
		failed = contextError(ctx)
	}
	if failed != nil {
		return nil, nil, failed
	}
	return conn, welcome, nil
}

// endsWith closes the connections that were dialled through it when its context
// ends: gorilla only heeds the deadline once a connection is there. It is used by
// one goroutine.
type endsWith struct {
	ctx   context.Context
	stops []func() bool
}

func (e *endsWith) dials(dial func(context.Context, string, string) (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		e.stops = append(e.stops, context.AfterFunc(e.ctx, func() { hangUp(conn) }))
		return link.Noticed(conn), nil
	}
}

// release lets the connections live on. It reports false if the context has ended
// before.
func (e *endsWith) release() bool {
	lives := true
	for _, stop := range e.stops {
		lives = stop() && lives
	}
	return lives
}

// hangUp closes the socket itself: a TLS goodbye could wait for a peer that reads
// nothing.
func hangUp(conn net.Conn) {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	conn.Close()
}

// dialAndGreet makes a WebSocket connection and exchanges Hello and Welcome.
func dialAndGreet(ctx context.Context, d *websocket.Dialer, address string, hello *wire.Hello) (*websocket.Conn, *wire.Welcome, *Error) {
	conn, response, err := d.DialContext(ctx, address, http.Header{"User-Agent": {"dian-go"}})
	if err != nil {
		return nil, nil, dialError(ctx, response, err)
	}
	if conn.Subprotocol() != wire.ProtoSubprotocol {
		conn.Close()
		return nil, nil, localError("connect", "", ErrVersionNotSupported, "the server does not speak "+wire.ProtoSubprotocol, nil)
	}
	welcome, failed := shakeHands(ctx, conn, hello)
	if failed != nil {
		conn.Close()
		return nil, nil, failed
	}
	return conn, welcome, nil
}

// shakeHands sends Hello and reads its answer.
func shakeHands(ctx context.Context, conn *websocket.Conn, hello *wire.Hello) (*wire.Welcome, *Error) {
	f := &wire.Frame{Body: &wire.Frame_Hello{Hello: hello}}
	if err := link.WriteFirst(conn, false, f, welcomeTime); err != nil {
		if ctx.Err() != nil {
			return nil, contextError(ctx)
		}
		return nil, localError("connect", "", ErrConnectFailed, "", err)
	}
	f, err := link.ReadFirst(conn, false, wire.MessageBytes, welcomeTime)
	if err != nil {
		switch {
		case ctx.Err() != nil:
			return nil, contextError(ctx)
		case isTimeout(err):
			return nil, localError("connect", "", ErrNoAnswerFromServer, "", nil)
		case errors.Is(err, link.ErrProtocol):
			return nil, localError("connect", "", ErrBadData, "", err)
		}
		return nil, localError("connect", "", ErrConnectionClosed, "", err)
	}
	switch b := f.GetBody().(type) {
	case *wire.Frame_Welcome:
		if err := wire.CheckWelcome(b.Welcome); err != nil {
			return nil, localError("connect", "", ErrBadData, "welcome", err)
		}
		return b.Welcome, nil
	case *wire.Frame_LineOff:
		return nil, lineOffError("connect", b.LineOff)
	}
	return nil, localError("connect", "", ErrBadData, "the server's first frame is neither Welcome nor LineOff", nil)
}

// lineOffError makes an error of the server's last word.
func lineOffError(op string, l *wire.LineOff) *Error {
	code := Code(l.GetCode())
	if code == OK {
		code = ErrConnectionClosed
	}
	return &Error{Op: op, Origin: Server, Code: code, Detail: l.GetDetail()}
}

// dialError says why there is no WebSocket connection.
func dialError(ctx context.Context, response *http.Response, err error) *Error {
	if ctx.Err() != nil {
		return contextError(ctx)
	}
	if response != nil && errors.Is(err, websocket.ErrBadHandshake) {
		if e := problemError(response); e != nil {
			return e
		}
		return localError("connect", "", ErrConnectFailed, "the server answered HTTP "+strconv.Itoa(response.StatusCode), nil)
	}
	if isTLSFault(err) {
		return localError("connect", "", ErrTLSFault, "", err)
	}
	return localError("connect", "", ErrConnectFailed, "", err)
}

// problemError reads a problem document (docs/protocol.md §9) of a refused
// upgrade; nil if it is none. gorilla has read at most 1 KiB of it.
func problemError(response *http.Response) *Error {
	mediaType, _, _ := strings.Cut(response.Header.Get("Content-Type"), ";")
	if strings.TrimSpace(mediaType) != "application/problem+json" || response.Body == nil {
		return nil
	}
	var problem struct {
		Code   Code   `json:"code"`
		Detail string `json:"detail"`
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, 1<<10))
	if err != nil || json.Unmarshal(text, &problem) != nil || problem.Code == OK {
		return nil
	}
	return &Error{Op: "connect", Origin: Server, Code: problem.Code, Detail: problem.Detail}
}

// contextError says that the caller's context has ended.
func contextError(ctx context.Context) *Error {
	code := ErrCancelled
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		code = ErrTimedOut
	}
	return localError("connect", "", code, "", context.Cause(ctx))
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// isTLSFault reports whether err is about certificates or the TLS handshake, and
// not about the network below.
func isTLSFault(err error) bool {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return true
	}
	if _, ok := errors.AsType[tls.AlertError](err); ok {
		return true
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return true
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return true
	}
	// The handshake's other errors have no type; the package names itself.
	return strings.Contains(err.Error(), "tls: ")
}
