package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// ListenAdmin opens the listener of Config.Admin.Listen, for ServeAdmin. A socket
// that a killed process has left is replaced, one that is in use is not.
func (s *Server) ListenAdmin() (net.Listener, error) {
	a := &s.cfg.Admin
	if a.socket() {
		ln, err := listenSocket(a.Listen)
		if err != nil {
			return nil, fmt.Errorf("admin_listen: %w", err)
		}
		return ln, nil
	}
	ln, err := net.Listen("tcp", a.Listen)
	if err != nil {
		return nil, fmt.Errorf("admin_listen: cannot listen on %q: %w", a.Listen, plainOp(err))
	}
	if tcp, ok := ln.Addr().(*net.TCPAddr); ok && a.loopback() && !tcp.IP.IsLoopback() { // a name that lies
		ln.Close()
		return nil, fmt.Errorf("admin_listen: %q is no loopback address here; use 127.0.0.1", a.Listen)
	}
	return ln, nil
}

// plainOp takes operation and address off a network error, which our text has.
func plainOp(err error) error {
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Err != nil {
		return e.Err
	}
	return err
}

// listenSocket makes a Unix socket of mode 0600. It is made in a folder that nobody
// else can enter and then moved, because between bind and chmod anybody could
// connect.
func listenSocket(path string) (net.Listener, error) {
	if conn, err := net.Dial("unix", path); err == nil {
		conn.Close()
		return nil, fmt.Errorf("%q is in use", path)
	}
	if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSocket == 0 {
		return nil, fmt.Errorf("%q is there and no socket; remove it, or choose another path", path)
	}
	folder, err := os.MkdirTemp(filepath.Dir(path), ".dian") // mode 0700
	if err != nil {
		return nil, fmt.Errorf("listen on %q: %w", path, bare(err))
	}
	defer os.RemoveAll(folder)
	temp := filepath.Join(folder, "s")
	ln, err := net.Listen("unix", temp)
	if err != nil {
		return nil, fmt.Errorf("listen on %q: %w", path, plainOp(err))
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(temp, 0o600), os.Rename(temp, path)); err != nil {
		ln.Close()
		return nil, fmt.Errorf("listen on %q: %w", path, err)
	}
	return &socketListener{ln, path}, nil
}

// socketListener removes its path at its end.
type socketListener struct {
	net.Listener
	path string
}

func (l *socketListener) Close() error {
	err := l.Listener.Close()
	if err == nil { // the first time
		os.Remove(l.path)
	}
	return err
}

// ServeAdmin serves AdminHandler on a listener of ListenAdmin until ctx ends; the
// listener is closed then. It speaks TLS, with the certificate of the server's
// listener, if other machines can reach it or Config.Admin names a ClientCAFile.
func (s *Server) ServeAdmin(ctx context.Context, ln net.Listener) error {
	web := &http.Server{
		Handler:           s.AdminHandler(),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      2 * time.Minute, // a profile takes a minute
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	if s.cfg.Admin.secure() {
		secure, err := s.adminTLS()
		if err != nil {
			ln.Close()
			return err
		}
		ln = tls.NewListener(ln, secure)
	}
	s.log.Info("admin listens", "tls", s.cfg.Admin.secure())
	stop := context.AfterFunc(ctx, func() { web.Close() })
	defer stop()
	if err := web.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve admin: %w", err)
	}
	return nil
}

// adminTLS is the server's own certificate of now, with the admins' authorities.
func (s *Server) adminTLS() (*tls.Config, error) {
	pool, err := s.cfg.Admin.clientCAs()
	if err != nil {
		return nil, err
	}
	if s.certificate.now.Load() == nil {
		return nil, errors.New("admin_listen: TLS needs tls.cert and tls.key")
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			own := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: s.certificate.now.Load().Certificates}
			if pool != nil {
				own.ClientCAs, own.ClientAuth = pool, tls.RequireAndVerifyClientCert
			}
			return own, nil
		},
	}, nil
}
