package server

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/dian-im/dian/internal/wire"
)

// strange opens a connection that says nothing.
func (c *crowd) strange() net.Conn {
	c.t.Helper()
	conn, err := c.ln.Dial(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { conn.Close() })
	synctest.Wait() // it is accepted, or closed
	return conn
}

// open reports whether the server has not closed a connection.
func open(conn net.Conn) bool {
	synctest.Wait()
	conn.SetReadDeadline(time.Now().Add(time.Millisecond))
	_, err := conn.Read(make([]byte, 1))
	return errors.Is(err, os.ErrDeadlineExceeded)
}

func TestOneAddressCannotTakeAllConnections(t *testing.T) { // case 52
	bubble(t, nil, func(t *testing.T, c *crowd) {
		flood := func(address string, n int) (let int) {
			c.from(address)
			conns := make([]net.Conn, n)
			for i := range conns {
				conns[i] = c.strange()
			}
			for _, conn := range conns {
				if open(conn) {
					let++
				}
			}
			return let
		}
		if let := flood("198.51.100.1", maxStrangers+100); let != maxStrangers/2 {
			t.Errorf("%d silent connections of one address, want %d", let, maxStrangers/2)
		}
		if let := flood("198.51.100.2", maxStrangers); let != maxStrangers/4 {
			t.Errorf("%d silent connections of the next address, want %d", let, maxStrangers/4)
		}
		c.from("203.0.113.1").sends("alice")
		if c.refusals("connections", scopeAll) == 0 {
			t.Error("the refusals are not counted")
		}
		// What says nothing is closed, and nothing stays behind.
		time.Sleep(time.Minute)
		if n := c.used(countConnections); n != 1 {
			t.Errorf("%d connections are counted, want alice's", n)
		}
		if n := c.srv.quota.addresses.size(); n != 1 {
			t.Errorf("%d addresses are remembered", n)
		}
	})
}

// When there is no place for strangers the oldest makes room, unless it has only
// just come.
func TestOldestStrangerMakesRoom(t *testing.T) { // case 53
	bubble(t, nil, func(t *testing.T, c *crowd) {
		first := c.from("198.51.100.1").strange()
		for i := range maxStrangers - 1 {
			c.from(fmt.Sprintf("10.%d.%d.1", i/250, i%250))
			c.strange()
		}
		if c.from("203.0.113.1"); open(c.strange()) {
			t.Error("one more than there are places for was let in")
		}
		time.Sleep(strangerTime)
		c.from("203.0.113.1").sends("alice")
		if open(first) {
			t.Error("the oldest stranger is still there")
		}
	})
}

// Sessions and those who have shown a token are no strangers.
func TestKnownClientsAreNoStrangers(t *testing.T) {
	bubble(t, nil, func(t *testing.T, c *crowd) {
		alice := c.sends("alice")
		c.web.Transport.(*http.Transport).DisableKeepAlives = false
		if resp, body := c.do("GET", "/v1/users", c.token("bob"), nil); resp.StatusCode != 200 {
			t.Fatalf("%d %s", resp.StatusCode, body)
		}
		defer c.web.CloseIdleConnections()
		strangers := func() (n int64) {
			a := c.srv.quota.address(c.ln.from)
			defer c.srv.quota.releaseAddress(a)
			return a.used[countStrangers].Load()
		}
		if n := strangers(); n != 0 {
			t.Errorf("%d strangers", n)
		}
		if conn := c.strange(); !open(conn) || strangers() != 1 {
			t.Errorf("%d strangers, want one", strangers())
		}
		alice.leaves()
	})
}

func TestConnectionsAreBounded(t *testing.T) { // case 52
	for _, of := range []struct {
		what   string
		s      scope
		change func(*Config)
		most   int
	}{
		{"at a time", scopeAddress, func(c *Config) { c.Limits.Address.Sessions = 10 }, 84},
		{"a second", scopeAddress, func(c *Config) { c.Limits.Address.LoginsPerSecond = 1 }, 120},
		{"in all", scopeAll, func(c *Config) { c.Limits.All.Sessions = 10 }, 84},
	} {
		t.Run(of.what, func(t *testing.T) {
			bubble(t, of.change, func(t *testing.T, c *crowd) {
				let := 0
				for i := range 200 {
					if of.s == scopeAll {
						c.from(fmt.Sprintf("10.0.%d.1", i))
					}
					if open(c.strange()) {
						let++
					}
				}
				if let < of.most || let > of.most+30 { // looking takes some time
					t.Errorf("%d connections were let in, want %d", let, of.most)
				}
				if c.s(of.s); c.refusals("connections", of.s) != 200-let {
					t.Errorf("%d refusals are counted, want %d", c.refusals("connections", of.s), 200-let)
				}
			})
		})
	}
}

// s lets the next connection come in from an address that can.
func (c *crowd) s(of scope) {
	c.ln.CutAll()
	synctest.Wait()
	c.from("203.0.113.200")
}

// A proxy's connections are many people's.
func TestProxiesMayHaveManyConnections(t *testing.T) {
	bubble(t, func(c *Config) {
		c.Limits.Address.Sessions, c.TrustedProxies = 1, []string{"10.0.0.1"}
	}, func(t *testing.T, c *crowd) {
		c.from("10.0.0.1")
		for i := range 500 {
			if !open(c.strange()) {
				t.Fatalf("connection %d of a proxy was closed", i)
			}
		}
	})
}

// failing is a listener that fails so many times with an error before each
// connection.
type failing struct {
	dialListener
	err  error
	left atomic.Int64
}

func (f *failing) Accept() (net.Conn, error) {
	if f.left.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", f.err)}
	}
	return f.dialListener.Accept()
}

// net/http gives a listener up after most of these.
func TestListenerGoesOnAfterErrorsThatPass(t *testing.T) { // case 52
	for _, err := range []error{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.EPERM, syscall.EPROTO, syscall.ENETDOWN,
	} {
		synctest.Test(t, func(t *testing.T) {
			ln := newAddressed()
			ln.OnDial = nil
			bad := &failing{dialListener: ln.Listener, err: err}
			bad.left.Store(10)
			r := startRelay(t, bad)
			start := time.Now()
			r.sender("alice")
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("%v: %v until it went on", err, took)
			}
			bad.left.Store(3)
			r.sender("bob")
			if n := r.counter("dian_accept_errors_total"); n < "10" || n == "0" {
				t.Errorf("%v: %s errors are counted", err, n)
			}
		})
	}
}

func TestListenerThatIsGoneEndsServe(t *testing.T) {
	for _, err := range []error{net.ErrClosed, syscall.EBADF, syscall.EINVAL, errors.New("something else")} {
		synctest.Test(t, func(t *testing.T) {
			srv, e := New(relayConfig())
			if e != nil {
				t.Fatal(e)
			}
			bad := &failing{dialListener: newAddressed(), err: err}
			bad.left.Store(1)
			if got := srv.Serve(t.Context(), bad); !errors.Is(got, err) {
				t.Errorf("Serve = %v, want %v", got, err)
			}
		})
	}
}

// While it waits to try again, Serve can be ended.
func TestListenerThatFailsCanBeEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, err := New(relayConfig())
		if err != nil {
			t.Fatal(err)
		}
		bad := &failing{dialListener: newAddressed(), err: syscall.EMFILE}
		bad.left.Store(1 << 60)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Minute, cancel)
		if err := srv.Serve(ctx, bad); err != nil {
			t.Errorf("Serve = %v", err)
		}
	})
}

// spoken sends raw bytes to a server and returns the first line of its answer.
func spoken(t *testing.T, address, text string) string {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(testWait))
	if _, err := io.WriteString(conn, text); err != nil {
		return ""
	}
	line, _ := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSpace(line)
}

func TestProxyProtocolSaysWhoTheClientIs(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprint("TLS ", secure), func(t *testing.T) {
			files, pool := certFiles(t, t.TempDir())
			change := func(c *Config) {
				c.TrustedProxies, c.ProxyProtocol = []string{"127.0.0.1"}, true
				if secure {
					c.TLS = files
				}
			}
			r := tcpRelay(t, change)
			header := ""
			dial := func(ctx context.Context, network, address string) (net.Conn, error) {
				conn, err := new(net.Dialer).DialContext(ctx, "tcp", r.ln.Addr().String())
				if err == nil {
					_, err = io.WriteString(conn, header)
				}
				return conn, err
			}
			from := func(user, text string) string {
				header = text
				d := websocket.Dialer{
					NetDialContext: dial, Subprotocols: []string{wire.ProtoSubprotocol},
					TLSClientConfig: &tls.Config{RootCAs: pool},
				}
				conn, _, err := d.Dial(map[bool]string{false: "ws", true: "wss"}[secure]+"://relay.example/v1/session", nil)
				if err != nil {
					return err.Error()
				}
				t.Cleanup(func() { conn.Close() })
				p := &testPeer{t: t, conn: conn}
				p.send(helloFrame(sendHello(r.token(user))))
				if f := p.next(); f.GetWelcome() == nil {
					return fmt.Sprint(f)
				}
				for _, sess := range r.srv.all() {
					if sess.user == user {
						return sess.address
					}
				}
				return "no session"
			}
			if got := from("a", "PROXY TCP4 203.0.113.9 10.0.0.1 4660 443\r\n"); got != "203.0.113.9" {
				t.Errorf("version 1: %s", got)
			}
			if got := from("b", proxyV2(0x21, 0x21, v6Block())); got != "2001:db8::1" {
				t.Errorf("version 2: %s", got)
			}
			if got := from("c", "PROXY UNKNOWN\r\n"); got != "127.0.0.1" {
				t.Errorf("the proxy itself: %s", got)
			}
			if got := from("d", ""); !strings.Contains(got, "EOF") && !strings.Contains(got, "reset") {
				t.Errorf("without a header: %s, want the end of the connection", got)
			}
		})
	}
}

// A header counts from a trusted proxy alone.
func TestProxyProtocolOfStrangersIsNotRead(t *testing.T) {
	r := tcpRelay(t, func(c *Config) { c.TrustedProxies, c.ProxyProtocol = []string{"203.0.113.1"}, true })
	address := r.ln.Addr().String()
	const request = "GET /healthz HTTP/1.1\r\nHost: relay.example\r\n\r\n"
	if got := spoken(t, address, request); got != "HTTP/1.1 200 OK" {
		t.Errorf("without a header: %q", got)
	}
	if got := spoken(t, address, "PROXY TCP4 203.0.113.9 10.0.0.1 4660 443\r\n"+request); got != "HTTP/1.1 400 Bad Request" {
		t.Errorf("with a header: %q, want 400", got)
	}
}

// A proxy that says nothing holds nothing for long, and holds nobody up.
func TestSilentProxyIsClosed(t *testing.T) {
	bubble(t, func(c *Config) { c.TrustedProxies, c.ProxyProtocol = []string{"10.0.0.1"}, true }, func(t *testing.T, c *crowd) {
		silent := c.from("10.0.0.1").strange()
		c.from("203.0.113.1").sends("alice")
		if !open(silent) {
			t.Fatal("closed at once")
		}
		time.Sleep(proxyHeaderTime + time.Second)
		if open(silent) {
			t.Error("still there")
		}
	})
}

// Lanes are spliced through the door.
func TestTCPIsFoundBelowTheDoor(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if tcpOf(&doorConn{Conn: server}) != server {
		t.Error("the TCP connection is not found below the door")
	}
	if tcpOf(&doorConn{Conn: a}) != nil {
		t.Error("a pipe is no TCP connection")
	}
}

// A program that mounts the handler on its own listener has no door.
func TestHandlerWorksWithoutADoor(t *testing.T) {
	srv, err := New(relayConfig())
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Shutdown(context.Background())
	web := httptest.NewServer(srv)
	defer web.Close()
	req, _ := http.NewRequest("GET", web.URL+"/v1/users", nil)
	req.Header.Set("Authorization", "Bearer "+relayToken(t, "app", "alice", time.Hour, nil, nil))
	resp, err := web.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Errorf("status %d", resp.StatusCode)
	}
}
