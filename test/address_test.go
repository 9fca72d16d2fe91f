package test

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// sessionFrom asks for a session from a loopback address of its own, with headers
// that the client makes up, and a token that is none.
func sessionFrom(t *testing.T, from, to, headers string) {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := d.DialContext(t.Context(), "tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(conn, "GET /v1/session HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: dian.v1.json\r\n%s\r\n", headers)
	r := bufio.NewReader(conn)
	if line, err := r.ReadString('\n'); err != nil || !strings.Contains(line, " 101 ") {
		t.Fatalf("the upgrade gets %q, %v", line, err)
	}
	const hello = `{"hello":{"token":"x.y.z","role":"ROLE_SEND"}}`
	mask := []byte{1, 2, 3, 4}
	frame := append([]byte{0x81, 0x80 | byte(len(hello))}, mask...)
	for i := range len(hello) {
		frame = append(frame, hello[i]^mask[i%4])
	}
	conn.Write(frame)
	r.ReadByte() // the refusal
}

// refusedAt returns the address that the relay's log has for the last login.
func refusedAt(t *testing.T, r *relay, after int) string {
	t.Helper()
	line := regexp.MustCompile(`msg="login refused" code=19 address=(\S+)`)
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if all := line.FindAllStringSubmatch(r.errors(), -1); len(all) > after {
			return all[len(all)-1][1]
		}
	}
	t.Fatal("the relay logs no refused login")
	return ""
}

// TestProxySettingsOfTheDocsTellTheClient lets clients make up headers in front of
// each proxy with the settings that we publish, and without one.
func TestProxySettingsOfTheDocsTellTheClient(t *testing.T) {
	t.Setenv("DIAN_TRUSTED_PROXIES", "127.0.0.1")
	const client = "127.0.0.7" // the proxies are at 127.0.0.1
	forged := []string{
		"", "X-Forwarded-For: 203.0.113.9\r\n", "Forwarded: for=203.0.113.9\r\n",
		"X-Forwarded-For: 203.0.113.9, 127.0.0.1\r\nForwarded: for=203.0.113.9;by=127.0.0.1\r\n", "X-Forwarded-For: rubbish\r\n",
	}
	for _, name := range []string{"nginx", "caddy", "haproxy", "none"} {
		t.Run(name, func(t *testing.T) {
			r := startRelay(t, "--log-level", "debug")
			to := r.addr
			if name != "none" {
				to = strings.TrimPrefix(startProxy(t, name, r.addr), "http://")
			}
			for i, headers := range forged {
				sessionFrom(t, client, to, headers)
				if got := refusedAt(t, r, i); got != client {
					t.Errorf("with %q the client is %s, want %s", headers, got, client)
				}
			}
		})
	}
}

// TestProxyProtocolOfHAProxy is the same for HAProxy that passes bytes on.
func TestProxyProtocolOfHAProxy(t *testing.T) {
	t.Setenv("DIAN_TRUSTED_PROXIES", "127.0.0.1")
	t.Setenv("DIAN_PROXY_PROTOCOL", "true")
	r := &relay{t: t, addr: freeAddress(t)}
	r.url = "http://" + r.addr
	r.args = []string{"serve", "--dev", "--listen", r.addr, "--log-level", "debug"}
	r.again()
	const client = "127.0.0.7"
	for i, send := range []string{"send-proxy", "send-proxy-v2"} {
		listen := freeAddress(t)
		start(t, nil, "/usr/sbin/haproxy", "-db", "-f", haproxyFile(t, "defaults\n mode tcp\n timeout connect 5s\n timeout client 1m\n timeout server 1m\n"+
			"listen relay\n bind "+listen+"\n server node1 "+r.addr+" "+send+"\n"))
		waitListening(t, listen)
		sessionFrom(t, client, listen, "X-Forwarded-For: 203.0.113.9\r\n")
		if got := refusedAt(t, r, i); got != client {
			t.Errorf("%s: the client is %s, want %s", send, got, client)
		}
	}
	sessionFrom(t, client, r.addr, "") // who is no proxy needs no header
	if got := refusedAt(t, r, 2); got != client {
		t.Errorf("without a proxy: the client is %s, want %s", got, client)
	}
}

func haproxyFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "haproxy.cfg")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
