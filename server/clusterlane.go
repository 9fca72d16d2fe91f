package server

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dian-im/dian/internal/unsent"
	"github.com/dian-im/dian/internal/wire"
)

// A lane, and any other request about a transfer or a command, that reaches another
// node than its receiver's is carried there, once, over a listener that is for the
// nodes alone. Bytes never cross the bus.

const (
	// carriedHeader says that a request comes from another node, and for whom.
	carriedHeader = "Dian-Carried"
	// carriedSkew is how far the clocks of two nodes may be apart.
	carriedSkew = 10 * time.Minute
	// carriedHello is how long a node may take to send a request's head.
	carriedHello = 10 * time.Second
	// maxAwaits bounds the requests that wait so: they need not have shown a token.
	maxAwaits = 256
	// placeWait is how long a request waits for a receiver of whom nobody knows yet
	// where it is: it may be on its way from one node to another.
	placeWait = 3 * time.Second
)

// A laneDoor is where the other nodes' requests come in, and how this one's go out.
type laneDoor struct {
	c      *cluster
	url    string // for the others
	key    []byte
	web    *http.Server
	proxy  *httputil.ReverseProxy
	client *http.Transport
	ended  chan struct{}
}

// openLaneDoor listens for the other nodes.
func openLaneDoor(c *cluster, key []byte) (*laneDoor, error) {
	cfg := c.cfg
	server, client, err := cfg.TLS.configs()
	if err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", cfg.listen(c.srv.cfg.Dev))
	if err != nil {
		return nil, fmt.Errorf("cluster.listen: %w", err)
	}
	if c.srv.cfg.Dev { // whose secret everybody knows
		if err := CheckDevAddress(ln.Addr()); err != nil {
			ln.Close()
			return nil, fmt.Errorf("cluster.listen: %w", err)
		}
	}
	d := &laneDoor{c: c, key: key, ended: make(chan struct{})}
	scheme := "http"
	if server != nil {
		scheme = "https"
		ln = tls.NewListener(ln, server)
	}
	if d.url = cfg.URL; d.url == "" {
		d.url = scheme + "://" + advertised(ln.Addr(), cfg.NATS.URLs)
	}
	d.client = &http.Transport{
		DialContext:           dialLane,
		TLSClientConfig:       client,
		DisableCompression:    true,
		MaxIdleConnsPerHost:   256,
		IdleConnTimeout:       90 * time.Second,
		ExpectContinueTimeout: time.Hour, // the body waits for the receiver, not for us
		ReadBufferSize:        64 << 10,
		WriteBufferSize:       64 << 10,
		Protocols:             new(http.Protocols),
	}
	d.client.Protocols.SetHTTP1(true)
	d.proxy = &httputil.ReverseProxy{
		Rewrite:       d.rewrite,
		Transport:     d.client,
		FlushInterval: -1,
		BufferPool:    &carriedBuffers{},
		ErrorHandler:  d.failed,
		ErrorLog:      slog.NewLogLogger(c.srv.log.Handler(), slog.LevelDebug),
	}
	d.web = &http.Server{
		Handler:           c.handler(),
		ReadHeaderTimeout: carriedHello,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(c.srv.log.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			if tcp, ok := rawConn(conn).(*net.TCPConn); ok {
				_ = tcp.SetKeepAliveConfig(keepAlive)
				unsent.Bound(tcp)
			}
			return ctx
		},
	}
	go func() {
		defer close(d.ended)
		if err := d.web.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			c.srv.log.Error("the listener for other nodes broke", "err", err)
		}
	}()
	return d, nil
}

func dialLane(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: 5 * time.Second, KeepAliveConfig: keepAlive}
	conn, err := d.DialContext(ctx, network, address)
	if tcp, ok := conn.(*net.TCPConn); ok {
		unsent.Bound(tcp)
	}
	return conn, err
}

// advertised is where the others reach a listener that is on every address: at the one
// from which this node reaches the bus.
func advertised(at net.Addr, busURLs []string) string {
	tcp, ok := at.(*net.TCPAddr)
	if !ok || !tcp.IP.IsUnspecified() {
		return at.String()
	}
	return net.JoinHostPort(ownAddress(busURLs), strconv.Itoa(tcp.Port))
}

// ownAddress is the address from which this node reaches the bus. If that is on the same
// machine it is any other that is not only the machine's own.
func ownAddress(busURLs []string) string {
	for _, text := range busURLs {
		u, err := url.Parse(text)
		if err != nil || u.Hostname() == "" {
			continue
		}
		// Nothing is sent: the kernel says which address it would use.
		conn, err := net.Dial("udp", net.JoinHostPort(u.Hostname(), "9"))
		if err != nil {
			continue
		}
		ip := conn.LocalAddr().(*net.UDPAddr).IP
		conn.Close()
		if !ip.IsLoopback() {
			return ip.String()
		}
	}
	own, _ := net.InterfaceAddrs()
	for _, a := range own {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			return n.IP.String()
		}
	}
	host, _ := os.Hostname()
	return host
}

// close ends the listener, when ctx ends at the latest.
func (d *laneDoor) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if d.web.Shutdown(ctx) != nil {
		d.web.Close()
	}
	<-d.ended
	d.client.CloseIdleConnections()
}

// carriedBuffers are the copy buffers of carried bodies.
type carriedBuffers struct{ pool sync.Pool }

func (b *carriedBuffers) Get() []byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, 128<<10)
}

func (b *carriedBuffers) Put(p []byte) { b.pool.Put(&p) }

// A carriage is where a request goes, in its context.
type carriage struct {
	to   string
	from netip.Addr  // the client
	ours http.Header // of the answer, if it is this node that answers
}

type carriageKey struct{}

// carry sends a request for a user on to the user's node if that is another one, and
// reports whether it is answered. A request that was carried stays where it is: one hop
// (case 100). Nobody is looked for whom the token does not allow to be sent to: how long
// that takes would tell where he is (case 38).
func (c *cluster) carry(w http.ResponseWriter, r *http.Request, by claims, user, kind string) bool {
	if c == nil || carriedFrom(r) != nil || wire.CheckTarget(user) != nil || c.srv.listener(by.App, user) != nil ||
		c.srv.allow(r.Context(), by, VerbSend, user, kind) != nil {
		return false
	}
	return c.carryTo(w, r, by.App, user)
}

func (c *cluster) carryTo(w http.ResponseWriter, r *http.Request, app, user string) bool {
	_, to, there := c.carrier(app, user)
	if !there {
		c.locate(r.Context(), place{app, user})
		_, to, there = c.carrier(app, user)
	}
	if !there || c.srv.listener(app, user) != nil {
		return false
	}
	c.forward(w, r, to)
	return true
}

// carryUp is carry for a sender's request about a transfer, which it names by its id.
func (c *cluster) carryUp(w http.ResponseWriter, r *http.Request, by claims, id string) bool {
	if c == nil || carriedFrom(r) != nil {
		return false
	}
	what, err := decodeTransferID(id)
	if err != nil || what.App != by.App || what.Source != by.User ||
		c.srv.allow(r.Context(), by, VerbSend, what.Target, kindName(what.Kind)) != nil {
		return false
	}
	return c.carryTransfer(w, r, what, id)
}

// carryDown is carry for a receiver's request, which has a ticket and no token.
func (c *cluster) carryDown(w http.ResponseWriter, r *http.Request, id string) bool {
	if c == nil || carriedFrom(r) != nil {
		return false
	}
	if _, ok := c.maker(id, ticketOf(r)); !ok {
		return false
	}
	what, err := decodeTransferID(id)
	return err == nil && c.carryTransfer(w, r, what, id)
}

// ticket makes a ticket of which every node can see which node of this cluster has made
// it for a transfer; whether it counts now only that one knows.
func (c *cluster) ticket(id string) string {
	text := rand.Text()
	if c == nil {
		return text
	}
	text += "." + c.self.String()
	return text + "." + c.lanes.sign("ticket", id, text)
}

// maker returns which node has made a ticket, and whether one of this cluster has.
func (c *cluster) maker(id, ticket string) (node string, ok bool) {
	i := strings.LastIndexByte(ticket, '.')
	if i < 0 || !hmac.Equal([]byte(ticket[i+1:]), []byte(c.lanes.sign("ticket", id, ticket[:i]))) {
		return "", false
	}
	_, node, _ = strings.Cut(ticket[:i], ".")
	return node, true
}

// mayBeElsewhere reports whether a down-lane's ticket is another node's of this cluster:
// only that one knows whether it counts.
func (c *cluster) mayBeElsewhere(r *http.Request) bool {
	if c == nil {
		return false
	}
	node, ok := c.maker(r.PathValue("id"), ticketOf(r))
	return ok && node != c.self.String()
}

// carryTransfer carries a request about a transfer to where its receiver is. What is here
// stays here while nobody has him.
func (c *cluster) carryTransfer(w http.ResponseWriter, r *http.Request, what *transferID, id string) bool {
	if c.srv.listener(what.App, what.Target) != nil {
		return false
	}
	if _, to, there := c.carrier(what.App, what.Target); there {
		c.forward(w, r, to)
		return true
	}
	select {
	case c.awaits <- struct{}{}:
		defer func() { <-c.awaits }()
	default:
		return false
	}
	for begun := time.Now(); c.srv.transfers.find(id) == nil && time.Since(begun) < placeWait && r.Context().Err() == nil; {
		if c.carryTo(w, r, what.App, what.Target) {
			return true
		}
		if c.srv.listener(what.App, what.Target) != nil || !c.up.Load() {
			return false
		}
		select {
		case <-time.After(askAgain):
		case <-r.Context().Done():
		}
	}
	return false
}

func (c *cluster) forward(w http.ResponseWriter, r *http.Request, to string) {
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Time{}) // a lane has no deadline of its own
	_ = control.SetWriteDeadline(time.Time{})
	ours := w.Header().Clone()
	clear(w.Header()) // the other node says all of it
	c.stats.carried.Inc()
	ctx := context.WithValue(r.Context(), carriageKey{}, &carriage{to, c.srv.clientAddr(r), ours})
	c.lanes.proxy.ServeHTTP(w, r.WithContext(ctx))
}

// rewrite addresses a request to the other node.
func (d *laneDoor) rewrite(p *httputil.ProxyRequest) {
	at := p.In.Context().Value(carriageKey{}).(*carriage)
	u, err := url.Parse(at.to)
	if err != nil {
		u = &url.URL{Scheme: "http", Host: "invalid."} // its node has said nonsense
	}
	p.Out.URL.Scheme, p.Out.URL.Host = u.Scheme, u.Host
	p.Out.Host = p.In.Host
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		p.Out.Header.Del(name)
	}
	p.Out.Header.Set(carriedHeader, d.mark(time.Now(), at.from, p.Out.Method, p.In.URL.EscapedPath()))
}

// failed answers a request whose node could not be reached, or has broken off: its
// client tries again.
func (d *laneDoor) failed(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		return
	}
	d.c.srv.log.Debug("a request was not carried to another node", "err", err)
	maps.Copy(w.Header(), r.Context().Value(carriageKey{}).(*carriage).ours)
	writeProblem(w, wire.ServiceFault, "the receiver's node cannot be reached")
}

// mark is what the header says: a version, the time, the client's address, and a MAC of
// these and the request's method and path.
func (d *laneDoor) mark(now time.Time, client netip.Addr, method, path string) string {
	head := "1 " + strconv.FormatInt(now.Unix(), 10) + " " + addressText(client)
	return head + " " + d.sign(head, method, path)
}

func (d *laneDoor) sign(head, method, path string) string {
	mac := hmac.New(sha256.New, d.key)
	_, _ = io.WriteString(mac, head+"\n"+method+"\n"+path)
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:16])
}

// read checks a header.
func (d *laneDoor) read(r *http.Request) (client netip.Addr, ok bool) {
	values := r.Header.Values(carriedHeader)
	if len(values) != 1 {
		return netip.Addr{}, false
	}
	i := strings.LastIndexByte(values[0], ' ')
	if i < 0 {
		return netip.Addr{}, false
	}
	head, mac := values[0][:i], values[0][i+1:]
	if !hmac.Equal([]byte(mac), []byte(d.sign(head, r.Method, r.URL.EscapedPath()))) {
		return netip.Addr{}, false
	}
	parts := strings.SplitN(head, " ", 3)
	if len(parts) != 3 || parts[0] != "1" {
		return netip.Addr{}, false
	}
	seconds, err := strconv.ParseInt(parts[1], 10, 64)
	if age := time.Since(time.Unix(seconds, 0)); err != nil || age > carriedSkew || age < -carriedSkew {
		return netip.Addr{}, false
	}
	client, _ = netip.ParseAddr(parts[2]) // none, for a client without one
	return client, true
}

type carriedKey struct{}

// A carried is that a request was carried here, and for whom.
type carried struct{ client netip.Addr }

// carriedFrom returns what is known of a request that another node has carried here, or
// nil.
func carriedFrom(r *http.Request) *carried {
	c, _ := r.Context().Value(carriedKey{}).(*carried)
	return c
}

// serveCarried takes in what other nodes carry here. Whoever is no node gets nothing.
func (c *cluster) serveCarried(w http.ResponseWriter, r *http.Request) {
	client, ok := c.lanes.read(r)
	if !ok {
		c.stats.forged.Inc()
		notFound(w)
		return
	}
	r.Header.Del(carriedHeader)
	c.srv.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), carriedKey{}, &carried{client})))
}

// configs are the TLS settings of both directions, or nil without files.
func (t ClusterTLS) configs() (server, client *tls.Config, err error) {
	if t.CertFile == "" && t.KeyFile == "" && t.CAFile == "" {
		return nil, nil, nil
	}
	if t.CertFile == "" || t.KeyFile == "" || t.CAFile == "" {
		return nil, nil, errors.New("cluster.tls: cert, key and ca belong together")
	}
	pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
	if err != nil {
		return nil, nil, fmt.Errorf("cluster.tls: %w", err)
	}
	pem, err := os.ReadFile(t.CAFile)
	if err != nil {
		return nil, nil, fmt.Errorf("cluster.tls.ca: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, nil, fmt.Errorf("cluster.tls.ca: no certificate in %q", t.CAFile)
	}
	server = &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, NextProtos: []string{"http/1.1"},
		ClientCAs: roots, ClientAuth: tls.RequireAndVerifyClientCert,
	}
	client = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, RootCAs: roots}
	return server, client, nil
}
