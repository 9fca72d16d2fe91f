package test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// collector is a proxy that takes a whole request before it passes it on, and
// a whole response before it passes that on. WebSockets go through.
type collector struct {
	*httptest.Server
	patches, gets atomic.Int64
	largest       atomic.Int64 // body of a request, bytes
}

// startCollector forwards to the relay at target. A body over most bytes gets
// a 413 of the proxy's own; 0 means no such limit.
func startCollector(t *testing.T, target string, most int64) *collector {
	t.Helper()
	to, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	c := &collector{}
	through := httputil.NewSingleHostReverseProxy(to)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			through.ServeHTTP(w, r)
			return
		}
		if most > 0 && r.ContentLength > most {
			w.Header().Set("Connection", "close")
			http.Error(w, "<html>413 Request Entity Too Large</html>", http.StatusRequestEntityTooLarge)
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		switch r.Method {
		case http.MethodPatch:
			c.patches.Add(1)
		case http.MethodGet:
			c.gets.Add(1)
		}
		c.largest.Store(max(c.largest.Load(), int64(len(body))))
		ahead, _ := http.NewRequestWithContext(r.Context(), r.Method, target+r.URL.RequestURI(), bytes.NewReader(body))
		ahead.Header = r.Header.Clone()
		answer, err := client.Do(ahead)
		if err != nil {
			http.Error(w, "no answer", http.StatusBadGateway)
			return
		}
		defer answer.Body.Close()
		content, err := io.ReadAll(answer.Body)
		if err != nil {
			http.Error(w, "half an answer", http.StatusBadGateway)
			return
		}
		maps.Copy(w.Header(), answer.Header)
		w.WriteHeader(answer.StatusCode)
		w.Write(content)
	}))
	t.Cleanup(func() {
		c.CloseClientConnections()
		client.CloseIdleConnections()
		c.Close()
	})
	return c
}

func send(t *testing.T, url, path string, args ...string) {
	t.Helper()
	p := start(t, nil, dian, append([]string{"send", "--server", url, "--user", "alice", "--json", "bob", path}, args...)...)
	select {
	case <-p.done:
	case <-time.After(3 * patience):
		t.Fatal("dian send has not ended")
	}
	if status := p.cmd.ProcessState.ExitCode(); status != 0 {
		t.Fatalf("dian send ended with %d: %s", status, p.errors())
	}
}

func TestProxiesThatCollectDoNotStopATransfer(t *testing.T) {
	t.Parallel()
	path, sum := randomFile(t, "scan.bin", 40<<20+5, 31)
	t.Run("sender's, with a size limit", func(t *testing.T) {
		t.Parallel()
		r := startRelay(t)
		l := listen(t, r.url, "bob", t.TempDir())
		c := startCollector(t, r.url, 16<<20)
		send(t, c.URL, path)
		delivered(t, l, sum)
		if n, most := c.patches.Load(), c.largest.Load(); n < 5 || most > 8<<20 {
			t.Errorf("%d PATCHes, the largest of %d bytes; want pieces of at most 8 MiB", n, most)
		}
	})
	t.Run("sender's, slow", func(t *testing.T) {
		t.Parallel()
		r := startRelay(t)
		l := listen(t, r.url, "bob", t.TempDir())
		c := startCollector(t, r.url, 0)
		p := startPipe(t, strings.TrimPrefix(c.URL, "http://"))
		p.limit(2 << 20)
		time.AfterFunc(14*time.Second, func() { p.limit(0) })
		send(t, "http://"+p.addr, path)
		delivered(t, l, sum)
		if n := c.patches.Load(); n < 5 {
			t.Errorf("%d PATCHes went through, want bounded pieces", n)
		}
	})
	t.Run("receiver's", func(t *testing.T) {
		t.Parallel()
		r := startRelay(t)
		c := startCollector(t, r.url, 0)
		l := listen(t, c.URL, "bob", t.TempDir())
		p := startPipe(t, r.addr)
		p.limit(2 << 20) // so that a whole response would take 20 s
		time.AfterFunc(30*time.Second, func() { p.limit(0) })
		send(t, "http://"+p.addr, path)
		delivered(t, l, sum)
		if n := c.gets.Load(); n < 2 {
			t.Errorf("%d GETs went through, want bounded ranges", n)
		}
	})
	t.Run("both", func(t *testing.T) {
		t.Parallel()
		r := startRelay(t)
		near, far := startCollector(t, r.url, 16<<20), startCollector(t, r.url, 0)
		l := listen(t, far.URL, "bob", t.TempDir())
		send(t, near.URL, path)
		delivered(t, l, sum)
	})
}

func TestProxyThatCutsEveryConnectionAfterFiveSeconds(t *testing.T) {
	t.Parallel()
	path, sum := randomFile(t, "scan.bin", 40<<20+5, 32)
	r := startRelay(t)
	near, far := startMortalPipe(t, 5*time.Second, r.addr), startMortalPipe(t, 5*time.Second, r.addr)
	l := listen(t, "http://"+far.addr, "bob", t.TempDir())
	near.limit(3 << 20)
	send(t, "http://"+near.addr, path)
	delivered(t, l, sum)
}

// certificates writes a private authority, a server's and a client's
// certificate, and returns their folder.
func certificates(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name, kind string, der []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var authority *x509.Certificate
	var authorityKey *ecdsa.PrivateKey
	for i, name := range []string{"ca", "server", "client"} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		c := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i + 1)), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
			BasicConstraintsValid: true, DNSNames: []string{"relay.test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		}
		if name == "ca" {
			c.IsCA, c.KeyUsage, c.ExtKeyUsage = true, x509.KeyUsageCertSign, nil
			authority, authorityKey = c, key
		}
		der, err := x509.CreateCertificate(rand.Reader, c, authority, &key.PublicKey, authorityKey)
		if err != nil {
			t.Fatal(err)
		}
		write(name+".crt", "CERTIFICATE", der)
		private, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		write(name+".key", "PRIVATE KEY", private)
	}
	return dir
}

// TestPrivateAuthorityClientCertificateAndCONNECT sends through a relay with TLS that asks
// for client certificates, by way of a CONNECT proxy.
func TestPrivateAuthorityClientCertificateAndCONNECT(t *testing.T) {
	path, sum := randomFile(t, "scan.bin", 30<<20+5, 33)
	certs, dir := certificates(t), t.TempDir()
	addr := freeAddress(t)
	config := filepath.Join(dir, "dian.yaml")
	if err := os.WriteFile(config, []byte(`
listen: "`+addr+`"
tls:
  cert: `+certs+`/server.crt
  key: `+certs+`/server.key
  client_ca: `+certs+`/ca.crt
apps:
  - id: clinic
    keys:
      - id: k1
        algorithm: HS256
        secret: 0123456789abcdef0123456789abcdef
`), 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, nil, dian, "serve", "--config", config)
	waitListening(t, addr)
	token := func(user string) string {
		out, err := exec.Command(dian, "token", "--config", config, "--app", "clinic", "--user", user).Output()
		if err != nil {
			t.Fatalf("dian token: %v", err)
		}
		return strings.TrimSpace(string(out))
	}

	var connects atomic.Int64
	var tunnels sync.WaitGroup
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			http.Error(w, "CONNECT only", http.StatusMethodNotAllowed)
			return
		}
		connects.Add(1)
		far, err := net.Dial("tcp", addr) // wherever they want to go, it is the relay
		if err != nil {
			http.Error(w, "no relay", http.StatusBadGateway)
			return
		}
		near, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			far.Close()
			return
		}
		io.WriteString(near, "HTTP/1.1 200 OK\r\n\r\n")
		tunnels.Go(func() { io.Copy(far, near); far.Close() })
		tunnels.Go(func() { io.Copy(near, far); near.Close() })
	}))
	defer proxy.Close()
	// The environment's proxy is never used for a loopback name; only the proxy knows where this one is.
	_, port, _ := net.SplitHostPort(addr)
	server := "https://relay.test:" + port
	env := []string{"HTTPS_PROXY=" + proxy.URL, "DIAN_CA=" + certs + "/ca.crt"}
	mine := []string{"--server", server, "--cert", certs + "/client.crt", "--key", certs + "/client.key"}

	l := start(t, env, dian, append([]string{"listen", "--token", token("bob"), "--dir", t.TempDir(), "--json"}, mine...)...)
	l.expect(0, "line up", func(e event) bool { return e.text("event") == "line" && e.text("state") == "up" })
	p := start(t, env, dian, append([]string{"send", "--token", token("alice"), "--json", "bob", path}, mine...)...)
	if status := p.wait(); status != 0 {
		t.Fatalf("dian send ended with %d: %s", status, p.errors())
	}
	delivered(t, l, sum)
	if n := connects.Load(); n < 4 { // a session and a lane of each side
		t.Errorf("%d connections went through the proxy, want at least 4", n)
	}

	without := start(t, env, dian, "cmd", "--server", server, "--token", token("alice"), "bob", "hello")
	if status := without.wait(); status == 0 || !strings.Contains(without.errors(), "209") {
		t.Errorf("without a client certificate: status %d, %s; want code 209", status, without.errors())
	}
}
