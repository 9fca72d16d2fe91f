package natsbus

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	pingEvery = 2 * time.Second
	pingsOut  = 2 // without a pong; the next one that is due ends the connection
	dialWait  = 2 * time.Second
	loginWait = 2 * time.Second
)

// Config says where NATS is and who this node is there. It prints no secrets. All files
// are read again for every connection, so that they can be renewed while it runs.
type Config struct {
	// URLs are of one or more servers of one NATS cluster; nats.go finds the others.
	// nats:// and tls:// begin TLS by themselves if the server wants it; tls:// and
	// wss:// insist. A user with password, or a token, may stand before the host.
	URLs []string

	CredentialsFile string // a .creds file: JWT and seed of a user
	NKeySeedFile    string // or the seed of a user's NKey

	// Each of these makes TLS a must, whatever the URLs say.
	CAFile            string // instead of the system's authorities
	CertFile, KeyFile string // of this client

	Name   string       // how NATS' monitoring shows this client
	Logger *slog.Logger // nil discards
}

// String says how many URLs there are and what else is given, without any secret.
func (c Config) String() string {
	return fmt.Sprintf("NATS at %d URLs, credentials %t, nkey %t, CA %t, certificate %t",
		len(c.URLs), c.CredentialsFile != "", c.NKeySeedFile != "", c.CAFile != "", c.CertFile != "")
}

// GoString is String, for %#v.
func (c Config) GoString() string { return "natsbus.Config{" + c.String() + "}" }

// LogValue is String, for slog.
func (c Config) LogValue() slog.Value { return slog.StringValue(c.String()) }

// MarshalText is String, for JSON and other encoders.
func (c Config) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// Check says what can never work, by the name of the field in the configuration file.
// It reads every file and asks no server.
func (c Config) Check() error {
	_, err := c.options()
	return err
}

// options is what nats.go is told, except callbacks and dialer.
func (c Config) options() (nats.Options, error) {
	o := nats.GetDefaultOptions()
	o.Servers = c.URLs
	o.Name = c.Name
	o.NoEcho = true
	o.Timeout = loginWait
	o.SkipHostLookup = true // dialer does it
	o.RetryOnFailedConnect = true
	o.MaxReconnect = -1
	o.IgnoreAuthErrorAbort = true // it would give up at the second refusal
	o.PingInterval = pingEvery
	o.MaxPingsOut = pingsOut
	o.ReconnectBufSize = -1        // nothing is kept for the next connection
	o.FlusherTimeout = 0           // conn.Write does not wait
	o.SkipSubjectValidation = true // ours is stricter
	if err := checkURLs(c); err != nil {
		return o, err
	}
	if c.CredentialsFile != "" && c.NKeySeedFile != "" {
		return o, errors.New("cluster.nats: credentials_file and nkey_seed_file are two ways to log in; give one")
	}
	if (c.CertFile == "") != (c.KeyFile == "") {
		return o, errors.New("cluster.nats: cert_file and key_file belong together; give both")
	}
	for _, f := range []struct {
		field, name string
		option      func() (nats.Option, error)
	}{
		{"credentials_file", c.CredentialsFile, func() (nats.Option, error) { return credentials(c.CredentialsFile), nil }},
		{"nkey_seed_file", c.NKeySeedFile, func() (nats.Option, error) { return nats.NkeyOptionFromSeed(c.NKeySeedFile) }},
		{"ca_file", c.CAFile, func() (nats.Option, error) { return nats.RootCAs(c.CAFile), nil }},
		{"cert_file and key_file", c.CertFile, func() (nats.Option, error) { return nats.ClientCert(c.CertFile, c.KeyFile), nil }},
	} {
		if f.name == "" {
			continue
		}
		option, err := f.option()
		if err == nil {
			err = option(&o)
		}
		if err != nil {
			return o, fmt.Errorf("cluster.nats.%s: %w", f.field, err)
		}
	}
	if o.SignatureCB != nil {
		if _, err := o.SignatureCB([]byte("nonce")); err != nil {
			return o, fmt.Errorf("cluster.nats.credentials_file: %w", err)
		}
	}
	return o, nil
}

// checkURLs says nothing of what is in a URL, which could be a password.
func checkURLs(c Config) error {
	if len(c.URLs) == 0 {
		return errors.New("cluster.nats.urls: none; give one such as nats://127.0.0.1:4222, or several of one NATS cluster")
	}
	webSockets := 0
	for i, s := range c.URLs {
		at := fmt.Sprintf("cluster.nats.urls[%d]", i)
		u, err := url.Parse(s)
		if err != nil || u.Hostname() == "" {
			return fmt.Errorf("%s: write it like nats://host:4222, tls://host:4222 or wss://host:443", at)
		}
		switch u.Scheme {
		case "ws", "wss":
			webSockets++
		case "nats", "tls":
			if strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
				return fmt.Errorf("%s: leave away what is behind host and port", at)
			}
		default:
			return fmt.Errorf("%s: begin it with nats://, tls://, ws:// or wss://", at)
		}
		if port, err := strconv.Atoi(u.Port()); u.Port() != "" && (err != nil || port < 1 || port > 65535) {
			return fmt.Errorf("%s: the port is out of range; use 1 to 65535", at)
		}
		if u.User != nil && (c.CredentialsFile != "" || c.NKeySeedFile != "") {
			return fmt.Errorf("%s: has a user or token, and a file to log in with is given as well; use one", at)
		}
	}
	if webSockets != 0 && webSockets != len(c.URLs) {
		return errors.New("cluster.nats.urls: all of them or none can be ws:// or wss://")
	}
	return nil
}

// credentials is nats.UserCredentials for a file whose name means what it says: that one
// replaces $NAME and ~ in it, but not where it reads the seed. And of a file without a
// JWT it would send all to the server, the seed too.
func credentials(file string) nats.Option {
	read := func() (o nats.Options, err error) {
		content, err := os.ReadFile(file)
		if err == nil {
			err = nats.UserCredentialBytes(content)(&o)
		}
		return o, err
	}
	return nats.UserJWT(func() (string, error) {
		o, err := read()
		if err != nil {
			return "", err
		}
		jwt, err := o.UserJWT()
		if err == nil && (strings.Count(jwt, ".") != 2 || strings.ContainsAny(jwt, " \t\r\n")) {
			return "", errors.New("there is no JWT in it; use the file that nsc or nk has made, with both JWT and seed")
		}
		return jwt, err
	}, func(nonce []byte) ([]byte, error) {
		o, err := read()
		if err != nil {
			return nil, err
		}
		return o.SignatureCB(nonce)
	})
}
