package server

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// noFiles is a source without files and environment.
func noFiles() configSource {
	return configSource{
		env:  func(string) (string, bool) { return "", false },
		read: func(string) ([]byte, error) { return nil, errors.New("no files here") },
	}
}

func TestExampleInTheDocumentationLoads(t *testing.T) {
	doc, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(doc), "```yaml\n")
	example, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("docs/configuration.md has no yaml example")
	}
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("dian.yaml", example)
	write("archive.jwks.json", `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"1","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`)
	t.Setenv("CLINIC_SECRET", strings.Repeat("s", 32))
	cfg, err := LoadConfig(filepath.Join(dir, "dian.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if cfg.TLS.CertFile != "/etc/dian/tls.crt" || cfg.MaxFileBytes != 50<<30 || cfg.ResumeWindow != 2*time.Minute {
		t.Errorf("cfg = %+v", cfg)
	}
	cfg.TLS = TLS{} // no such files here
	if err := cfg.Check(); err != nil {
		t.Errorf("Check = %v", err)
	}
	limits := map[string]int64{}
	for _, app := range cfg.Apps {
		limits[app.ID] = app.MaxFileBytes
	}
	if limits["archive"] != 1<<40 || limits["clinic"] != 0 || cfg.MaxFileBytes != 50<<30 {
		t.Errorf("max_file_bytes = %v, %d", limits, cfg.MaxFileBytes)
	}

	// Every key of the file form is explained, with its variable.
	var names func(reflect.Type, string, bool)
	names = func(typ reflect.Type, prefix string, env bool) {
		for field := range typ.Fields() {
			name := prefix + field.Tag.Get("yaml")
			switch ft := field.Type; {
			case ft == reflect.TypeFor[tlsFile]() || ft == reflect.TypeFor[auditFile]() || ft == reflect.TypeFor[limitsFile](),
				ft == reflect.TypeFor[clusterFile](), ft == reflect.TypeFor[clusterTLSFile](), ft == reflect.TypeFor[natsFile]():
				names(ft, name+".", env)
				continue
			case ft == reflect.TypeFor[limitFile]():
				continue // TestDocumentedLimitsAreTheDefaults
			case ft == reflect.TypeFor[adminFile](): // inline
				names(ft, prefix, env)
				continue
			case ft == reflect.TypeFor[[]appFile]() || ft == reflect.TypeFor[[]keyFile]():
				names(ft.Elem(), "", false)
				continue
			}
			if !strings.Contains(string(doc), "`"+name+"`") {
				t.Errorf("docs/configuration.md does not explain %s", name)
			}
			variable := "DIAN_" + strings.ToUpper(strings.ReplaceAll(name, ".", "_"))
			if env && !strings.Contains(string(doc), "`"+variable+"`") {
				t.Errorf("docs/configuration.md does not name %s", variable)
			}
		}
	}
	names(reflect.TypeFor[configFile](), "", true)
}

func TestEnvironmentCountsMoreThanTheFile(t *testing.T) {
	env := map[string]string{
		"DIAN_HEARTBEAT": "5s", "DIAN_LIMITS_USER_QUEUED_BYTES": "9 MiB", "DIAN_ORIGINS": "https://a.example, https://b.example",
		"DIAN_ANY_ORIGIN": "false", "DIAN_TLS_KEY": "k.pem", "DIAN_LIMITS_ALL_SESSIONS": "",
		"DIAN_APP": "solo", "DIAN_SECRET": clinicSecret,
	}
	src := noFiles()
	src.dir = "/etc/dian"
	src.env = func(name string) (string, bool) { v, ok := env[name]; return v, ok }
	cfg, err := src.parse([]byte("heartbeat: 7s\nlimits: {all: {sessions: 5}}\ntls: {cert: c.pem, key: x.pem}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Heartbeat != 5*time.Second || cfg.Limits.User.QueuedBytes != 9<<20 || len(cfg.Origins) != 2 || cfg.Limits.All.Sessions != 5 ||
		cfg.TLS.CertFile != filepath.Join("/etc/dian", "c.pem") || cfg.TLS.KeyFile != "k.pem" ||
		len(cfg.Apps) != 1 || cfg.Apps[0].ID != "solo" {
		t.Errorf("cfg = %+v", cfg)
	}
	env["DIAN_HEARTBEAT"] = "fast"
	if _, err := src.parse(nil); err == nil || !strings.HasPrefix(err.Error(), "DIAN_HEARTBEAT: not a duration") {
		t.Errorf("parse = %v", err)
	}
	delete(env, "DIAN_HEARTBEAT")
	delete(env, "DIAN_APP")
	if _, err := src.parse(nil); err == nil || !strings.HasPrefix(err.Error(), "DIAN_APP: ") {
		t.Errorf("parse = %v", err)
	}
}

func TestFileErrorsNamePlaceAndRemedyButNoSecret(t *testing.T) {
	const canary = "hunter2hunter2"
	tests := []struct{ file, want string }{
		{"heartbeet: 9s", `line 1: unknown key "heartbeet"`},
		{"apps:\n  - id: x\n    keyz: []", `line 3: unknown key "keyz"`},
		{"listen: a\nlisten: b", `line 2: the key "listen" is there already, in line 1`},
		{"\nheartbeat: " + canary, "line 2: not a duration; write it like 9s"},
		{"max_file_bytes: " + canary, "line 1: not a number of bytes"},
		{"max_file_bytes: 9000000 TiB", "line 1: not a number of bytes"},
		{"max_file_bytes: -1", "line 1: not a number of bytes"},
		{"limits: {user: {sessions: " + canary + "}}", "line 1: wrong kind of value; write a whole number"},
		{"apps: [{limits: {all: {sessions: 1}}}]", `line 1: unknown key "all"`},
		{"any_origin: " + canary, "write true or false"},
		{"origins: " + canary, "write a list"},
		{"tls: " + canary, "write keys and values below it"},
		{"apps: [{keys: [{secret: [" + canary + "]}]}]", "line 1: a secret must be a text"},
		{"apps: [{keys: [{secret: !!binary " + canary + "}]}]", "a secret must be a text"},
		{"apps: [{keys: [{secret: *" + canary + "}]}]", "not YAML"},
		{"apps: [{keys: [{secret: \"" + canary, "not YAML"},
		{"apps: [{keys: [{secret: " + canary + ", secret_env: X}]}]", "apps[0].keys[0]: give only one of"},
		{"apps: [{keys: [{secret_env: " + canary + "}]}]", "apps[0].keys[0]: secret_env: "},
		{"apps: [{keys: [{secret_file: x}]}]", "apps[0].keys[0]: secret_file: no files here"},
		{"apps: [{keys: [{public_key: " + canary + "}]}]", "apps[0].keys[0]: public_key: no PEM block"},
		{"a: b\n---\nc: d", "unknown key"},
		{"listen: b\n---\nlisten: d", "a second document"},
		{canary, "line 1: wrong kind of value"},
	}
	for _, tt := range tests {
		_, err := noFiles().parse([]byte(tt.file))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: error %v, want %q", tt.file, err, tt.want)
		} else if strings.Contains(err.Error(), canary[:4]) {
			t.Errorf("%q: error %q repeats the value", tt.file, err)
		}
	}
	if _, err := LoadConfig(t.TempDir()); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("LoadConfig of a folder = %v", err)
	}
}

func TestCheckNamesTheFieldAndTheRemedy(t *testing.T) {
	key := Key{Algorithm: HS256, Secret: NewSecret([]byte(clinicSecret))}
	change := func(f func(*Config)) Config {
		cfg := Config{Apps: []App{{ID: "a", Keys: []Key{key}}}}
		f(&cfg)
		return cfg
	}
	keys := func(k ...Key) Config { return change(func(c *Config) { c.Apps[0].Keys = k }) }
	ed := makeAuthKeys().edPublic
	tests := []struct {
		cfg  Config
		want string
	}{
		{change(func(*Config) {}), ""},
		{DevConfig(), ""},
		{Config{}, "apps: none"},
		{change(func(c *Config) { c.Apps = append(c.Apps, c.Apps[0]) }), `apps[1].id: there is another app "a"`},
		{change(func(c *Config) { c.Apps[0].ID = "" }), "apps[0].id: app id is empty"},
		{keys(), "apps[0].keys: none"},
		{keys(Key{}), "apps[0].keys[0]: the key is empty"},
		{keys(key, Key{ID: "x", Algorithm: HS256, Secret: NewSecret([]byte("hunter2!!"))}), "apps[0].keys[1]: HS256 secret has 9 bytes; use at least 32"},
		{keys(key, key), "apps[0].keys[1]: a second key without an id"},
		{keys(Key{ID: "k", Algorithm: EdDSA, PublicKey: ed}, Key{ID: "k", Algorithm: EdDSA, PublicKey: ed}), `apps[0].keys[1]: a second key with the id "k"`},
		{keys(Key{Secret: key.Secret}), "apps[0].keys[0]: the key has no algorithm"},
		{keys(Key{Algorithm: "none", Secret: key.Secret}), `unknown algorithm "none"`},
		{keys(Key{Algorithm: HS256, PublicKey: ed}), "HS256 needs a secret and no public key"},
		{keys(Key{Algorithm: RS256, PublicKey: ed}), "RS256 needs an RSA public key, this is an Ed25519 key"},
		{keys(Key{Algorithm: EdDSA, PublicKey: ed[:31]}), "Ed25519 public key has 31 bytes"},
		{keys(Key{Algorithm: EdDSA, PublicKey: &makeAuthKeys().rsa.PublicKey}), "this is an RSA key"},
		{keys(Key{Algorithm: EdDSA, PublicKey: ed, Secret: key.Secret}), "give only one of"},
		{keys(Key{Algorithm: EdDSA, PublicKeyFile: "/does/not/exist"}), `apps[0].keys[0]: read "/does/not/exist": no such file`},
		{keys(Key{ID: "x", JWKSFile: "/does/not/exist"}), "leave id and algorithm away"},
		{keys(devKey()), "this is the secret of dev mode"}, // case 32
		{change(func(c *Config) { c.Heartbeat = 26 * time.Second }), "heartbeat: 26s is out of range"},
		{change(func(c *Config) { c.OfferWait = -1 }), "offer_wait: "},
		{change(func(c *Config) { c.Limits.All.Sessions = -1 }), "limits.all.sessions: -1 is out of range"},
		{change(func(c *Config) { c.Limits.User.QueuedBytes = 5 }), "limits.user.queued_bytes: "},
		{change(func(c *Config) { c.Limits.Address.Offers = -5 }), "limits.address.offers: "},
		{change(func(c *Config) { c.Limits.User.LoginsPerSecond = devRate + 1 }), "limits.user.logins_per_second: "},
		{change(func(c *Config) { c.Apps[0].Limits.User.Offers = -1 }), "apps[0].limits.user.offers: "},
		{change(func(c *Config) { c.Apps[0].Limits.App.Sessions = -1 }), "apps[0].limits.app.sessions: "},
		{change(func(c *Config) { c.Limits.SharedAddresses = []string{"0.0.0.0/0"} }), "limits.shared_addresses[0]: this is everybody"},
		{change(func(c *Config) { c.TrustedProxies = []string{"10.0.0.1", "10.0.0.1/8"} }), "trusted_proxies[1]: the address has more bits than its range; write 10.0.0.0/8"},
		{change(func(c *Config) { c.TrustedProxies = []string{"proxy"} }), "trusted_proxies[0]: write an address like"},
		{change(func(c *Config) { c.TrustedProxies = []string{"::ffff:10.0.0.1"} }), "trusted_proxies[0]: write it as an IPv4 address"},
		{change(func(c *Config) { c.TrustedProxies = []string{"10.0.0.1", "2001:db8::/32"} }), ""},
		{change(func(c *Config) { c.ProxyProtocol = true }), "proxy_protocol: nobody may speak it"},
		{change(func(c *Config) { c.Origins = []string{"*"} }), "origins[0]: * is not an origin; to let every web page in, say any_origin: true"},
		{change(func(c *Config) { c.Origins = []string{"null"} }), "origins[0]: write it as browsers do"},
		{change(func(c *Config) { c.Origins = []string{"https://a.example/"} }), "origins[0]: "},
		{change(func(c *Config) { c.Origins = []string{"https://*.example"} }), "origins[0]: "},
		{change(func(c *Config) { c.Origins = []string{"https://a.example:443"} }), "origins[0]: leave :443 away"},
		{change(func(c *Config) { c.Origins = []string{"https://a.example:8443"} }), ""},
		{change(func(c *Config) { c.AnyOrigin = true }), ""},
		{change(func(c *Config) { c.AnyOrigin, c.Dev = true, true }), "any_origin: not in dev mode"},
		{change(func(c *Config) { c.PublicURL = "relay.example.com" }), "public_url: write it like"},
		{change(func(c *Config) { c.Listen = "7700" }), `listen: "7700" is not host:port`},
		{change(func(c *Config) { c.TLS.CertFile = "x" }), "tls: cert and key belong together"},
		{change(func(c *Config) { c.TLS = TLS{CertFile: "/nope", KeyFile: "/nope"} }), `tls.cert: read "/nope"`},
	}
	for _, tt := range tests {
		err := tt.cfg.Check()
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("Check = %v, want no error", err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("Check = %v, want %q", err, tt.want)
		case err != nil && strings.Contains(err.Error(), "hunter2"):
			t.Errorf("Check = %v, which repeats a secret", err)
		}
	}
	full := DevConfig().withDefaults()
	if err := full.Check(); err != nil || full.Listen != "127.0.0.1:7700" || full.Logger == nil || full.Heartbeat != 9*time.Second {
		t.Errorf("defaults: %v, %+v", err, full)
	}
}

// case 31
func TestSecretsAreNeverPrinted(t *testing.T) {
	const canary = "canary-canary-canary-canary-canary"
	cfg := Config{Apps: []App{{ID: "a", Keys: []Key{{Algorithm: HS256, Secret: NewSecret([]byte(canary))}}}}}
	ring := mustKeyring(t, cfg)
	hidden := struct {
		cfg  Config // unexported, so fmt asks no methods
		ring *keyring
		key  *verifyKey
	}{cfg, ring, (*ring.apps.Load())["a"].byID[""]}
	var out bytes.Buffer
	for _, v := range []any{cfg, &cfg, cfg.Apps[0].Keys[0], cfg.Apps[0].Keys[0].Secret, hidden, &hidden, *hidden.key, (*ring.apps.Load())["a"]} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			fmt.Fprintf(&out, verb, v)
		}
		slog.New(slog.NewTextHandler(&out, nil)).Info("x", "v", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "v", v)
	}
	j, err := json.Marshal(cfg.Apps)
	if err != nil {
		t.Fatal(err)
	}
	y, err := yaml.Marshal(cfg.Apps)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(j)
	out.Write(y)
	ring.log = slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	token, err := mintAt(authNow, cfg.Apps[0].Keys[0], "a", "alice", time.Hour, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, refusal := ring.verify(token, authNow.Add(time.Hour))
	fmt.Fprint(&out, refusal)
	for _, form := range []string{canary, fmt.Sprintf("%x", canary), fmt.Sprint([]byte(canary)[:4])[1:10], base64.StdEncoding.EncodeToString([]byte(canary))[:20], token[:20]} {
		if strings.Contains(out.String(), form) {
			t.Errorf("%q was printed", form)
		}
	}
	if !strings.Contains(out.String(), redacted) || !strings.Contains(out.String(), "reason=expired") {
		t.Errorf("nothing was printed at all: %s", out.String())
	}
}

// case 32
func TestDevModeStaysOnThisMachine(t *testing.T) {
	tests := []struct {
		addr net.Addr
		ok   bool
	}{
		{&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}, true}, {&net.TCPAddr{IP: net.IPv4(127, 9, 0, 1)}, true},
		{&net.TCPAddr{IP: net.IPv6loopback}, true}, {&net.UnixAddr{Name: "x"}, true},
		{&net.TCPAddr{}, false}, {&net.TCPAddr{IP: net.IPv4zero}, false}, {&net.TCPAddr{IP: net.IPv6zero}, false},
		{&net.TCPAddr{IP: net.IPv4(192, 168, 0, 1)}, false}, {&net.IPAddr{IP: net.IPv6loopback}, false}, {nil, false},
	}
	for _, tt := range tests {
		if err := CheckDevAddress(tt.addr); (err == nil) != tt.ok {
			t.Errorf("CheckDevAddress(%v) = %v, want ok %v", tt.addr, err, tt.ok)
		}
	}
	token, err := DevToken("alice")
	if err != nil {
		t.Fatal(err)
	}
	c, refusal := mustKeyring(t, DevConfig()).verify(token, time.Now())
	if refusal != nil || c.App != DevApp || !c.See.match("bob") || !c.Send.match("bob") {
		t.Errorf("DevToken: %+v, %v", c, refusal)
	}
}

// case 114
func TestOnlyAllowedOriginsPass(t *testing.T) {
	tests := []struct {
		cfg          Config
		host, origin string
		want         bool
	}{
		{Config{}, "relay.example", "", true},
		{Config{}, "relay.example", "https://relay.example", true},
		{Config{}, "relay.example:7700", "http://relay.example:7700", true},
		{Config{}, "relay.example", "https://relay.example:8443", false},
		{Config{}, "relay.example", "https://sub.relay.example", false},
		{Config{}, "relay.example", "https://evil.example", false},
		{Config{}, "relay.example", "https://user@relay.example", false},
		{Config{}, "relay.example", "https://relay.example.evil.example", false},
		{Config{}, "relay.example", "null", false},
		{Config{}, "", "https://", false},
		{Config{Origins: []string{"https://app.example"}}, "relay.example", "https://app.example", true},
		{Config{Origins: []string{"https://app.example"}}, "relay.example", "http://app.example", false},
		{Config{AnyOrigin: true}, "relay.example", "null", true},
		{Config{Dev: true}, "localhost:7700", "http://localhost:7700", true},
		{Config{Dev: true}, "[::1]:7700", "", true},
		{Config{Dev: true}, "[::1]", "", true},
		{Config{Dev: true}, "evil.example:7700", "http://evil.example:7700", false}, // rebound to 127.0.0.1
		{Config{Dev: true}, "evil.example:7700", "", false},
	}
	for _, tt := range tests {
		r := httptest.NewRequest("GET", "/v1/session", nil)
		r.Host = tt.host
		if tt.origin != "" {
			r.Header.Set("Origin", tt.origin)
		}
		if got := tt.cfg.allowsOrigin(r); got != tt.want {
			t.Errorf("host %q, origin %q: %v, want %v", tt.host, tt.origin, got, tt.want)
		}
	}
}

// case 28
func TestOddKeysInAJWKSAreErrors(t *testing.T) {
	b64 := base64.RawURLEncoding.EncodeToString
	k := makeAuthKeys()
	x, n := b64(k.edPublic), b64(k.rsa.N.Bytes())
	even := bytes.Clone(k.rsa.N.Bytes())
	even[len(even)-1] &^= 1
	ed := func(x string) object { return object{"kty": "OKP", "crv": "Ed25519", "x": x} }
	rs := func(n, e string) object { return object{"kty": "RSA", "n": n, "e": e} }
	with := func(o object, name string, v any) object { o[name] = v; return o }
	set := func(keys ...object) string {
		b, err := json.Marshal(object{"keys": keys})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	tests := []struct{ file, want string }{
		{set(ed(x)), ""},
		{set(rs(n, "AQAB")), ""},
		{set(object{"kty": "oct", "k": b64([]byte(clinicSecret))}), ""},
		{set(with(ed(x), "kid", "1"), with(rs(n, "AQAB"), "kid", "2"), object{"kty": "EC", "use": "enc"}), ""},
		{"", "not a JWK Set"}, {"[]", "not a JWK Set"}, {"{}", "no keys"}, {"null", "no keys"},
		{`{"keys":[7]}`, "keys[0]: not a JWK"}, {`{"keys":[null]}`, "keys[0]: no kty"}, {`{"keys":[{"kty":7}]}`, "keys[0]: not a JWK"},
		{set(ed(x), ed(x)), "keys[0]: no kid"},
		{set(object{"kty": "EC", "use": "enc"}), "no keys for signatures"},
		{set(object{"kty": "EC", "crv": "P-256"}), `unsupported kty "EC"`},
		{set(object{"kty": "OKP", "crv": "X25519", "x": x}), `unsupported curve "X25519"`},
		{set(ed("")), `member "x" is missing`}, {set(ed(b64(k.edPublic[:31]))), "Ed25519 public key has 31 bytes"},
		{set(ed(x[:41])), "not base64url"}, {set(ed(b64(append(bytes.Clone(k.edPublic), 0)))), "Ed25519 public key has 33"}, {set(ed("****")), "not base64url"},
		{set(ed(strings.Repeat("A", 4000))), "more than 64 bytes"},
		{set(with(ed(x), "d", x)), "a private key"}, {set(with(ed(x), "alg", "ES256")), "unsupported alg"},
		{set(rs("", "AQAB")), `member "n" is missing`}, {set(rs(n, "")), `member "e" is missing`},
		{set(rs(n[:300], "AQAB")), "use at least 2048"}, {set(rs(b64(even), "AQAB")), "even modulus"},
		{set(rs(b64(bytes.Repeat([]byte{255}, 1025)), "AQAB")), "use at most 8192"}, {set(rs(strings.Repeat("A", 340), "AQAB")), "no modulus"},
		{set(rs(n, "AA")), "exponent 0"}, {set(rs(n, "AQ")), "exponent 1"}, {set(rs(n, "AQAA")), "exponent 65536"},
		{set(rs(n, b64([]byte{1, 0, 0, 0, 1}))), "larger than 2^31-1"}, {set(with(rs(n, "AQAB"), "alg", "RS512")), "unsupported alg"},
		{set(object{"kty": "oct", "k": b64([]byte("hunter2"))}), "HS256 secret has 7 bytes"},
		{set(object{"kty": "oct"}), `member "k" is missing`},
		{set(with(ed(x), "kid", strings.Repeat("k", 257))), "257 bytes"},
	}
	for _, tt := range tests {
		keys, err := parseJWKS([]byte(tt.file))
		switch {
		case tt.want == "" && (err != nil || len(keys) == 0):
			t.Errorf("%.80s: %v", tt.file, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%.80s: error %v, want %q", tt.file, err, tt.want)
		}
	}
}

func FuzzJWKS(f *testing.F) {
	f.Add([]byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"1","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"},{"kty":"oct","k":"AAAA"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		keys, err := parseJWKS(data)
		if err != nil {
			return
		}
		for _, k := range keys {
			if p, ok := k.public.(ed25519.PublicKey); ok && len(p) != ed25519.PublicKeySize {
				t.Errorf("an Ed25519 key of %d bytes", len(p))
			}
			if !k.same(k) {
				t.Error("a key differs from itself")
			}
		}
	})
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte("heartbeat: 9s\napps:\n  - id: a\n    keys: [{algorithm: HS256, secret: x}]\n"))
	f.Add([]byte("limits: {user: {queued_bytes: 4 MiB}}\norigins: [https://a.example]\ntls: {cert: a, key: b}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, err := noFiles().parse(data)
		if err != nil {
			return
		}
		cfg.TLS = TLS{}
		for i := range cfg.Apps {
			for j := range cfg.Apps[i].Keys { // Check must not open what the fuzzer names
				cfg.Apps[i].Keys[j].PublicKeyFile, cfg.Apps[i].Keys[j].JWKSFile = "", ""
			}
		}
		if cfg.Check() == nil {
			full := cfg.withDefaults()
			if err := full.Check(); err != nil {
				t.Errorf("good without defaults, bad with them: %v", err)
			}
		}
	})
}
