package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strings"

	"github.com/dian-im/dian"
	"github.com/dian-im/dian/server"
)

// maxTokenFile bounds a token file; a token has at most 8 KiB.
const maxTokenFile = 16 << 10

// connection is how a verb reaches its relay: flags that all clients have.
type connection struct {
	Server    string `default:"http://127.0.0.1:7700" env:"DIAN_SERVER" placeholder:"URL" help:"The relay (${default}; $$${env})."`
	Token     string `env:"DIAN_TOKEN" placeholder:"TOKEN" help:"The token to log in with ($$${env}). Others can see it in the process list; prefer the variable or a file."`
	TokenFile string `env:"DIAN_TOKEN_FILE" placeholder:"FILE" help:"A file with the token, read again when it expires ($$${env})."`
	User      string `env:"DIAN_USER" placeholder:"USER" help:"Who to be on a --dev relay of this machine, without a token ($$${env})."`
	CA        string `name:"ca" env:"DIAN_CA" placeholder:"FILE" help:"PEM file with the authorities to trust instead of the system's ($$${env})."`
	Cert      string `env:"DIAN_CERT" placeholder:"FILE" help:"PEM file with a client certificate ($$${env})."`
	Key       string `env:"DIAN_KEY" placeholder:"FILE" help:"PEM file with its private key ($$${env})."`
	Debug     bool   `help:"Log what the connection does to standard error."`
}

// connect logs in. Its errors are told as they are: they name what to change, or
// what went wrong.
func (c *connection) connect(ctx context.Context, con *console, opts ...dian.Option) (*dian.Client, error) {
	opts = append(opts, dian.WithClientName("dian-cli "+version()))
	if c.Debug {
		opts = append(opts, dian.WithLogger(slog.New(slog.NewTextHandler(logLines{con}, &slog.HandlerOptions{Level: slog.LevelDebug}))))
	}
	address, err := c.address()
	if err != nil {
		return nil, err
	}
	login, err := c.login(address)
	if err != nil {
		return nil, err
	}
	tlsConfig, err := c.tlsConfig()
	if err != nil {
		return nil, err
	}
	if tlsConfig != nil {
		opts = append(opts, dian.WithTLSConfig(tlsConfig))
	}
	client, err := dian.Connect(ctx, c.Server, append(opts, login)...)
	if s, ok := interrupted(ctx); ok {
		if client != nil {
			logOut(client)
		}
		return nil, s
	}
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", quote(address.Redacted()), told{err})
	}
	return client, nil
}

// told makes an error's text the one of describe.
type told struct{ error }

// Error returns describe's text.
func (t told) Error() string { return describe(t.error) }

func (c *connection) address() (*url.URL, error) {
	address, err := url.Parse(c.Server)
	if err != nil || address.Scheme != "http" && address.Scheme != "https" || address.Host == "" {
		return nil, usage("--server: write it like https://relay.example.com or http://127.0.0.1:7700")
	}
	return address, nil
}

// login returns the option that has the token.
func (c *connection) login(address *url.URL) (dian.Option, error) {
	switch {
	case c.Token != "" && c.TokenFile != "":
		return nil, usage("give --token or --token-file (DIAN_TOKEN or DIAN_TOKEN_FILE), not both")
	case c.Token != "":
		token := strings.TrimSpace(c.Token)
		return dian.WithToken(token), c.checkUser(token)
	case c.TokenFile != "":
		token, err := readToken(c.TokenFile)
		if err != nil {
			return nil, usage("--token-file: %s", err)
		}
		if err := c.checkUser(token); err != nil {
			return nil, err
		}
		return dian.WithTokenSource(func(context.Context) (string, error) { return readToken(c.TokenFile) }), nil
	case c.User == "":
		return nil, usage("give a token with DIAN_TOKEN, --token-file or --token; on a --dev relay of this machine --user is enough")
	case !loopback(address.Hostname()):
		return nil, usage("--user without a token works only with a --dev relay on this machine; give a token")
	}
	return dian.WithTokenSource(func(context.Context) (string, error) { return server.DevToken(c.User) }), nil
}

// checkUser refuses a token of another user than the one that --user names, before
// a login takes that user's place. Whether the token is good the relay says.
func (c *connection) checkUser(token string) error {
	if c.User == "" {
		return nil
	}
	_, rest, _ := strings.Cut(token, ".")
	body, _, _ := strings.Cut(rest, ".")
	data, err := base64.RawURLEncoding.DecodeString(body)
	if err != nil {
		return nil
	}
	var claims struct {
		User string `json:"sub"`
	}
	if json.Unmarshal(data, &claims) == nil && claims.User != c.User {
		return usage("the token is of user %s and not of %s; leave --user and DIAN_USER away", quote(claims.User), quote(c.User))
	}
	return nil
}

// readToken reads a token from a file, without the line break at its end.
func readToken(path string) (string, error) {
	data, err := readSmall(path, maxTokenFile)
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(data))
	if token == "" {
		return "", fmt.Errorf("%s is empty", quote(path))
	}
	return token, nil
}

// readSmall reads a regular file of at most limit bytes.
func readSmall(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a regular file", quote(path))
	case info.Size() > limit:
		return nil, fmt.Errorf("%s is larger than %d bytes; is it the right file?", quote(path), limit)
	default:
		var data []byte
		if data, err = os.ReadFile(path); err == nil {
			return data, nil
		}
	}
	if p, ok := errors.AsType[*os.PathError](err); ok {
		err = p.Err
	}
	return nil, fmt.Errorf("read %s: %w", quote(path), err)
}

// loopback reports whether host is this machine.
func loopback(host string) bool {
	return strings.EqualFold(host, "localhost") || net.ParseIP(host).IsLoopback()
}

// tlsConfig returns what the flags ask for, nil if nothing.
func (c *connection) tlsConfig() (*tls.Config, error) {
	if c.CA == "" && c.Cert == "" && c.Key == "" {
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CA != "" {
		data, err := readSmall(c.CA, 1<<20)
		if err != nil {
			return nil, usage("--ca: %s", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(data) {
			return nil, usage("--ca: no certificate in %s; it should be PEM", quote(c.CA))
		}
	}
	if c.Cert == "" && c.Key == "" {
		return config, nil
	}
	if c.Cert == "" || c.Key == "" {
		return nil, usage("--cert and --key belong together; give both")
	}
	pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
	if err != nil {
		return nil, usage("--cert, --key: %s", err)
	}
	config.Certificates = []tls.Certificate{pair}
	return config, nil
}

// lineTold fills in the callbacks that tell what happens to the line.
func (c *console) lineTold(h dian.Handler) dian.Handler {
	h.NotifyReconnecting = func(r dian.Reconnecting) {
		c.tell(lineEvent{"line", "reconnecting", dian.CodeOf(r.Err), describe(r.Err)})
		if r.Attempt == 1 && !c.json {
			c.warn("line lost: %s; trying again", describe(r.Err))
		}
	}
	h.NotifyReconnected = func() {
		c.tell(lineEvent{Event: "line", State: "up"})
		if !c.json {
			c.warn("line is back")
		}
	}
	return h
}

// lineOff tells that the line is off for good.
func (c *console) lineOff(err error) error {
	c.tell(lineEvent{"line", "off", dian.CodeOf(err), describe(err)})
	c.warn("line off: %s", describe(err))
	return status(statusFailed)
}
