package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"github.com/dian-im/dian/internal/unsent"
)

// closeRestart is the close status of sessions when the server stops.
const closeRestart = websocket.CloseServiceRestart

// certificate holds what the listener shows, so that Reload can replace it while
// connections come in. It is empty without TLS.
type certificate struct {
	now atomic.Pointer[tls.Config]
}

// load reads the files that cfg names.
func (c *certificate) load(cfg Config) error {
	if cfg.TLS.CertFile == "" {
		return nil
	}
	pair, err := cfg.certificate()
	if err != nil {
		return err
	}
	clients, err := cfg.clientCAs()
	if err != nil {
		return err
	}
	c.now.Store(tlsConfig(pair, clients))
	return nil
}

func tlsConfig(pair tls.Certificate, clients *x509.CertPool) *tls.Config {
	cfg := &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{pair},
		NextProtos:   []string{"h2", "http/1.1"},
	}
	if clients != nil {
		cfg.ClientCAs, cfg.ClientAuth = clients, tls.RequireAndVerifyClientCert
	}
	return cfg
}

// listenConfig is the TLS config of the listener, which asks for the present one
// at every handshake.
func (c *certificate) listenConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return c.now.Load(), nil
		},
		// net/http wants to see a certificate before it begins.
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return &c.now.Load().Certificates[0], nil
		},
	}
}

// keepAlive finds out about vanished peers of lanes, which have no heartbeat.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 15 * time.Second, Count: 4}

// Serve accepts connections on ln until ctx ends, then shuts the server down and
// returns. It speaks TLS if the Config names a certificate, and serves HTTP/1.1
// and, with TLS, HTTP/2. The error is nil if ctx ended it, even if the shutdown
// had to cut off what ran too long, and ErrRestart if its page did. ln is closed.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	if s.cfg.Dev && s.cfg.Room == nil {
		if err := CheckDevAddress(ln.Addr()); err != nil {
			ln.Close()
			return err
		}
	}
	web := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 10 * time.Second, // of the TLS handshake too (case 9)
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		// No ReadTimeout and WriteTimeout: a lane may last for days. Whatever else
		// reads a body bounds that itself.
		HTTP2: &http.HTTP2Config{
			// One stalled upload must not fill the connection's window.
			MaxReceiveBufferPerStream:     256 << 10,
			MaxReceiveBufferPerConnection: 64 << 20,
		},
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			if tcp, ok := rawConn(conn).(*net.TCPConn); ok {
				_ = tcp.SetKeepAliveConfig(keepAlive) // a hint to the kernel
				unsent.Bound(tcp)
				boundUnread(tcp)
			}
			if secure, ok := conn.(*tls.Conn); ok {
				ctx = withCork(ctx, secure)
			}
			return withDoor(ctx, conn)
		},
	}
	ln = newDoor(ln, s)
	if s.certificate.now.Load() != nil {
		ln = tls.NewListener(corkListener{ln}, s.certificate.listenConfig())
	}
	s.log.Info("listening", "address", ln.Addr().String(), "tls", s.certificate.now.Load() != nil)

	var failed error
	served := make(chan struct{})
	var serving sync.WaitGroup
	serving.Go(func() {
		defer close(served)
		if err := web.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			failed = fmt.Errorf("serve: %w", err)
		}
	})
	select {
	case <-ctx.Done():
	case <-s.crashed:
		web.Close()
	case <-served: // the listener broke; what runs is ended all the same
	}
	// Lanes may still come for the transfers that run, so the listener stays open
	// until those have ended. The links' own ends take 5 s at most.
	bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.ShutdownGrace+10*time.Second)
	defer cancel()
	if err := s.Shutdown(bound); err != nil {
		s.log.Warn("cut off", "err", err)
	}
	last, cancelLast := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancelLast()
	if web.Shutdown(last) != nil {
		web.Close()
	}
	serving.Wait()
	if s.hasCrashed() {
		return ErrRestart
	}
	return failed
}
