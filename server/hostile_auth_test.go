package server

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/dian-im/dian/internal/wire"
)

// A tokenDoor is a way in with a token. It returns the code with which that was refused,
// or 0, and what was said about it.
type tokenDoor struct {
	name string
	try  func(t *testing.T, r *testRelay, token string) (code wire.Code, said string)
}

// Codes of doors beside those of the wire.
const (
	doorShut  wire.Code = 1 << 20 // closed, or an answer of net/http's, without a code
	doorSays            = doorShut + 1
	cannotGet           = doorShut + 2 // HTTP cannot carry such a token
)

// httpDoor is a request that a good token lets through to an answer of another kind.
func httpDoor(name, method, path string, headers ...string) tokenDoor {
	return tokenDoor{name, func(t *testing.T, r *testRelay, token string) (wire.Code, string) {
		t.Helper()
		if strings.ContainsAny(token, "\n\x00") {
			return cannotGet, ""
		}
		req, err := http.NewRequest(method, "http://relay.example"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		for i := 0; i < len(headers); i += 2 {
			req.Header.Set(headers[i], headers[i+1])
		}
		resp, body := r.doRequest(t, req)
		switch {
		case resp.StatusCode == http.StatusRequestHeaderFieldsTooLarge:
			return doorShut, ""
		case resp.StatusCode != http.StatusUnauthorized:
			return 0, ""
		case resp.Header.Get("WWW-Authenticate") != "Bearer":
			t.Errorf("%s: WWW-Authenticate is %q", name, resp.Header.Get("WWW-Authenticate"))
		}
		for _, code := range []wire.Code{7, 10, 12, 18, 19, 20, 21} {
			if strings.Contains(body, `"code":`+codeLabel(code)+`,`) || strings.Contains(body, `"code":`+codeLabel(code)+`}`) {
				return code, body
			}
		}
		return doorSays, body // HEAD, which has no body
	}}
}

// doors are all of them. A good token of alice gets an answer that is not 401: the
// transfer is another user's, and nobody is not there.
func doors() []tokenDoor {
	other := lanePathPrefix + (&transferID{App: "clinic", Source: "carol", Target: "dave", Kind: wire.Kind_KIND_FILE, Instance: placeA}).encode()
	tus := []string{"Tus-Resumable", "1.0.0", "Upload-Offset", "0", "Upload-Length", "5", "Content-Type", tusContentType}
	over := func(method string) []string { return append(tus[:len(tus):len(tus)], "X-HTTP-Method-Override", method) }
	return []tokenDoor{
		{"Hello", helloDoor(wire.ProtoSubprotocol, wire.Role_ROLE_LISTEN)},
		{"Hello in JSON, to send", helloDoor(wire.JSONSubprotocol, wire.Role_ROLE_SEND)},
		{"UpdateToken", updateDoor},
		httpDoor("POST command", "POST", "/v1/users/nobody/commands"),
		httpDoor("tus POST", "POST", "/v1/users/nobody/transfers", tus...),
		httpDoor("tus HEAD", "HEAD", other, tus...),
		httpDoor("tus PATCH", "PATCH", other, tus...),
		httpDoor("tus DELETE", "DELETE", other, tus...),
		httpDoor("POST for HEAD", "POST", other, over("HEAD")...),
		httpDoor("POST for PATCH", "POST", other, over("PATCH")...),
		httpDoor("POST for DELETE", "POST", other, over("DELETE")...),
		httpDoor("PUT", "PUT", "/v1/users/nobody/files/x"),
		httpDoor("GET users", "GET", "/v1/users"),
		httpDoor("GET user", "GET", "/v1/users/nobody"),
	}
}

func helloDoor(protocol string, role wire.Role) func(*testing.T, *testRelay, string) (wire.Code, string) {
	return func(t *testing.T, r *testRelay, token string) (wire.Code, string) {
		t.Helper()
		p := r.dial(protocol)
		defer p.conn.Close()
		h := listenHello(token, 1)
		h.Role = role
		p.sendLong(helloFrame(h))
		p.conn.SetReadDeadline(time.Now().Add(time.Minute))
		f, err := p.read()
		switch {
		case err != nil:
			return doorShut, ""
		case f.GetWelcome() != nil:
			return 0, ""
		}
		return wire.Code(f.GetLineOff().GetCode()), f.GetLineOff().GetDetail()
	}
}

// sendLong is send for a frame that may be longer than frames can be.
func (p *testPeer) sendLong(f *wire.Frame) {
	p.t.Helper()
	if proto.Size(f) <= wire.FrameBytes {
		p.send(f)
		return
	}
	kind, marshal := websocket.BinaryMessage, proto.Marshal
	if p.json {
		kind, marshal = websocket.TextMessage, protojson.Marshal
	}
	data, err := marshal(f)
	if err != nil {
		p.t.Fatal(err)
	}
	_ = p.conn.WriteMessage(kind, data) // the server may hang up before it has all of it
}

func updateDoor(t *testing.T, r *testRelay, token string) (wire.Code, string) {
	t.Helper()
	// A session whose token ends so soon that every good one is newer.
	now := hs(object{"alg": "HS256"}, good(object{"exp": float64(authNow.Add(time.Millisecond).UnixMilli()) / 1e3}))
	p := r.hello(sendHello(now))
	defer p.conn.Close()
	p.sendLong(&wire.Frame{Body: &wire.Frame_UpdateToken{UpdateToken: &wire.UpdateToken{Token: token}}})
	p.conn.SetReadDeadline(time.Now().Add(time.Minute))
	for {
		f, err := p.read()
		if err != nil {
			return doorShut, ""
		}
		if u := f.GetTokenUpdated(); u != nil {
			return wire.Code(u.Code), u.Detail
		}
	}
}

// doRequest is do for a request that is made already.
func (r *testRelay) doRequest(t *testing.T, req *http.Request) (*http.Response, string) {
	t.Helper()
	resp, err := r.web.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var text strings.Builder
	buf := make([]byte, 4096)
	for {
		n, err := resp.Body.Read(buf)
		text.Write(buf[:n])
		if err != nil {
			break
		}
	}
	return resp, text.String()
}

// wantAt is what a case's token gets at a door.
func wantAt(c tokenCase, d tokenDoor) wire.Code {
	http := !strings.HasPrefix(d.name, "Hello") && d.name != "UpdateToken"
	long := len(c.token) > 16<<10
	switch {
	case http && strings.ContainsAny(c.token, "\n\x00"):
		return cannotGet
	case http && c.token == "":
		return wire.NotLoggedIn // no token at all
	case http && strings.HasPrefix(c.token, " "):
		return c.want
	case long && (http || strings.HasPrefix(d.name, "Hello") || len(c.token) > wire.MessageBytes):
		return doorShut // before anybody looks at it
	case c.want == 0 && d.name == "UpdateToken" && strings.Contains(c.name, "one key with an id"):
		return wire.TokenRefused // of another app
	}
	return c.want
}

// Every token of the table at every door, at one and the same moment.
func TestEveryTokenAtEveryDoor(t *testing.T) { // cases 20 to 28 and 40
	cases := tokenCases(t) // outside of the bubbles: RSA keys take a while
	all := doors()
	checks := 0
	refusals := map[string]string{} // what each door says of code 21: one text
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(time.Until(authNow))
				r := memRelay(t, fastRates, func(cfg *Config) { cfg.Apps = authConfig().Apps })
				for _, d := range all {
					code, said := d.try(t, r, c.token)
					want := wantAt(c, d)
					if code != want && !(code == doorSays && want != 0) {
						t.Errorf("%s: code %d, want %d", d.name, code, want)
					}
					if code == wire.TokenRefused && d.name != "UpdateToken" {
						if before, known := refusals[d.name]; known && before != said {
							t.Errorf("%s: says %q, and before %q: all refusals of 21 must look alike", d.name, said, before)
						}
						refusals[d.name] = said
					}
					checks++
				}
				if !time.Now().Equal(authNow) {
					t.Errorf("it took until %v", time.Now())
				}
				if n := r.counter("dian_panics_total"); n != "0" {
					t.Errorf("dian_panics_total = %s", n)
				}
			})
		})
	}
	t.Logf("%d tokens at %d doors: %d checks", len(cases), len(all), checks)
}

func TestTokensCountOnlyInTheirPlace(t *testing.T) { // case 31
	r := tcpRelay(t, fastRates)
	token := r.token("alice")
	for name, c := range map[string]struct {
		path    string
		headers []string // pairs; a name may come twice
		want    wire.Code
	}{
		"where it belongs":               {"/v1/users", []string{"Authorization", "Bearer " + token}, 0},
		"scheme in lower case":           {"/v1/users", []string{"Authorization", "bearer " + token}, 0},
		"scheme in capitals":             {"/v1/users", []string{"Authorization", "BEARER " + token}, 0},
		"nowhere":                        {"/v1/users", nil, wire.NotLoggedIn},
		"in the query":                   {"/v1/users?token=" + token, nil, wire.NotLoggedIn},
		"in the query, as of OAuth":      {"/v1/users?access_token=" + token, nil, wire.NotLoggedIn},
		"in the query, as of a ticket":   {"/v1/users?ticket=" + token, nil, wire.NotLoggedIn},
		"in a cookie":                    {"/v1/users", []string{"Cookie", "token=" + token}, wire.NotLoggedIn},
		"in a header of its own":         {"/v1/users", []string{"Token", token}, wire.NotLoggedIn},
		"in the proxy's header":          {"/v1/users", []string{"Proxy-Authorization", "Bearer " + token}, wire.NotLoggedIn},
		"without a scheme":               {"/v1/users", []string{"Authorization", token}, wire.NotLoggedIn},
		"scheme alone":                   {"/v1/users", []string{"Authorization", "Bearer"}, wire.NotLoggedIn},
		"scheme and a space":             {"/v1/users", []string{"Authorization", "Bearer "}, wire.NotLoggedIn},
		"Basic":                          {"/v1/users", []string{"Authorization", "Basic " + token}, wire.NotLoggedIn},
		"as a ticket":                    {"/v1/users", []string{"Authorization", "Ticket " + token}, wire.NotLoggedIn},
		"two spaces":                     {"/v1/users", []string{"Authorization", "Bearer  " + token}, wire.TokenMalformed},
		"a tab":                          {"/v1/users", []string{"Authorization", "Bearer\t" + token}, wire.NotLoggedIn},
		"two tokens in a line":           {"/v1/users", []string{"Authorization", "Bearer " + token + ", Bearer " + token}, wire.TokenMalformed},
		"two lines, a bad one first":     {"/v1/users", []string{"Authorization", "Bearer x", "Authorization", "Bearer " + token}, wire.NotLoggedIn},
		"two lines, a good one first":    {"/v1/users", []string{"Authorization", "Bearer " + token, "Authorization", "Bearer x"}, wire.NotLoggedIn},
		"a token and a ticket":           {"/v1/users", []string{"Authorization", "Bearer " + token, "Authorization", "Ticket x"}, wire.NotLoggedIn},
		"in quotes":                      {"/v1/users", []string{"Authorization", `Bearer "` + token + `"`}, wire.TokenMalformed},
		"in the path's user information": {"/v1/users", []string{"Authorization", "Basic OnBhc3N3b3Jk"}, wire.NotLoggedIn},
	} {
		s := r.socket()
		var text strings.Builder
		text.WriteString("GET " + c.path + " HTTP/1.1\r\nHost: relay.example\r\nConnection: close\r\n")
		for i := 0; i < len(c.headers); i += 2 {
			text.WriteString(c.headers[i] + ": " + c.headers[i+1] + "\r\n")
		}
		s.write([]byte(text.String() + "\r\n"))
		resp, err := s.answer(http.MethodGet)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		body := make([]byte, 2000)
		n, _ := resp.Body.Read(body)
		if c.want == 0 {
			if resp.StatusCode != http.StatusOK {
				t.Errorf("%s: %d %s", name, resp.StatusCode, body[:n])
			}
			continue
		}
		wantProblem(t, resp, string(body[:n]), http.StatusUnauthorized, c.want)
		if strings.Contains(string(body[:n]), token[:20]) {
			t.Errorf("%s: the answer repeats the token", name)
		}
	}
}
