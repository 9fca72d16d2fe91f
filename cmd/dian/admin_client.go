package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/dian-im/dian"
)

const (
	adminTimeout   = time.Minute // for one request
	maxAdminAnswer = 16 << 20
	maxAdminToken  = 4 << 10
)

// adminConnection is how a verb of `dian admin` reaches a relay.
type adminConnection struct {
	Admin     string `env:"DIAN_ADMIN" placeholder:"SOCKET|HOST:PORT|URL" help:"The relay's admin listener: the path of its socket, host:port, or https://host:port ($$${env})."`
	TokenFile string `name:"admin-token-file" env:"DIAN_ADMIN_TOKEN_FILE" placeholder:"FILE" help:"A file with the admin token ($$${env})."`
	CA        string `name:"ca" env:"DIAN_CA" placeholder:"FILE" help:"PEM file with the authorities to trust instead of the system's ($$${env})."`
	Cert      string `env:"DIAN_CERT" placeholder:"FILE" help:"PEM file with a client certificate ($$${env})."`
	Key       string `env:"DIAN_KEY" placeholder:"FILE" help:"PEM file with its private key ($$${env})."`
	JSON      bool   `name:"json" help:"Print JSON events."`
}

// adminClient calls one relay.
type adminClient struct {
	web   *http.Client
	base  string // scheme and host
	token string // or ""
}

func (c *adminConnection) client() (*adminClient, error) {
	a := &adminClient{base: c.Admin}
	// No proxy: the token is for the relay alone.
	transport := &http.Transport{DisableKeepAlives: true}
	a.web = &http.Client{Transport: transport, Timeout: adminTimeout, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
	switch scheme, _, isURL := strings.Cut(c.Admin, "://"); {
	case c.Admin == "":
		return nil, usage("give the relay's admin listener with --admin or DIAN_ADMIN: the path of its socket, host:port, or https://host:port")
	case isURL && scheme != "http" && scheme != "https":
		return nil, usage("--admin: write the path of a socket, host:port, or https://host:port")
	case isURL:
	case strings.ContainsAny(c.Admin, `/\`):
		path := c.Admin
		a.base = "http://admin"
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}
	default:
		a.base = "http://" + c.Admin
	}
	at, err := url.Parse(a.base)
	if err != nil || at.Host == "" || at.User != nil || strings.Trim(at.Path, "/") != "" || at.RawQuery != "" {
		return nil, usage("--admin: write the path of a socket, host:port, or https://host:port")
	}
	if at.Scheme == "http" && transport.DialContext == nil && !loopback(at.Hostname()) {
		return nil, usage("--admin: the token would travel in the clear to another machine; write https://%s", at.Host)
	}
	a.base = at.Scheme + "://" + at.Host
	if transport.TLSClientConfig, err = (&connection{CA: c.CA, Cert: c.Cert, Key: c.Key}).tlsConfig(); err != nil {
		return nil, err
	}
	if c.TokenFile != "" {
		data, err := readSmall(c.TokenFile, maxAdminToken)
		if err != nil {
			return nil, usage("--admin-token-file: %s", err)
		}
		a.token = strings.TrimRight(string(data), "\r\n")
		if a.token == "" || strings.ContainsFunc(a.token, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return nil, usage("--admin-token-file: %s does not hold a token", quote(c.TokenFile))
		}
	}
	return a, nil
}

// call makes a request, with body as JSON if it is not nil, and reads the answer
// into into.
func (a *adminClient) call(ctx context.Context, method, path string, body, into any) error {
	var content io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return err
		}
		content = bytes.NewReader(data)
	}
	r, err := http.NewRequestWithContext(ctx, method, a.base+path, content)
	if err != nil {
		return err
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if a.token != "" {
		r.Header.Set("Authorization", "Bearer "+a.token)
	}
	res, err := a.web.Do(r)
	if err != nil {
		if s, ok := interrupted(ctx); ok {
			return s
		}
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = plainNet(e.Err)
		}
		return fmt.Errorf("admin: the relay cannot be reached: %w", err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, maxAdminAnswer+1))
	if err != nil || len(data) > maxAdminAnswer {
		return errors.New("admin: the relay's answer did not arrive whole")
	}
	if res.StatusCode/100 == 2 {
		if err := json.Unmarshal(data, into); err != nil {
			return errors.New("admin: the answer is not that of a relay")
		}
		return nil
	}
	var problem struct {
		Code   dian.Code `json:"code"`
		Detail string    `json:"detail"`
	}
	if json.Unmarshal(data, &problem) != nil || problem.Code == 0 {
		return fmt.Errorf("admin: the answer is not that of a relay (status %d)", res.StatusCode)
	}
	return &dian.Error{Op: "admin", Origin: dian.Server, Code: problem.Code, Detail: problem.Detail}
}

// pages calls a list's path until its last page. page asks for one and returns what
// after is for the next.
func (a *adminClient) pages(query url.Values, page func(query string) (next string, err error)) error {
	query.Set("limit", "1000")
	for {
		next, err := page("?" + query.Encode())
		if err != nil || next == "" {
			return err
		}
		query.Set("after", next)
	}
}

// with runs what a verb does with its relay.
func (c *adminConnection) with(con *console, do func(ctx context.Context, a *adminClient) error) error {
	con.json = c.JSON
	a, err := c.client()
	if err != nil {
		return err
	}
	ctx, stop := interruptible()
	defer stop()
	return do(ctx, a)
}
