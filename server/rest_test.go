package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

func TestStatusesFollowTheTable(t *testing.T) { // docs/protocol.md §9
	for status, codes := range map[int][]wire.Code{
		400: {4, 5, 6, 1102}, 401: {7, 10, 12, 18, 19, 20, 21}, 403: {23, 606},
		404: {603, 605, 1104, 1400}, 410: {1105}, 413: {1100, 1101, 1405},
		422: {604, 1000, 1103, 1110, 1112, 1113, 1401, 1402, 4711}, 409: {9}, 423: {207},
		503: {602, 1111, 8, 202, 203, 205, 206}, 500: {1, 3}, 200: {0},
	} {
		for _, code := range codes {
			if got := statusOf(code); got != status {
				t.Errorf("statusOf(%d) = %d, want %d", code, got, status)
			}
		}
	}
}

func TestUnknownRoutesAreProblems(t *testing.T) { // case 14
	r := tcpRelay(t)
	for _, path := range []string{"/index.php", "/v1", "/v2/session", "/v1/users/", "/v1/users/a/b/c", "/v1//users",
		"/v1/../metrics", "/v1/./users", "/debug/pprof/", "/admin"} {
		resp, body := r.do("GET", path, "", nil)
		wantProblem(t, resp, body, http.StatusNotFound, wire.BadParameter)
	}
	resp, body := r.do("DELETE", "/v1/users", "", nil)
	wantProblem(t, resp, body, http.StatusMethodNotAllowed, wire.BadParameter)
	if allow := resp.Header.Get("Allow"); !strings.Contains(allow, "GET") {
		t.Errorf("Allow = %q", allow)
	}
	resp, body = r.do("POST", "/v1/users", "", nil, "X-HTTP-Method-Override", "TRACE")
	wantProblem(t, resp, body, http.StatusBadRequest, wire.BadParameter)
	resp, body = r.do("POST", "/v1/users", "", nil, "X-HTTP-Method-Override", "DELETE")
	wantProblem(t, resp, body, http.StatusMethodNotAllowed, wire.BadParameter)
}

func TestOnlyAllowedOriginsGetAnswers(t *testing.T) { // case 114
	r := tcpRelay(t, func(c *Config) { c.Origins = []string{"https://app.example.com"} })
	preflight := []string{"Access-Control-Request-Method", "PATCH", "Access-Control-Request-Headers", "upload-offset"}
	resp, _ := r.do("OPTIONS", "/v1/transfers/x", "", nil, append(preflight, "Origin", "https://app.example.com")...)
	h := resp.Header
	if resp.StatusCode != 204 || h.Get("Access-Control-Allow-Origin") != "https://app.example.com" ||
		!strings.Contains(h.Get("Access-Control-Allow-Headers"), "Upload-Offset") ||
		!strings.Contains(h.Get("Access-Control-Allow-Methods"), "PATCH") || !strings.Contains(h.Get("Vary"), "Origin") {
		t.Errorf("preflight: %d %v", resp.StatusCode, h)
	}
	for _, origin := range []string{"https://evil.example", "null", "https://app.example.com.evil.example"} {
		for _, method := range []string{"OPTIONS", "GET"} {
			resp, body := r.do(method, "/v1/users", r.token("alice"), nil, append(preflight, "Origin", origin)...)
			wantProblem(t, resp, body, http.StatusForbidden, wire.NoPermission)
			if resp.Header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("origin %s is allowed", origin)
			}
		}
	}
	resp, _ = r.do("GET", "/v1/users", r.token("alice"), nil, "Origin", "http://relay.example")
	if resp.StatusCode != 200 || !strings.Contains(resp.Header.Get("Access-Control-Expose-Headers"), "Upload-Offset") {
		t.Errorf("own origin: %d %v", resp.StatusCode, resp.Header)
	}
}

func TestMetricsHoldNoNames(t *testing.T) { // cases 31 and 56
	r := tcpRelay(t)
	alice := r.listen("alice-canary")
	id := wire.NewSendID()
	alice.send(commandFrame(&wire.Command{Id: id, Target: "bob-canary"}))
	alice.finalCode(id, wire.PeerOffline)
	r.srv.metrics.transferState("", "offered")
	r.srv.metrics.transferDone("file", "0", "stored")
	r.srv.metrics.laneBytes(5)
	r.srv.metrics.laneSeconds("up", time.Second)
	_, text := r.do("GET", "/metrics", "", nil)
	if strings.Contains(text, "canary") || strings.Contains(strings.ReplaceAll(text, `scope="app"`, ""), `"app"`) {
		t.Error("a name occurs in the metrics")
	}
	for _, want := range []string{
		`dian_sessions{protocol="proto",role="listen"} 1`, `dian_commands_total{result="603"} 1`,
		`dian_logins_total{result="0"} 1`, "dian_panics_total 0", `dian_transfers{state="offered"} 1`,
		`dian_transfer_results_total{kind="file",receipt="stored",result="0"} 1`, "dian_lane_bytes_total 5",
		`dian_lane_seconds_count{direction="up"} 1`, `dian_limit_used{limit="sessions"} 1`, "go_goroutines",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is missing", want)
		}
	}
}

func TestMetricsMoveToTheirOwnListener(t *testing.T) {
	r := tcpRelay(t, func(c *Config) { c.MetricsListen = "127.0.0.1:0" })
	if resp, _ := r.do("GET", "/metrics", "", nil); resp.StatusCode != http.StatusNotFound {
		t.Errorf("status %d, want 404", resp.StatusCode)
	}
	if r.srv.MetricsHandler() == nil {
		t.Error("no handler for them")
	}
}

func TestSlowHeadersAreCutOff(t *testing.T) { // case 9
	synctest.Test(t, func(t *testing.T) {
		r := memRelay(t)
		conn, err := r.ln.DialContext(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		start := time.Now()
		if _, err := io.WriteString(conn, "GET /v1/session HTTP/1.1\r\nHost: relay"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, conn); err != nil {
			t.Errorf("read: %v", err)
		}
		if took := time.Since(start); took > 11*time.Second {
			t.Errorf("cut off after %v, want 10s", took)
		}
	})
}

func TestSlowBodyOfACommandIsCutOff(t *testing.T) { // case 2
	synctest.Test(t, func(t *testing.T) {
		r := memRelay(t)
		conn, err := r.ln.DialContext(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		start := time.Now()
		if _, err := io.WriteString(conn, "POST /v1/users/bob/commands HTTP/1.1\r\nHost: relay.example\r\n"+
			"Content-Length: 10\r\nAuthorization: Bearer "+r.token("alice")+"\r\n\r\n12345"); err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(conn)
		if err != nil || !strings.Contains(string(answer), `"code":6`) {
			t.Errorf("answer %q, %v", answer, err)
		}
		if took := time.Since(start); took > 15*time.Second {
			t.Errorf("answered after %v, want 10s", took)
		}
	})
}

func TestHugeHeadersAreRefused(t *testing.T) {
	r := tcpRelay(t)
	resp, _ := r.do("GET", "/healthz", "", nil, "X", strings.Repeat("x", 64<<10))
	if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("status %d, want 431", resp.StatusCode)
	}
}

// certFiles writes a new certificate for relay.example and returns the files and
// a pool that trusts it.
func certFiles(t *testing.T, dir string) (TLS, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "relay.example"},
		DNSNames: []string{"relay.example"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	files := TLS{CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem")}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
	for name, data := range map[string][]byte{files.CertFile: certPEM, files.KeyFile: keyPEM} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(certPEM)
	return files, pool
}

func TestTLSAndItsReload(t *testing.T) { // cases 19 and 93
	files, first := certFiles(t, t.TempDir())
	r := tcpRelay(t, func(c *Config) { c.TLS = files })
	shake := func(cfg *tls.Config) (tls.ConnectionState, error) {
		cfg.ServerName = "relay.example"
		raw, err := r.ln.DialContext(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		conn := tls.Client(raw, cfg)
		defer conn.Close()
		err = conn.HandshakeContext(t.Context())
		return conn.ConnectionState(), err
	}
	if _, err := shake(&tls.Config{RootCAs: first, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}); err == nil {
		t.Error("TLS 1.1 is spoken")
	}
	state, err := shake(&tls.Config{RootCAs: first, NextProtos: []string{"h2"}})
	if err != nil || state.NegotiatedProtocol != "h2" {
		t.Errorf("handshake: %v, %q", err, state.NegotiatedProtocol)
	}
	h2 := &http.Client{Transport: &http.Transport{
		DialContext:     func(ctx context.Context, n, a string) (net.Conn, error) { return r.ln.DialContext(ctx, n, a) },
		TLSClientConfig: &tls.Config{RootCAs: first}, ForceAttemptHTTP2: true,
	}}
	defer h2.CloseIdleConnections()
	resp, err := h2.Get("https://relay.example/v1/session") // sessions are HTTP/1.1 only
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.ProtoMajor != 2 || resp.StatusCode != http.StatusBadRequest {
		t.Errorf("HTTP/%d status %d, want 2 and 400", resp.ProtoMajor, resp.StatusCode)
	}

	next := relayConfig()
	var second *x509.CertPool
	next.TLS, second = certFiles(t, t.TempDir())
	if err := r.srv.Reload(next); err != nil {
		t.Fatal(err)
	}
	if _, err := shake(&tls.Config{RootCAs: second}); err != nil {
		t.Errorf("after the reload: %v", err)
	}
	if _, err := shake(&tls.Config{RootCAs: first}); err == nil {
		t.Error("the old certificate is still shown")
	}
	if err := os.WriteFile(next.TLS.CertFile, []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.srv.Reload(next); err == nil {
		t.Error("rubbish was taken")
	}
	if _, err := shake(&tls.Config{RootCAs: second}); err != nil {
		t.Errorf("after the failed reload: %v", err)
	}
}

func TestDevServerStaysOnTheOwnMachine(t *testing.T) { // case 32
	srv, err := New(DevConfig())
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Shutdown(t.Context())
	ln, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := srv.Serve(t.Context(), ln); err == nil {
		t.Error("it listens to everybody")
	}
}
