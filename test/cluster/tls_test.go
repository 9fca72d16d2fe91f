package cluster

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dian-im/dian"
	"github.com/dian-im/dian/server"
)

// nodeTLS makes a certificate for 127.0.0.1, which is its own authority.
func nodeTLS(t *testing.T) server.ClusterTLS {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "nodes"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	write := func(name, kind string, b []byte) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	certFile := write("cert.pem", "CERTIFICATE", der)
	return server.ClusterTLS{CertFile: certFile, KeyFile: write("key.pem", "PRIVATE KEY", private), CAFile: certFile}
}

// Lanes between nodes over TLS, of SDK and of mere HTTP clients, end well whatever came
// before them on their connections; and who has no certificate gets no connection.
func TestLanesBetweenNodesOverTLS(t *testing.T) {
	t.Parallel()
	files := nodeTLS(t)
	nodes := trio(t, startNATS(t).url(), "DIAN_CLUSTER_TLS_CERT="+files.CertFile, "DIAN_CLUSTER_TLS_KEY="+files.KeyFile,
		"DIAN_CLUSTER_TLS_CA="+files.CAFile)
	got := make(chan dian.FileData, 100)
	connect(t, nodes[1].url, "bob", dian.WithHandler(dian.Handler{NotifyFileData: func(m dian.FileData) { got <- m }}))
	alice := connect(t, nodes[0].url, "alice")
	small, large := content(5<<20), content(100<<20)
	for i := range 15 {
		if err := result(t, alice.SendReader("bob", bytes.NewReader(small), int64(len(small)), dian.WithName("s"))); err != nil {
			t.Fatalf("round %d: send: %v", i, err)
		}
		res, text := request(t, &nodes[0].node, "alice", "PUT", fmt.Sprint("/v1/users/bob/files/l", i), bytes.NewReader(large))
		if res.StatusCode != 200 || !strings.Contains(text, `"receipt":"stored"`) {
			t.Fatalf("round %d: PUT = %d %s", i, res.StatusCode, text)
		}
		for range 2 {
			f := <-got
			os.Remove(f.Path)
		}
	}
	if metric(t, nodes[0].url, "dian_cluster_requests_carried_total") < 30 {
		t.Error("nothing was carried")
	}
	if _, err := http.Get("https://" + strings.TrimPrefix(nodes[1].url, "http://")); err == nil {
		t.Error("a listener for clients speaks TLS of nodes")
	}
}
