package test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/dian-im/dian/internal/bus"
	"github.com/dian-im/dian/internal/bus/bustest"
	"github.com/dian-im/dian/internal/bus/natsbus"
	"github.com/dian-im/dian/test/internal/ports"
)

// A natsServer is a server of NATS in this process, which can be stopped and comes back
// at the same ports.
type natsServer struct {
	t       *testing.T
	options server.Options
	running *server.Server // nil while it is stopped
}

// startNATS starts a server at a free port; edit may change its options before.
func startNATS(t *testing.T, edit func(*server.Options)) *natsServer {
	t.Helper()
	s := &natsServer{t: t, options: server.Options{Host: "127.0.0.1", Port: ports.Free(t), NoLog: true, NoSigs: true}}
	if edit != nil {
		edit(&s.options)
	}
	s.start()
	t.Cleanup(s.stop)
	return s
}

func (s *natsServer) start() {
	s.t.Helper()
	options := s.options.Clone() // it writes into them
	running, err := server.NewServer(options)
	if err != nil {
		s.t.Fatal(err)
	}
	running.Start()
	if !running.ReadyForConnections(patience) {
		s.t.Fatal("NATS does not come up")
	}
	s.running = running
}

func (s *natsServer) stop() {
	if s.running != nil {
		s.running.Shutdown()
		s.running.WaitForShutdown()
		s.running = nil
	}
}

func (s *natsServer) address() string {
	return net.JoinHostPort(s.options.Host, strconv.Itoa(s.options.Port))
}

// config is of a node at this server, which must work.
func (s *natsServer) config() natsbus.Config {
	return natsbus.Config{URLs: []string{"nats://" + s.address()}, Name: "test"}
}

// logins returns how many connections were begun, refused ones too.
func (s *natsServer) logins(t *testing.T) uint64 {
	t.Helper()
	v, err := s.running.Varz(nil)
	if err != nil {
		t.Fatal(err)
	}
	return v.TotalConnections
}

// joinNATS opens a node that is closed with its test.
func joinNATS(t *testing.T, c natsbus.Config) *bustest.Node {
	t.Helper()
	return bustest.Join(t, opener(t, c), nil)
}

func opener(t *testing.T, c natsbus.Config) func(bus.Handler) bus.Bus {
	return func(h bus.Handler) bus.Bus {
		b, err := natsbus.Open(c, h)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
}

// A logBook is a log that tests read.
type logBook struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (l *logBook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logBook) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func (l *logBook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// waitFor waits until one line has all of the words.
func (l *logBook) waitFor(t *testing.T, words ...string) {
	t.Helper()
	end := time.Now().Add(patience)
	for time.Now().Before(end) {
		for line := range strings.Lines(l.String()) {
			has := true
			for _, w := range words {
				has = has && strings.Contains(line, w)
			}
			if has {
				return
			}
		}
		<-time.After(5 * time.Millisecond)
	}
	t.Fatalf("no line of the log has %q:\n%s", words, l)
}

// certificate writes a certificate for 127.0.0.1 that is its own authority.
func certificate(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "nats"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	write := func(name, kind string, der []byte) string {
		name = filepath.Join(folder, name)
		if err := os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	return write("cert.pem", "CERTIFICATE", cert), write("key.pem", "PRIVATE KEY", private)
}

// TestNATSKeepsThePromises runs the table that the bus in memory is held to as well.
func TestNATSKeepsThePromises(t *testing.T) {
	certFile, keyFile := certificate(t)
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	authorities := x509.NewCertPool()
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	authorities.AddCert(leaf)
	for _, kind := range []struct {
		name  string
		start func(t *testing.T) ([]*natsServer, []natsbus.Config)
	}{
		{"nats", func(t *testing.T) ([]*natsServer, []natsbus.Config) {
			s := startNATS(t, nil)
			return []*natsServer{s}, []natsbus.Config{s.config()}
		}},
		{"tls", func(t *testing.T) ([]*natsServer, []natsbus.Config) {
			s := startNATS(t, func(o *server.Options) {
				o.TLS, o.TLSVerify = true, true
				o.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: authorities}
				o.Authorization = "a token"
			})
			c := s.config()
			c.URLs = []string{(&url.URL{Scheme: "tls", User: url.User("a token"), Host: s.address()}).String()}
			c.CAFile, c.CertFile, c.KeyFile = certFile, certFile, keyFile
			return []*natsServer{s}, []natsbus.Config{c}
		}},
		{"ws", func(t *testing.T) ([]*natsServer, []natsbus.Config) {
			s := startNATS(t, func(o *server.Options) {
				o.Websocket = server.WebsocketOpts{Host: "127.0.0.1", Port: ports.Free(t), NoTLS: true}
				o.Username, o.Password = "dian", "secret"
			})
			c := s.config()
			c.URLs = []string{"ws://dian:secret@127.0.0.1:" + strconv.Itoa(s.options.Websocket.Port)}
			return []*natsServer{s}, []natsbus.Config{c}
		}},
		{"cluster", func(t *testing.T) ([]*natsServer, []natsbus.Config) {
			servers := startNATSCluster(t, 2, false)
			return servers, []natsbus.Config{servers[0].config(), servers[1].config()}
		}},
	} {
		t.Run(kind.name, func(t *testing.T) {
			bustest.Run(t, func(t *testing.T, play func(*testing.T, bustest.Cluster)) {
				servers, configs := kind.start(t)
				next := 0
				play(t, bustest.Cluster{
					Open: func(h bus.Handler) bus.Bus {
						next++
						return opener(t, configs[next%len(configs)])(h)
					},
					Break: func() {
						for _, s := range servers {
							s.stop()
						}
					},
					Mend: func() {
						for _, s := range servers {
							s.start()
						}
					},
				})
			})
		})
	}
}

// startNATSCluster starts servers that know each other. If they advertise, a node that has
// lost its server goes to another one.
func startNATSCluster(t *testing.T, count int, advertise bool) []*natsServer {
	t.Helper()
	var servers []*natsServer
	var routes []*url.URL
	for range count {
		s := startNATS(t, func(o *server.Options) {
			o.Cluster = server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: ports.Free(t), NoAdvertise: !advertise}
			o.Routes = routes
		})
		servers = append(servers, s)
		routes = append(routes, &url.URL{Scheme: "nats", Host: s.running.ClusterAddr().String()})
	}
	bustest.Eventually(t, "the servers do not find each other", func() bool {
		for _, s := range servers {
			if s.running.NumRoutes() < count-1 {
				return false
			}
		}
		return true
	})
	return servers
}
