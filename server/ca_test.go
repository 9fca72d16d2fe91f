package server

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
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A testCA is an authority with a certificate for 127.0.0.1 and one for the client
// "ops".
type testCA struct {
	cert        *x509.Certificate
	server, ops tls.Certificate
}

func newTestCA(t *testing.T) *testCA {
	t.Helper()
	ca := &testCA{}
	root, own := ca.issue(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil, nil)
	var err error
	if ca.cert, err = x509.ParseCertificate(root); err != nil {
		t.Fatal(err)
	}
	for subject, into := range map[string]*tls.Certificate{"relay": &ca.server, "ops": &ca.ops} {
		der, key := ca.issue(t, &x509.Certificate{
			Subject: pkix.Name{CommonName: subject}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		}, ca.cert, own)
		*into = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	}
	return ca
}

// issue makes a certificate, signed by parent's key or, without one, by its own.
func (ca *testCA) issue(t *testing.T, c, parent *x509.Certificate, signer *ecdsa.PrivateKey) ([]byte, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c.SerialNumber = big.NewInt(time.Now().UnixNano())
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	if parent == nil {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	return der, key
}

func (ca *testCA) write(t *testing.T, name string, der []byte) string {
	return writePEM(t, name, "CERTIFICATE", der)
}

func (ca *testCA) writeKey(t *testing.T, name string, of tls.Certificate) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(of.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return writePEM(t, name, "PRIVATE KEY", der)
}

func writePEM(t *testing.T, name, kind string, der []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// client trusts the authority and has its certificate or none.
func (ca *testCA) client(t *testing.T, certificate bool) *http.Client {
	cfg := &tls.Config{RootCAs: x509.NewCertPool()}
	cfg.RootCAs.AddCert(ca.cert)
	if certificate {
		cfg.Certificates = []tls.Certificate{ca.ops}
	}
	return webClient(t, cfg)
}

// clientFor has a certificate of ca, and trusts another authority's server.
func (ca *testCA) clientFor(t *testing.T, other *testCA) *http.Client {
	cfg := &tls.Config{RootCAs: x509.NewCertPool(), GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return &ca.ops, nil // although it was not asked for
	}}
	cfg.RootCAs.AddCert(other.cert)
	return webClient(t, cfg)
}

func webClient(t *testing.T, cfg *tls.Config) *http.Client {
	transport := &http.Transport{TLSClientConfig: cfg}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}
