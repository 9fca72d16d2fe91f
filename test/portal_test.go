package test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// An authority makes certificates of a server, as many as are wanted.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string // PEM
	made int64
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, file: filepath.Join(t.TempDir(), "ca.crt")}
	a.key, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	a.cert = &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotBefore: time.Now().Add(-48 * time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, a.cert, a.cert, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	a.write(a.file, "CERTIFICATE", der)
	return a
}

func (a *authority) write(path, kind string, der []byte) {
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

// issue writes dir/server.crt and .key for an address, and returns the serial number.
func (a *authority) issue(dir, host string, until time.Time) int64 {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	a.made++
	c := &x509.Certificate{SerialNumber: big.NewInt(100 + a.made), Subject: pkix.Name{CommonName: "server"}, NotBefore: until.Add(-24 * time.Hour), NotAfter: until,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	if ip := net.ParseIP(host); ip != nil {
		c.IPAddresses = []net.IP{ip}
	} else {
		c.DNSNames = []string{host}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	a.write(filepath.Join(dir, "server.crt"), "CERTIFICATE", der)
	a.write(filepath.Join(dir, "server.key"), "PRIVATE KEY", private)
	return 100 + a.made
}

// served returns the serial number of the certificate that is served at addr.
func served(t *testing.T, addr string) int64 {
	t.Helper()
	conn, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true}) // it is looked at, not trusted
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
}

// mostTries is how often a client may dial in the ten seconds after a loss. Full jitter
// from 250 ms on makes it about eight on the average; a storm is hundreds.
const mostTries = 30

// TestCertificates rotates a relay's certificate under load, and puts in a broken, an
// expired and one of another host (case 93): what runs goes on, new logins fail with a
// typed error, the listener that is thrown out tries again without a storm, and a good
// certificate ends it all.
func TestCertificates(t *testing.T) {
	t.Parallel()
	const size = 32 << 20
	path, sum := randomFile(t, "film.bin", size, 95)
	ca, dir := newAuthority(t), t.TempDir()
	first := ca.issue(dir, "127.0.0.1", time.Now().Add(time.Hour))
	r := &relay{t: t, addr: freeAddress(t)}
	r.process = start(t, nil, dian, "serve", "--dev", "--listen", r.addr, "--tls-cert", filepath.Join(dir, "server.crt"), "--tls-key", filepath.Join(dir, "server.key"))
	waitListening(t, r.addr)
	env := []string{"DIAN_CA=" + ca.file}
	far, near := startPipe(t, r.addr), startPipe(t, r.addr)
	near.limit(8 << 20)
	l := listen(t, "https://"+far.addr, "bob", t.TempDir(), env...)
	s := start(t, env, dian, "send", "--server", "https://"+near.addr, "--user", "alice", "--json", "bob", path)
	s.expect(0, "progress", func(e event) bool { return e.text("event") == "progress" && e.number("sent") > size/4 })
	reload := func(want int64) {
		t.Helper()
		r.cmd.Process.Signal(syscall.SIGHUP)
		for deadline := time.Now().Add(patience); served(t, r.addr) != want; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("certificate %d is served, want %d", served(t, r.addr), want)
			}
		}
	}
	second := ca.issue(dir, "127.0.0.1", time.Now().Add(time.Hour))
	if first == second {
		t.Fatal("the same certificate twice")
	}
	reload(second)
	if err := os.WriteFile(filepath.Join(dir, "server.crt"), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := strings.Count(r.errors(), "stay as they were")
	r.cmd.Process.Signal(syscall.SIGHUP)
	for deadline := time.Now().Add(patience); strings.Count(r.errors(), "stay as they were") == before && time.Now().Before(deadline); {
		time.Sleep(20 * time.Millisecond)
	}
	if got := served(t, r.addr); got != second {
		t.Errorf("after a broken file certificate %d is served, want %d still", got, second)
	}
	if status := s.wait(); status != 0 {
		t.Fatalf("dian send ended with %d: %s", status, s.errors())
	}
	delivered(t, l, sum)
	for _, p := range []*process{l, s} {
		for _, e := range p.all("line") {
			if e.text("state") != "up" {
				t.Errorf("%s: a new certificate cost the line: %v", p.name, e)
			}
		}
	}
	for _, bad := range []struct {
		host  string
		until time.Time
	}{{"127.0.0.1", time.Now().Add(-time.Hour)}, {"other.test", time.Now().Add(time.Hour)}} {
		reload(ca.issue(dir, bad.host, bad.until))
		c := start(t, env, dian, "cmd", "--server", "https://"+r.addr, "--user", "alice", "bob", "hello")
		if status := c.wait(); status != 1 || !strings.Contains(c.errors(), "209") {
			t.Errorf("certificate of %s until %v: status %d, %s; want 209", bad.host, bad.until, status, c.errors())
		}
		tries := far.opened.Load()
		seen := len(l.all("line"))
		far.cut()
		time.Sleep(10 * time.Second)
		if n := far.opened.Load() - tries; n < 2 || n > mostTries {
			t.Errorf("%d tries in 10 s, want some and no storm", n)
		}
		for _, e := range l.all("line")[seen:] {
			if e.text("state") != "reconnecting" {
				t.Errorf("with a bad certificate: %v", e)
			}
		}
		reload(ca.issue(dir, "127.0.0.1", time.Now().Add(time.Hour)))
		for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
			if lines := l.all("line"); lines[len(lines)-1].text("state") == "up" {
				break
			}
		}
	}
	c := start(t, env, dian, "cmd", "--server", "https://"+r.addr, "--user", "alice", "bob", "hello")
	if c.wait() != 0 {
		t.Errorf("with a good certificate again: %s", c.errors())
	}
}

// TestCaptivePortal puts a portal in front of the relay that answers everything with a
// 302 to its own page (case 93): nobody follows it, logins fail with a typed error, and
// who was online tries again without a storm and is back when the portal is gone.
func TestCaptivePortal(t *testing.T) {
	t.Parallel()
	var asked, followed atomic.Int64
	portal := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.URL.Path == "/portal" {
			followed.Add(1)
		}
		http.Redirect(w, r, "/portal", http.StatusFound)
	}))
	defer portal.Close()
	path, sum := randomFile(t, "film.bin", 24<<20, 96)
	r := startRelay(t)
	c := start(t, nil, dian, "cmd", "--server", portal.URL, "--user", "alice", "bob", "hello")
	if status := c.wait(); status != 1 || !strings.Contains(c.errors(), "203") || !strings.Contains(c.errors(), "302") {
		t.Errorf("status %d, %s; want 203 and that it was a 302", status, c.errors())
	}
	p := startPipe(t, r.addr)
	p.limit(6 << 20)
	l := listen(t, "http://"+p.addr, "bob", t.TempDir())
	s := start(t, nil, dian, "send", "--server", "http://"+p.addr, "--user", "alice", "--json", "bob", path)
	s.expect(0, "progress", func(e event) bool { return e.text("event") == "progress" && e.number("sent") > 6<<20 })
	to := portal.Listener.Addr().String()
	p.divert.Store(&to)
	asked.Store(0)
	p.cut()
	time.Sleep(10 * time.Second)
	// Two sessions, an up-lane and a down-lane, each with its own backoff.
	if n := asked.Load(); n < 4 || n > 4*mostTries {
		t.Errorf("%d requests to the portal in 10 s, want some and no storm", n)
	}
	p.divert.Store(nil)
	p.limit(0)
	p.cut()
	if status := s.wait(); status != 0 {
		t.Fatalf("without the portal: status %d, %s", status, s.errors())
	}
	delivered(t, l, sum)
	if followed.Load() != 0 {
		t.Errorf("the redirect was followed %d times", followed.Load())
	}
}
