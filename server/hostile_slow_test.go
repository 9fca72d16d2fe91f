package server

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dian-im/dian/internal/memnet"
	"github.com/dian-im/dian/internal/wire"
)

// drip writes what it is given over and over, a byte a second, until the server has
// ended the connection, and returns how long that took.
func drip(conn net.Conn, first, again []byte) time.Duration {
	start := time.Now()
	for next := first; ; next = again {
		for _, b := range next {
			if _, err := conn.Write([]byte{b}); err != nil {
				return time.Since(start)
			}
			time.Sleep(time.Second)
		}
	}
}

func TestSlowMessageIsCut(t *testing.T) { // case 2
	whole := wsFrame{op: opBinary, data: make([]byte, wire.MessageBytes)}.bytes()
	part := func(data []byte) []byte { return wsFrame{op: opBinary, more: true, data: data}.bytes() }
	for _, c := range []struct {
		name         string
		at           []byte // at once
		first, again []byte // then a byte a second
		within       time.Duration
		status       int
	}{
		{"the largest message", nil, whole, whole, 16*time.Second + 14*time.Second, wasCut}, // its head has 14 bytes
		{"the largest message behind its head", whole[:14], whole[14:], whole, 16 * time.Second, wasCut},
		{"1 GiB", wsFrame{op: opBinary, length: []byte{127, 0, 0, 0, 0, 0x40, 0, 0, 0}}.bytes(), make([]byte, 10), make([]byte, 10), 3 * time.Second, 1009},
		{"empty fragments", part(nil), wsFrame{op: opContinue, more: true}.bytes(), wsFrame{op: opContinue, more: true}.bytes(), 16 * time.Second, wasCut},
		{"fragments of a byte", part([]byte{1}), wsFrame{op: opContinue, more: true, data: []byte{1}}.bytes(), wsFrame{op: opContinue, more: true, data: []byte{1}}.bytes(), 16 * time.Second, wasCut},
		{"a message with pings in it", part([]byte{1}), wsFrame{op: opPing}.bytes(), wsFrame{op: opPing}.bytes(), 16 * time.Second, wasCut},
		// Before its head is whole it is silence, which ends after twice the heartbeat.
		{"the head of a fragment", nil, part(make([]byte, 1<<16))[:13], nil, 19 * time.Second, wasCut},
		{"half a head and nothing", whole[:1], nil, nil, 19 * time.Second, wasCut},
		{"half a ping and nothing", wsFrame{op: opPing, data: []byte("x")}.bytes()[:6], nil, nil, 19 * time.Second, wasCut},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := memRelay(t, fastRates)
				s := r.socket()
				s.write(upgradeRequest(wire.ProtoSubprotocol))
				s.switched(wire.ProtoSubprotocol)
				s.login(listenHello(r.token("mallory"), 1))
				time.Sleep(5 * time.Second) // it is not the first message's deadline
				start := time.Now()
				s.write(c.at)
				var dripping sync.WaitGroup
				dripping.Go(func() {
					if c.again != nil {
						drip(s.conn, c.first, c.again)
					} else {
						for _, b := range c.first {
							s.write([]byte{b})
							time.Sleep(time.Second)
						}
					}
				})
				status, _ := s.end()
				took := time.Since(start)
				if status != c.status || took > c.within {
					t.Errorf("ended with %d after %v, want %d within %v", status, took, c.status, c.within)
				}
				s.conn.Close()
				dripping.Wait()
				r.empty(0)
			})
		})
	}
}

// empty wants the server to hold no more than so many sessions, and nothing that is
// not logged in.
func (r *testRelay) empty(sessions int) {
	r.t.Helper()
	synctest.Wait()
	if s := r.srv; len(s.all()) != sessions || s.quota.all.used[countSessions].Load() != int64(sessions) || s.quota.all.used[countEntering].Load() != 0 {
		r.t.Errorf("%d sessions, %d connections and %d without a login are left, want %d sessions",
			len(s.all()), s.quota.all.used[countSessions].Load(), s.quota.all.used[countEntering].Load(), sessions)
	}
}

func TestPeersThatDoNotPartAreFreed(t *testing.T) { // case 8
	for name, c := range map[string]struct {
		end  func(r *testRelay, s *socket) // what begins the end
		last func(s *socket)               // what the peer does then
	}{
		"kicked, and reads nothing":           {kick, nil},
		"kicked, and never answers the close": {kick, func(s *socket) { io.Copy(io.Discard, s.in) }},
		"kicked, and half-closes":             {kick, func(s *socket) { s.conn.(*memnet.Conn).CloseWrite() }},
		"kicked, and cut in the middle of a frame": {kick, func(s *socket) {
			s.write([]byte{0x82})
			s.conn.(*memnet.Conn).Cut()
		}},
		"kicked, and talks on": {kick, func(s *socket) {
			for _, err := s.conn.Write(wsFrame{op: opPong}.bytes()); err == nil; _, err = s.conn.Write(wsFrame{op: opPong}.bytes()) {
				time.Sleep(10 * time.Millisecond)
			}
		}},
		"kicked, and its line is dead": {func(r *testRelay, s *socket) {
			s.conn.(*memnet.Conn).Blackhole()
			kick(r, s)
		}, nil},
		"kicked while its line stalls": {func(r *testRelay, s *socket) {
			s.conn.(*memnet.Conn).Stall()
			kick(r, s)
		}, nil},
		"refused, and reads nothing":       {func(_ *testRelay, s *socket) { s.send(helloFrame(&wire.Hello{})) }, nil},
		"closes, and leaves the line open": {func(_ *testRelay, s *socket) { s.write(wsFrame{op: opClose}.bytes()) }, nil},
		"closes in the middle of a message": {func(_ *testRelay, s *socket) {
			s.write(wsFrame{op: opBinary, more: true}.bytes(), wsFrame{op: opClose}.bytes())
		}, nil},
		"breaks the rules and talks on": {func(_ *testRelay, s *socket) { s.write(wsFrame{op: 3}.bytes()) }, func(s *socket) {
			for _, err := s.conn.Write(make([]byte, 1000)); err == nil; _, err = s.conn.Write(make([]byte, 1000)) {
				time.Sleep(time.Millisecond)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := memRelay(t, fastRates)
				s := r.socket()
				s.write(upgradeRequest(wire.ProtoSubprotocol))
				s.switched(wire.ProtoSubprotocol)
				s.login(listenHello(r.token("mallory"), 1))
				c.end(r, s)
				var parting sync.WaitGroup
				if c.last != nil {
					parting.Go(func() { c.last(s) })
				}
				time.Sleep(5*time.Second + time.Millisecond)
				kicker := 0
				if strings.HasPrefix(name, "kicked") {
					kicker = 1
				}
				r.empty(kicker)
				s.conn.Close()
				parting.Wait()
			})
		})
	}
}

// kick takes the place of mallory.
func kick(r *testRelay, _ *socket) { r.hello(listenHello(r.token("mallory"), 2)) }

// Two thousand clients that dawdle in every way before their login are gone within
// ten seconds, and all the while everybody else logs in at once.
func TestDawdlersDoNotStopLogins(t *testing.T) { // cases 9, 10 and 53
	request := upgradeRequest(wire.ProtoSubprotocol)
	long := append(upgradeRequest(wire.ProtoSubprotocol, "X-Long", strings.Repeat("a", 10_000)), 0)
	hello := wsFrame{op: opBinary, data: make([]byte, 16<<10)}.bytes()
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("tls=%v", secure), func(t *testing.T) {
			certs := func(*Config) {}
			if secure {
				files, _ := certFiles(t, t.TempDir())
				certs = func(c *Config) { c.TLS = files }
			}
			synctest.Test(t, func(t *testing.T) {
				r := newCrowd(t, certs, fastRates)
				dial := func() net.Conn {
					conn, err := r.ln.DialContext(t.Context(), "", "")
					if err != nil {
						t.Fatal(err)
					}
					return conn
				}
				handshake := func(conn net.Conn) net.Conn {
					if secure {
						conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
					}
					return conn
				}
				kinds := []func(conn net.Conn){
					func(conn net.Conn) { drip(conn, []byte{0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3}, make([]byte, 100)) }, // a ClientHello, or no request
					func(conn net.Conn) { drip(handshake(conn), long, long) },
					func(conn net.Conn) { io.Copy(io.Discard, conn) }, // says nothing
					func(conn net.Conn) { // upgrades, and says nothing
						conn = handshake(conn)
						conn.Write(request)
						io.Copy(io.Discard, conn)
					},
					func(conn net.Conn) { // upgrades, and dawdles over its Hello
						conn = handshake(conn)
						conn.Write(request)
						conn.Read(make([]byte, 1)) // the answer: earlier it would not be waited for
						drip(conn, hello, hello)
					},
				}
				if !secure {
					kinds[0] = func(conn net.Conn) { drip(conn, []byte("GET /v1/session"), []byte("/session")) }
				}
				crowd := 2000
				if secure { // its handshakes cost the test more than the server
					crowd = 500
				}
				start := time.Now()
				var crowding sync.WaitGroup
				longest := make([]time.Duration, crowd)
				for i := range crowd {
					r.from(fmt.Sprintf("198.51.100.%d", i/25))
					conn := dial()
					crowding.Go(func() {
						kinds[i%len(kinds)](conn)
						longest[i] = time.Since(start)
						conn.Close()
					})
					if i%500 == 499 {
						synctest.Wait() // the listener's backlog
					}
				}
				synctest.Wait()
				if n := r.srv.quota.all.used[countEntering].Load(); n != int64(crowd/len(kinds)*2) {
					t.Errorf("%d wait for their login, want %d", n, crowd/len(kinds)*2)
				}
				r.from("203.0.113.1")
				for range 10 {
					began := time.Now()
					s := newSocket(t, handshake(dial()))
					s.write(request)
					s.switched(wire.ProtoSubprotocol)
					s.login(sendHello(r.token("alice")))
					if took := time.Since(began); took > 0 {
						t.Errorf("a login beside the crowd took %v", took)
					}
					s.conn.Close()
					time.Sleep(time.Second)
				}
				crowding.Wait()
				for i, took := range longest {
					// A byte a second: the end may be seen a second later.
					if took > 12*time.Second {
						t.Fatalf("one of kind %d was there for %v, want 10s", i%len(kinds), took)
					}
				}
				r.empty(0)
			})
		})
	}
}
