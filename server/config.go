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
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

// The app and secret of DevConfig. Everybody knows them.
const (
	DevApp    = "demo"
	devSecret = "dian-dev-secret-that-everybody-knows"
)

// Config says how a server works. A zero field has the default that its comment
// names; only Apps has none. A Config may be copied; it prints no secrets.
type Config struct {
	// Apps are the isolated worlds that this server serves, at least one.
	Apps []App

	// Dev says that this is for trying things out: the well-known secret of
	// DevConfig is allowed, and a listener that others could reach is not.
	Dev bool

	// Room, with Dev, is for showing it to the people in one room: the listener may be
	// one that others reach, and who comes from another machine needs an invitation.
	Room *Room

	// DevRestart, with Dev, lets whoever is logged in at the page restart the server:
	// Serve then returns ErrRestart.
	DevRestart bool

	// NoPage leaves the web page at / away.
	NoPage bool

	// Origins are the web origins, such as "https://app.example.com", whose
	// pages may use this server, besides its own.
	Origins []string

	// AnyOrigin lets every web page use this server, if it has a token. It is a
	// field of its own so that nobody writes "*" without noticing.
	AnyOrigin bool

	// PublicURL is where clients reach this server, if it cannot be a mere
	// path: "https://relay.example.com/dian". Empty: URLs are paths.
	PublicURL string

	Heartbeat     time.Duration // a silent side says something this often; default 9 s, at most 25 s
	LoginWait     time.Duration // from connection to Hello; default 10 s
	ResumeWindow  time.Duration // a transfer may stand still this long; default 2 min
	OfferWait     time.Duration // for the answer to a session's offer; default 10 min
	HTTPOfferWait time.Duration // for the answer to an HTTP sender's offer; default 45 s
	CommandWait   time.Duration // for the ack of a command; default 30 s
	ShutdownGrace time.Duration // Shutdown lets transfers run this long; default 30 s

	MaxFileBytes int64  // of one file; 0: no limit
	Limits       Limits // what may be used at a time

	// TrustedProxies are addresses or CIDRs of proxies whose word on where a
	// request comes from counts: X-Forwarded-For or Forwarded. With ProxyProtocol
	// their connections to Serve's listener begin with a PROXY header, version 1 or
	// 2; without one they are closed.
	TrustedProxies []string
	ProxyProtocol  bool

	// Logger gets what an operator wants to know: ids, codes and sizes, never
	// content, tokens or file names. nil discards.
	Logger *slog.Logger

	// Authorize may forbid what a token allows; nil forbids nothing. It is called
	// on many goroutines at once, before anything reaches the target, and should
	// be quick: its caller waits. An error means no (code 23), a *Refusal in it
	// chooses the code. The context ends with the session or request.
	Authorize func(context.Context, Action) error

	// Audit is where a line for each finished task goes; by default nowhere.
	Audit Audit

	// Cluster joins this server with others; by default it stands alone.
	Cluster Cluster

	// RevocationsFile keeps the revocations over a restart. It is made if it is
	// not there. Empty: they are forgotten.
	RevocationsFile string

	// The rest is for Serve; a program that mounts the handler itself does not
	// need it.

	Listen        string // host:port; default ":7700", with Dev "127.0.0.1:7700"
	MetricsListen string // host:port of /metrics and the like; empty: on Listen
	TLS           TLS
	Admin         Admin
}

// App is an isolation domain: its users never see those of another app.
type App struct {
	ID           string // what a token's aud says
	Issuer       string // what a token's iss must say; empty: anything
	Keys         []Key  // at least one
	MaxFileBytes int64  // of one file; 0: as in Config
	Limits       AppLimits
}

// TLS names the PEM files of the listener. Without CertFile it speaks plain HTTP.
type TLS struct {
	CertFile, KeyFile string
	ClientCAFile      string // if set, clients need a certificate of it
}

// DevConfig returns a Config for trying things out on one's own machine: the app
// "demo", with a secret that everybody knows, for which DevToken makes tokens.
func DevConfig() Config {
	return Config{Dev: true, Apps: []App{{ID: DevApp, Keys: []Key{devKey()}}}}
}

func devKey() Key { return Key{Algorithm: HS256, Secret: NewSecret([]byte(devSecret))} }

// DevToken returns a token for user on a server of DevConfig. It is valid for a
// day and may send to and see everybody.
func DevToken(user string) (string, error) {
	return Mint(devKey(), DevApp, user, 24*time.Hour, nil, []string{"*"})
}

// CheckDevAddress refuses an address that others could reach, for listeners of a
// server with Config.Dev: its secret protects nothing (case 32).
func CheckDevAddress(addr net.Addr) error {
	switch a := addr.(type) {
	case *net.UnixAddr:
		return nil
	case *net.TCPAddr:
		if a.IP.IsLoopback() {
			return nil
		}
	}
	return fmt.Errorf("dev mode listens on a loopback address only, and %v is none; use 127.0.0.1, or a config with keys of your own", addr)
}

// withDefaults returns c with every zero field at its default.
func (c Config) withDefaults() Config {
	durations := []struct {
		field *time.Duration
		value time.Duration
	}{
		{&c.Heartbeat, 9 * time.Second}, {&c.LoginWait, 10 * time.Second},
		{&c.ResumeWindow, 2 * time.Minute}, {&c.OfferWait, 10 * time.Minute},
		{&c.HTTPOfferWait, 45 * time.Second}, {&c.CommandWait, 30 * time.Second},
		{&c.ShutdownGrace, 30 * time.Second},
	}
	for _, d := range durations {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Listen == "" {
		c.Listen = ":7700"
		if c.Dev {
			c.Listen = "127.0.0.1:7700"
		}
	}
	return c
}

// Check says what is wrong with c, naming the field and what to do about it. It
// reads the key and certificate files.
func (c *Config) Check() error {
	if _, err := c.loadKeys(); err != nil {
		return err
	}
	if err := c.checkNumbers(); err != nil {
		return err
	}
	if err := c.checkOrigins(); err != nil {
		return err
	}
	if !c.Dev && (c.Room != nil || c.DevRestart) {
		return errors.New("dev: a Room and DevRestart are for dev mode alone")
	}
	if c.PublicURL != "" {
		u, err := url.Parse(c.PublicURL)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil ||
			u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.HasSuffix(c.PublicURL, "/") {
			return errors.New("public_url: write it like https://relay.example.com or https://example.com/dian, without a slash at its end")
		}
	}
	if err := c.checkRecords(); err != nil {
		return err
	}
	if err := c.Cluster.check(c.Dev); err != nil {
		return err
	}
	return c.checkListeners()
}

// loadKeys checks the apps and makes their keys ready for use.
func (c *Config) loadKeys() (map[string]*appKeys, error) {
	if len(c.Apps) == 0 {
		return nil, errors.New("apps: none; add one with an id and a key, or use dev mode to try things out")
	}
	apps := make(map[string]*appKeys, len(c.Apps))
	for i, app := range c.Apps {
		at := fmt.Sprintf("apps[%d]", i)
		if err := wire.CheckApp(app.ID); err != nil {
			return nil, fmt.Errorf("%s.id: %w", at, err)
		}
		if apps[app.ID] != nil {
			return nil, fmt.Errorf("%s.id: there is another app %s; give every app its own id", at, wire.Quote(app.ID))
		}
		if app.MaxFileBytes < 0 {
			return nil, fmt.Errorf("%s.max_file_bytes: negative; use 0 for the server's own limit", at)
		}
		if len(app.Keys) == 0 {
			return nil, fmt.Errorf("%s.keys: none; without a key nobody can log in", at)
		}
		keys := &appKeys{issuer: app.Issuer, byID: make(map[string]*verifyKey), maxFile: app.MaxFileBytes}
		for j, key := range app.Keys {
			at := fmt.Sprintf("%s.keys[%d]", at, j)
			loaded, err := key.load()
			if err != nil {
				return nil, fmt.Errorf("%s: %w", at, err)
			}
			for _, k := range loaded {
				if err := keys.add(k, c.Dev); err != nil {
					return nil, fmt.Errorf("%s: %w", at, err)
				}
			}
		}
		if err := c.addRoom(app.ID, keys); err != nil {
			return nil, fmt.Errorf("%s.keys: %w", at, err)
		}
		apps[app.ID] = keys
	}
	return apps, nil
}

// addRoom lets the tokens of c's Room in.
func (c *Config) addRoom(app string, keys *appKeys) error {
	if !c.Dev || c.Room == nil || app != DevApp {
		return nil
	}
	loaded, err := c.Room.key.load()
	if err != nil {
		return err
	}
	for _, k := range loaded {
		if err := keys.add(k, true); err != nil {
			return err
		}
	}
	return nil
}

// add takes one more key in.
func (a *appKeys) add(k *verifyKey, dev bool) error {
	switch {
	case a.byID[k.id] != nil && k.id == "":
		return errors.New("a second key without an id; give it one and name it as kid in its tokens")
	case a.byID[k.id] != nil:
		return fmt.Errorf("a second key with the id %s; give every key of an app its own id", wire.Quote(k.id))
	case len(a.byID) == maxKeysPerApp:
		return fmt.Errorf("more than %d keys; remove old ones", maxKeysPerApp)
	case !dev && k.secret.equal(NewSecret([]byte(devSecret))):
		return errors.New("this is the secret of dev mode, which everybody knows; make one of your own (openssl rand -base64 48)")
	}
	a.byID[k.id] = k
	return nil
}

// checkNumbers checks durations and counts.
func (c *Config) checkNumbers() error {
	durations := []struct {
		name       string
		value, max time.Duration
	}{
		{"heartbeat", c.Heartbeat, 25 * time.Second}, // some proxies cut at 30 s of silence
		{"login_wait", c.LoginWait, time.Minute},
		{"resume_window", c.ResumeWindow, 24 * time.Hour},
		{"offer_wait", c.OfferWait, 24 * time.Hour},
		{"http_offer_wait", c.HTTPOfferWait, 10 * time.Minute},
		{"command_wait", c.CommandWait, 10 * time.Minute},
		{"shutdown_grace", c.ShutdownGrace, 24 * time.Hour},
	}
	for _, d := range durations {
		if d.value < 0 || d.value > d.max {
			return fmt.Errorf("%s: %v is out of range; use more than 0s and at most %v, or leave it away for its default", d.name, d.value, d.max)
		}
	}
	if c.MaxFileBytes < 0 {
		return errors.New("max_file_bytes: negative; use 0 or leave it away for no limit")
	}
	return c.checkLimits()
}

// checkOrigins wants origins as browsers write them, because they are compared
// as texts: there is no normalisation to get wrong (case 114).
func (c *Config) checkOrigins() error {
	switch {
	case c.AnyOrigin && c.Dev:
		return errors.New("any_origin: not in dev mode, where every web page could make itself a token; list the origins")
	case c.AnyOrigin && len(c.Origins) > 0:
		return errors.New("any_origin: leave origins away, or any_origin")
	}
	for i, origin := range c.Origins {
		at := fmt.Sprintf("origins[%d]", i)
		if origin == "*" {
			return fmt.Errorf("%s: * is not an origin; to let every web page in, say any_origin: true", at)
		}
		u, err := url.Parse(origin)
		if err != nil || u.Host == "" || u.User != nil || u.Scheme+"://"+u.Host != origin ||
			origin != strings.ToLower(origin) || strings.ContainsAny(u.Host, "* ") {
			return fmt.Errorf("%s: write it as browsers do, like https://app.example.com or http://localhost:5173, in lower case, without a path", at)
		}
		if u.Scheme == "https" && u.Port() == "443" || u.Scheme == "http" && u.Port() == "80" {
			return fmt.Errorf("%s: leave :%s away; browsers do not write a default port", at, u.Port())
		}
	}
	return nil
}

// allowsOrigin reports whether r may go on: it does not come from a web page, or
// from a page of this server or of an allowed origin. In dev mode Host has to be
// a name of the own machine too: a page whose name was pointed to 127.0.0.1 is of
// the same origin as far as its browser knows (case 114).
func (c *Config) allowsOrigin(r *http.Request) bool {
	if c.Dev && !loopbackHost(r.Host) && !(c.Room != nil && roomHost(r)) {
		return false
	}
	values := r.Header.Values("Origin")
	if len(values) == 0 {
		return true
	}
	origin := values[0]
	if len(values) > 1 {
		return false
	}
	if c.AnyOrigin || slices.Contains(c.Origins, origin) {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") &&
		u.Host != "" && strings.EqualFold(u.Scheme+"://"+r.Host, origin)
}

// loopbackHost reports whether a Host header names the own machine.
func loopbackHost(host string) bool {
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	}
	ip := net.ParseIP(name)
	return ip.IsLoopback() || strings.EqualFold(name, "localhost")
}

// checkListeners checks addresses and certificate files.
func (c *Config) checkListeners() error {
	for name, address := range map[string]string{"listen": c.Listen, "metrics_listen": c.MetricsListen} {
		if address == "" {
			continue
		}
		if _, _, err := net.SplitHostPort(address); err != nil {
			return fmt.Errorf("%s: %q is not host:port; write :7700 or 127.0.0.1:7700", name, address)
		}
	}
	t := c.TLS
	switch {
	case t.CertFile == "" && t.KeyFile == "" && t.ClientCAFile == "":
		return nil
	case t.CertFile == "" || t.KeyFile == "":
		return errors.New("tls: cert and key belong together; give both")
	}
	if _, err := c.certificate(); err != nil {
		return err
	}
	_, err := c.clientCAs()
	return err
}

// certificate loads the listener's certificate.
func (c *Config) certificate() (tls.Certificate, error) {
	cert, err := readKeyFile(c.TLS.CertFile)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("tls.cert: %w", err)
	}
	key, err := readKeyFile(c.TLS.KeyFile)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("tls.key: %w", err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return tls.Certificate{}, errors.New("tls: cert and key do not fit each other, or one is not PEM")
	}
	return pair, nil
}

// clientCAs loads the authorities whose clients may connect; nil means all may.
func (c *Config) clientCAs() (*x509.CertPool, error) {
	if c.TLS.ClientCAFile == "" {
		return nil, nil
	}
	data, err := readKeyFile(c.TLS.ClientCAFile)
	if err != nil {
		return nil, fmt.Errorf("tls.client_ca: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, errors.New("tls.client_ca: no certificate in the file; it should be PEM")
	}
	return pool, nil
}
