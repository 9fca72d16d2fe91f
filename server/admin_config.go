package server

import (
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"runtime"
	"strings"
)

// Admin says where the admin listener is and who may use it; see
// docs/operations.md. The zero value has none.
type Admin struct {
	// Listen is the path of a Unix socket, which gets mode 0600, or host:port. An
	// address that other machines could reach needs the Config's TLS certificate.
	Listen string

	// TokenFile holds the token that requests bring in Authorization: Bearer, 32 to
	// 512 visible ASCII characters; a line break at its end does not count. A
	// Unix socket may go without (not on Windows), and so may ClientCAFile. Token
	// is the same for programs that have it elsewhere.
	TokenFile string
	Token     Secret

	// ClientCAFile is a PEM file: clients need a certificate of one of its
	// authorities. They are not those of Config.TLS, whose clients are users.
	ClientCAFile string

	// Pprof adds Go's profiles under /debug/pprof/, except the command line.
	Pprof bool
}

// adminFile is its form in the config file, without a level of its own.
type adminFile struct {
	Listen          string `yaml:"admin_listen"`
	TokenFile       string `yaml:"admin_token_file"`
	ClientCA        string `yaml:"admin_client_ca"`
	Pprof           bool   `yaml:"admin_pprof"`
	RevocationsFile string `yaml:"revocations_file"`
}

func (f adminFile) settings() Admin {
	return Admin{Listen: f.Listen, TokenFile: f.TokenFile, ClientCAFile: f.ClientCA, Pprof: f.Pprof}
}

// recordFiles returns the settings of audit, admin, revocations and cluster that name files,
// by their variables. A socket's path is one too.
func (c *Config) recordFiles() map[string]*string {
	files := map[string]*string{
		"DIAN_ADMIN_TOKEN_FILE": &c.Admin.TokenFile, "DIAN_ADMIN_CLIENT_CA": &c.Admin.ClientCAFile,
		"DIAN_REVOCATIONS_FILE": &c.RevocationsFile, "DIAN_AUDIT_USER_KEY_FILE": &c.Audit.UserKeyFile,
		"DIAN_AUDIT_FILE": &c.Audit.File, "DIAN_ADMIN_LISTEN": &c.Admin.Listen,
	}
	maps.Copy(files, c.Cluster.files())
	if c.Audit.File == auditStdout {
		files["DIAN_AUDIT_FILE"] = new(string)
	}
	if !c.Admin.socket() {
		files["DIAN_ADMIN_LISTEN"] = new(string)
	}
	return files
}

// socket reports whether Listen is the path of a Unix socket.
func (a *Admin) socket() bool { return strings.ContainsRune(filepath.ToSlash(a.Listen), '/') }

// loopback reports whether Listen is an address of the own machine alone. What a
// name stands for is looked at again when it is listened on.
func (a *Admin) loopback() bool {
	host, _, err := net.SplitHostPort(a.Listen)
	return err == nil && host != "" && loopbackHost(a.Listen)
}

// secure reports whether the listener speaks TLS.
func (a *Admin) secure() bool { return !a.socket() && (!a.loopback() || a.ClientCAFile != "") }

// Bounds of the admin token.
const (
	minAdminToken = 32
	maxAdminToken = 512
)

// token returns the token that requests need, or none.
func (a *Admin) token() (Secret, error) {
	token := a.Token
	if a.TokenFile != "" {
		if !token.IsZero() {
			return Secret{}, errors.New("admin_token_file: there is a token already; give one")
		}
		var err error
		if token, err = (configSource{read: readKeyFile}).secretFile(a.TokenFile); err != nil {
			return Secret{}, fmt.Errorf("admin_token_file: %w", err)
		}
	}
	if token.IsZero() {
		return token, nil
	}
	text := token.bytes()
	if len(text) < minAdminToken || len(text) > maxAdminToken {
		return Secret{}, fmt.Errorf("admin_token_file: the token has %d characters; use %d to %d (dian admin token FILE makes one)",
			len(text), minAdminToken, maxAdminToken)
	}
	for _, c := range text {
		if c <= ' ' || c > '~' {
			return Secret{}, errors.New("admin_token_file: the token has a character that is not visible ASCII (dian admin token FILE makes one)")
		}
	}
	return token, nil
}

// clientCAs loads the authorities of admin clients; nil if there are none.
func (a *Admin) clientCAs() (*x509.CertPool, error) {
	if a.ClientCAFile == "" {
		return nil, nil
	}
	data, err := readKeyFile(a.ClientCAFile)
	if err != nil {
		return nil, fmt.Errorf("admin_client_ca: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, errors.New("admin_client_ca: no certificate in the file; it should be PEM")
	}
	return pool, nil
}

// checkRecords checks the settings of audit and admin.
func (c *Config) checkRecords() error {
	if err := c.Audit.check(); err != nil {
		return err
	}
	a := &c.Admin
	token, err := a.token()
	if err != nil {
		return err
	}
	if _, err := a.clientCAs(); err != nil {
		return err
	}
	if a.Listen == "" {
		return nil
	}
	if !a.socket() {
		if _, _, err := net.SplitHostPort(a.Listen); err != nil {
			return fmt.Errorf("admin_listen: %q is neither host:port nor the path of a socket; write 127.0.0.1:7702 or /run/dian/admin.sock", a.Listen)
		}
	}
	open := token.IsZero() && a.ClientCAFile == ""
	switch {
	case a.socket() && a.ClientCAFile != "":
		return errors.New("admin_client_ca: a socket has no TLS; leave it away, or listen on host:port")
	case a.socket() && open && runtime.GOOS == "windows":
		return errors.New("admin_listen: a socket has no mode here; set admin_token_file (dian admin token FILE makes one)")
	case a.socket():
		return nil
	case open:
		return fmt.Errorf("admin_listen: everybody on this machine could use %s; set admin_token_file (dian admin token FILE makes one), or write the path of a socket", a.Listen)
	case c.Dev && !a.loopback():
		return fmt.Errorf("admin_listen: dev mode listens on a loopback address only, and %s is none; use 127.0.0.1", a.Listen)
	case a.secure() && c.TLS.CertFile == "" && a.loopback():
		return errors.New("admin_client_ca: it needs tls.cert and tls.key")
	case a.secure() && c.TLS.CertFile == "":
		return fmt.Errorf("admin_listen: other machines could reach %s, where the token would travel in the clear; use 127.0.0.1 or the path of a socket, or set tls.cert and tls.key", a.Listen)
	}
	return nil
}
