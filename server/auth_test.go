package server

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/dian-im/dian/internal/wire"
)

// authNow is the clock of these tests.
var authNow = time.Unix(1_800_000_000, 0)

// authKeys are the private halves of authConfig's keys.
type authKeys struct {
	edPublic  ed25519.PublicKey
	edPrivate ed25519.PrivateKey
	rsa       *rsa.PrivateKey
}

var makeAuthKeys = sync.OnceValue(func() authKeys {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return authKeys{public, private, r}
})

const clinicSecret = "clinic-secret-of-at-least-32-bytes"

// authConfig has one app with a key of each kind, and two with one key each.
func authConfig() Config {
	k := makeAuthKeys()
	return Config{Apps: []App{
		{ID: "clinic", Keys: []Key{
			{Algorithm: HS256, Secret: NewSecret([]byte(clinicSecret))},
			{ID: "ed", Algorithm: EdDSA, PublicKey: k.edPublic},
			{ID: "rsa", Algorithm: RS256, PublicKey: &k.rsa.PublicKey},
		}},
		{ID: "shop", Issuer: "https://login.example.com", Keys: []Key{
			{ID: "ed", Algorithm: HS256, Secret: NewSecret([]byte("shop-secret-of-at-least-32-bytes!!"))}}},
		{ID: "two", Keys: []Key{
			{ID: "a", Algorithm: HS256, Secret: NewSecret([]byte(strings.Repeat("a", 32)))},
			{ID: "b", Algorithm: HS256, Secret: NewSecret([]byte(strings.Repeat("b", 32)))}}},
	}}
}

func mustKeyring(t testing.TB, cfg Config) *keyring {
	t.Helper()
	k, err := newKeyring(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

type object = map[string]any

func segment(v any) string {
	data, ok := v.(string)
	if !ok {
		b, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		data = string(b)
	}
	return base64.RawURLEncoding.EncodeToString([]byte(data))
}

// forge signs any header and claims, also such as no library would.
func forge(method jwt.SigningMethod, key any, header, body any) string {
	text := segment(header) + "." + segment(body)
	sig, err := method.Sign(text, key)
	if err != nil {
		panic(err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(sig)
}

func hs(header, body any) string {
	return forge(jwt.SigningMethodHS256, []byte(clinicSecret), header, body)
}

// good returns the claims of a good token with changes; nil takes a claim away.
func good(changes object) object {
	c := object{"aud": "clinic", "sub": "alice", "exp": authNow.Unix() + 600}
	maps.Copy(c, changes)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

// A tokenCase is a token, and the code that it gets at authNow.
type tokenCase struct {
	name, token string
	want        wire.Code
}

// tokenCases is the table of tokens (cases 20 to 28 and 40).
func tokenCases(t testing.TB) []tokenCase {
	k := makeAuthKeys()
	der, err := x509.MarshalPKIXPublicKey(&k.rsa.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	rsaPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	h := object{"alg": "HS256", "typ": "JWT"}
	unsigned := func(alg string) string { return segment(object{"alg": alg}) + "." + segment(good(nil)) + "." }
	at := func(d time.Duration) float64 { return float64(authNow.Add(d).UnixMilli()) / 1e3 }
	ten := []string{"u*"}
	sign := func(method jwt.SigningMethod, key any, alg, kid string) string {
		return forge(method, key, object{"alg": alg, "kid": kid}, good(nil))
	}
	cut := func(token string, n int) string { return token[:len(token)-n] }
	edGood := sign(jwt.SigningMethodEdDSA, k.edPrivate, "EdDSA", "ed")
	rsaGood := sign(jwt.SigningMethodRS256, k.rsa, "RS256", "rsa")
	return []tokenCase{
		{"good", hs(h, good(nil)), 0},
		{"good EdDSA", forge(jwt.SigningMethodEdDSA, k.edPrivate, object{"alg": "EdDSA", "kid": "ed"}, good(nil)), 0},
		{"good RS256", forge(jwt.SigningMethodRS256, k.rsa, object{"alg": "RS256", "kid": "rsa"}, good(nil)), 0},

		// case 21: the algorithm is the key's
		{"alg none", unsigned("none"), 21},
		{"alg None", unsigned("None"), 21},
		{"alg empty", unsigned(""), 21},
		{"alg absent", hs(object{}, good(nil)), 21},
		{"alg a number", hs(object{"alg": 1}, good(nil)), 21},
		{"alg in lower case", hs(object{"alg": "hs256"}, good(nil)), 21},
		{"HS256 over RSA PEM", forge(jwt.SigningMethodHS256, rsaPEM, object{"alg": "HS256", "kid": "rsa"}, good(nil)), 21},
		{"HS256 over RSA DER", forge(jwt.SigningMethodHS256, der, object{"alg": "HS256", "kid": "rsa"}, good(nil)), 21},
		{"HS256 over Ed25519", forge(jwt.SigningMethodHS256, []byte(k.edPublic), object{"alg": "HS256", "kid": "ed"}, good(nil)), 21},
		{"HS512 with the secret", forge(jwt.SigningMethodHS512, []byte(clinicSecret), object{"alg": "HS512"}, good(nil)), 21},
		{"PS256 with the RSA key", forge(jwt.SigningMethodPS256, k.rsa, object{"alg": "PS256", "kid": "rsa"}, good(nil)), 21},
		{"RS256 for the Ed25519 key", forge(jwt.SigningMethodRS256, k.rsa, object{"alg": "RS256", "kid": "ed"}, good(nil)), 21},

		{"alg NONE with a signature", hs(object{"alg": "NONE"}, good(nil)), 21},
		{"alg null", hs(object{"alg": nil}, good(nil)), 21},
		{"alg a list", hs(object{"alg": []string{"HS256"}}, good(nil)), 21},
		{"alg twice, none last", hs(`{"alg":"HS256","alg":"none"}`, good(nil)), 21},
		{"alg none, kid of the Ed25519 key", segment(object{"alg": "none", "kid": "ed"}) + "." + segment(good(nil)) + ".", 21},
		{"HS384 with the secret", forge(jwt.SigningMethodHS384, []byte(clinicSecret), object{"alg": "HS384"}, good(nil)), 21},
		{"EdDSA for the secret", forge(jwt.SigningMethodEdDSA, k.edPrivate, object{"alg": "EdDSA"}, good(nil)), 21},
		{"RS256 for the secret", forge(jwt.SigningMethodRS256, k.rsa, object{"alg": "RS256"}, good(nil)), 21},
		{"HS256 over an empty key", forge(jwt.SigningMethodHS256, []byte{}, h, good(nil)), 21},
		{"HS256 over the RSA modulus", forge(jwt.SigningMethodHS256, k.rsa.N.Bytes(), object{"alg": "HS256", "kid": "rsa"}, good(nil)), 21},
		{"ES256", segment(object{"alg": "ES256", "kid": "ed"}) + "." + segment(good(nil)) + "." + strings.Repeat("A", 86), 21},

		// case 28: signatures of odd lengths
		{"EdDSA cut by a character", cut(edGood, 1), 19}, // no base64 is that long
		{"EdDSA cut", cut(edGood, 2), 21},
		{"EdDSA cut in half", cut(edGood, 46), 21},
		{"EdDSA and a byte more", edGood + "AA", 21},
		{"EdDSA of zeros", cut(edGood, 86) + strings.Repeat("A", 86), 21},
		{"EdDSA without a signature", cut(edGood, 86), 21},
		{"RS256 cut", cut(rsaGood, 2), 21},
		{"RS256 of zeros", cut(rsaGood, 342) + strings.Repeat("A", 342), 21},
		{"RS256 without a signature", cut(rsaGood, 342), 21},
		{"RS256 and more", rsaGood + "AAAA", 21},
		{"HS256 cut", cut(hs(h, good(nil)), 3), 21},
		{"HS256 of zeros", cut(hs(h, good(nil)), 43) + strings.Repeat("A", 43), 21},
		{"HS256 and more", hs(h, good(nil)) + "AAAA", 21},

		// case 22: kid is looked up and nothing else
		{"kid unknown", hs(object{"alg": "HS256", "kid": "x"}, good(nil)), 21},
		{"kid a path", hs(object{"alg": "HS256", "kid": "../../../dev/null"}, good(nil)), 21},
		{"kid a URL", hs(object{"alg": "HS256", "kid": "https://evil.example/k"}, good(nil)), 21},
		{"kid SQL", hs(object{"alg": "HS256", "kid": "' OR 1=1 --"}, good(nil)), 21},
		{"kid a number", hs(object{"alg": "HS256", "kid": 7}, good(nil)), 21},
		{"kid null", hs(object{"alg": "HS256", "kid": nil}, good(nil)), 21},
		{"kid of another app", forge(jwt.SigningMethodHS256, []byte("shop-secret-of-at-least-32-bytes!!"), object{"alg": "HS256", "kid": "ed"}, good(nil)), 21},
		{"kid empty", hs(object{"alg": "HS256", "kid": ""}, good(nil)), 0}, // as if it were not there
		{"kid with a NUL", hs(object{"alg": "HS256", "kid": "ed\x00"}, good(nil)), 21},
		{"kid in capitals", sign(jwt.SigningMethodEdDSA, k.edPrivate, "EdDSA", "ED"), 21},
		{"kid with a space", sign(jwt.SigningMethodEdDSA, k.edPrivate, "EdDSA", "ed "), 21},
		{"kid a list", forge(jwt.SigningMethodEdDSA, k.edPrivate, object{"alg": "EdDSA", "kid": []string{"ed"}}, good(nil)), 21},
		{"kid of 4 KiB", hs(object{"alg": "HS256", "kid": strings.Repeat("k", 4<<10)}, good(nil)), 21},
		{"kid of another key", sign(jwt.SigningMethodEdDSA, k.edPrivate, "EdDSA", "rsa"), 21},
		{"the same kid in another app", forge(jwt.SigningMethodEdDSA, k.edPrivate, object{"alg": "EdDSA", "kid": "ed"}, good(object{"aud": "shop", "iss": "https://login.example.com"})), 21},
		{"the key of kid a for kid b", forge(jwt.SigningMethodHS256, []byte(strings.Repeat("a", 32)), object{"alg": "HS256", "kid": "b"}, good(object{"aud": "two"})), 21},
		{"no kid, several keys with ids", forge(jwt.SigningMethodHS256, []byte(strings.Repeat("a", 32)), h, good(object{"aud": "two"})), 21},
		{"no kid, one key with an id", forge(jwt.SigningMethodHS256, []byte("shop-secret-of-at-least-32-bytes!!"), h, good(object{"aud": "shop", "iss": "https://login.example.com"})), 0},

		// case 23
		{"crit", hs(object{"alg": "HS256", "crit": []string{"exp"}}, good(nil)), 21},
		{"crit empty", hs(object{"alg": "HS256", "crit": []string{}}, good(nil)), 21},
		{"jku", hs(object{"alg": "HS256", "jku": "https://evil.example/k"}, good(nil)), 0}, // no effect: see TestHeadersNeverMakeTheServerFetch
		{"b64 false", hs(object{"alg": "HS256", "b64": false}, good(nil)), 0},
		{"typ JWE", hs(object{"alg": "HS256", "typ": "JWE"}, good(nil)), 0}, // nothing hangs on it
		{"crit null", hs(object{"alg": "HS256", "crit": nil}, good(nil)), 21},

		// case 24
		{"exp missing", hs(h, good(object{"exp": nil})), 19},
		{"exp text", hs(h, good(object{"exp": "1900000000"})), 19},
		{"exp bool", hs(h, good(object{"exp": true})), 19},
		{"exp null", hs(h, `{"aud":"clinic","sub":"alice","exp":null}`), 19},
		{"exp 1e999", hs(h, `{"aud":"clinic","sub":"alice","exp":1e999}`), 19},
		{"exp after 9999", hs(h, good(object{"exp": 1e15})), 19},
		{"exp in 9999", hs(h, good(object{"exp": int64(maxTokenSeconds)})), 0},
		{"exp 2^63", hs(h, `{"aud":"clinic","sub":"alice","exp":9223372036854775808}`), 19},
		{"exp 2^64", hs(h, `{"aud":"clinic","sub":"alice","exp":18446744073709551616}`), 19},
		{"exp NaN", hs(h, `{"aud":"clinic","sub":"alice","exp":NaN}`), 19},
		{"exp a list", hs(h, good(object{"exp": []int{1900000000}})), 19},
		{"exp zero", hs(h, good(object{"exp": 0})), 18},
		{"exp twice, over last", hs(h, `{"aud":"clinic","sub":"alice","exp":1900000000,"exp":1}`), 18},
		{"EXP is not exp", hs(h, `{"aud":"clinic","sub":"alice","EXP":1900000000}`), 19},
		{"nbf null", hs(h, `{"aud":"clinic","sub":"alice","exp":1900000000,"nbf":null}`), 19},
		{"nbf after 9999", hs(h, good(object{"nbf": 1e15})), 19},
		{"nbf in a year", hs(h, good(object{"nbf": at(365 * 24 * time.Hour)})), 21},
		{"iat null", hs(h, `{"aud":"clinic","sub":"alice","exp":1900000000,"iat":null}`), 19},
		{"iat text", hs(h, good(object{"iat": "now"})), 19},
		{"iat negative", hs(h, good(object{"iat": -1})), 0},
		{"exp negative", hs(h, good(object{"exp": -5})), 18},
		{"exp now", hs(h, good(object{"exp": authNow.Unix()})), 18},
		{"exp in 1 ms", hs(h, good(object{"exp": at(time.Millisecond)})), 0},
		{"exp 1 ms ago", hs(h, good(object{"exp": at(-time.Millisecond)})), 18},
		{"nbf in 60 s", hs(h, good(object{"nbf": at(time.Minute)})), 0},
		{"nbf in 61 s", hs(h, good(object{"nbf": at(61 * time.Second)})), 21},
		{"nbf text", hs(h, good(object{"nbf": "0"})), 19},
		{"nbf negative", hs(h, good(object{"nbf": -1})), 0},
		{"iat in 60 s", hs(h, good(object{"iat": at(time.Minute)})), 0},
		{"iat in 61 s", hs(h, good(object{"iat": at(61 * time.Second)})), 21},
		{"iat list", hs(h, good(object{"iat": []int{1}})), 19},

		// case 25
		{"aud a list of one", hs(h, good(object{"aud": []string{"clinic"}})), 0},
		{"aud two", hs(h, good(object{"aud": []string{"clinic", "shop"}})), 21},
		{"aud empty list", hs(h, good(object{"aud": []string{}})), 21},
		{"aud list of null", hs(h, good(object{"aud": []any{nil}})), 21},
		{"aud empty", hs(h, good(object{"aud": ""})), 21},
		{"aud missing", hs(h, good(object{"aud": nil})), 21},
		{"aud number", hs(h, good(object{"aud": 5})), 21},
		{"aud in capitals only", hs(h, good(object{"aud": nil, "AUD": "clinic"})), 21},
		{"aud unknown", hs(h, good(object{"aud": "nowhere"})), 20},
		{"aud with a space", hs(h, good(object{"aud": "clinic "})), 20},
		{"aud in capitals", hs(h, good(object{"aud": "CLINIC"})), 20},
		{"aud null", hs(h, `{"aud":null,"sub":"alice","exp":1900000000}`), 21},
		{"aud an object", hs(h, good(object{"aud": object{"app": "clinic"}})), 21},
		{"aud a list in a list", hs(h, good(object{"aud": []any{[]string{"clinic"}}})), 21},
		{"aud twice, unknown last", hs(h, `{"aud":"clinic","aud":"nowhere","sub":"alice","exp":1900000000}`), 20},
		{"iss a list", forge(jwt.SigningMethodHS256, []byte("shop-secret-of-at-least-32-bytes!!"), h, good(object{"aud": "shop", "iss": []string{"https://login.example.com"}})), 21},
		{"aud another app", hs(object{"alg": "HS256", "kid": "ed"}, good(object{"aud": "shop"})), 21},
		{"iss missing", forge(jwt.SigningMethodHS256, []byte("shop-secret-of-at-least-32-bytes!!"), h, good(object{"aud": "shop"})), 21},
		{"iss wrong", forge(jwt.SigningMethodHS256, []byte("shop-secret-of-at-least-32-bytes!!"), h, good(object{"aud": "shop", "iss": "https://login.example.com/"})), 21},
		{"sub missing", hs(h, good(object{"sub": nil})), 21},
		{"sub a list", hs(h, good(object{"sub": []string{"alice"}})), 21},
		{"SUB is not sub", hs(h, `{"aud":"clinic","SUB":"alice","exp":1900000000}`), 21},
		{"sub with CR LF", hs(h, good(object{"sub": "a\r\nb"})), 21}, // case 20
		{"sub too long", hs(h, good(object{"sub": strings.Repeat("x", 129)})), 21},
		{"sub null", hs(h, `{"aud":"clinic","exp":1900000000,"sub":null}`), 21},
		{"sub empty", hs(h, good(object{"sub": ""})), 21},
		{"sub ..", hs(h, good(object{"sub": ".."})), 21},
		{"sub with a NUL", hs(h, good(object{"sub": "alice\x00"})), 21},
		{"sub with a space at its end", hs(h, good(object{"sub": "alice "})), 21},
		{"sub right to left", hs(h, good(object{"sub": "\u202eecila"})), 21},
		{"sub with a zero-width space", hs(h, good(object{"sub": "ali\u200bce"})), 21},
		{"sub twice, bad last", hs(h, `{"aud":"clinic","exp":1900000000,"sub":"alice","sub":""}`), 21},
		{"sub decomposed", hs(h, good(object{"sub": "e\u0301"})), 21}, // case 40

		// case 26
		{"expired and badly signed", hs(h, good(object{"exp": 1}))[:100] + "AAAA", 21},
		{"expired, signed by another", forge(jwt.SigningMethodHS256, []byte("another"), h, good(object{"exp": 1})), 21},

		// case 27
		{"empty", "", 19},
		{"1 MB of dots", strings.Repeat(".", 1<<20), 19},
		{"8 KiB of dots", strings.Repeat(".", 8<<10), 19},
		{"two segments", segment(h) + "." + segment(good(nil)), 19},
		{"JWE", strings.Repeat("e30.", 4) + "e30", 19},
		{"too long", hs(h, good(object{"x": strings.Repeat("x", 8<<10)})), 19},
		{"empty segments", "..", 19},
		{"one dot", ".", 19},
		{"a dot at the end", hs(h, good(nil)) + ".", 19},
		{"a dot in front", "." + hs(h, good(nil)), 19},
		{"a space in front", " " + hs(h, good(nil)), 19},
		{"a NUL inside", hs(h, good(nil))[:9] + "\x00" + hs(h, good(nil))[9:], 19},
		{"the other alphabet of base64", strings.NewReplacer("-", "+", "_", "/").Replace(hs(h, good(object{"x": "\u00ff\u00fe\u00ff\u00fe???>>>"}))), 19},
		{"just short enough", hs(h, good(object{"x": strings.Repeat("x", 5900)})), 0},
		{"header deep", hs(strings.Repeat(`{"a":`, 1000)+"1"+strings.Repeat("}", 1000), good(nil)), 21},
		{"header a list", hs([]int{}, good(nil)), 19},
		{"header null", hs("null", good(nil)), 19},
		{"claims null", hs(h, "null"), 19},
		{"claims cut", hs(h, `{"aud":"clinic"`), 19},
		{"claims twice", hs(h, `{"aud":"clinic"}{}`), 19},
		{"line break inside", hs(h, good(nil))[:9] + "\n" + hs(h, good(nil))[9:], 19},
		{"padding", hs(h, good(nil)) + "=", 19},
		{"no signature", strings.TrimRight(hs(h, good(nil)), "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"), 21},

		{"send and see", hs(h, good(object{"send": ten, "see": ten})), 0},
		{"send null", hs(h, `{"aud":"clinic","sub":"alice","exp":1900000000,"send":null}`), 19},
		{"send text", hs(h, good(object{"send": "*"})), 19},
		{"send of numbers", hs(h, good(object{"send": []int{1}})), 19},
		{"see of null", hs(h, good(object{"see": []any{nil}})), 19},
		{"see with 65", hs(h, good(object{"see": strings.Split(strings.Repeat("a ", 64)+"a", " ")})), 19},
		{"see with 64", hs(h, good(object{"see": strings.Split(strings.Repeat("a ", 63)+"a", " ")})), 0},
		{"pattern too long", hs(h, good(object{"see": []string{strings.Repeat("a", 257)}})), 19},
		{"pattern ends in an escape", hs(h, good(object{"see": []string{`a\`}})), 19},
	}
}

func TestTokensAreBelievedOnlyByTheRules(t *testing.T) {
	tests := tokenCases(t)
	ring := mustKeyring(t, authConfig())
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := ring.verify(tt.token, authNow)
			var got wire.Code
			if err != nil {
				got = err.Code
			}
			if got != tt.want {
				t.Fatalf("verify = %v, want code %d", err, tt.want)
			}
			if got != 0 && (c.App != "" || c.User != "" || c.Send != nil) {
				t.Errorf("a refused token left claims: %+v", c)
			}
			if got == 21 && err.Detail != "" {
				t.Errorf("detail %q; all refusals of 21 must look alike", err.Detail)
			}
			if got == 0 && (c.User != "alice" || c.Expires.IsZero()) {
				t.Errorf("claims = %+v", c)
			}
		})
	}
}

// case 23
func TestHeadersNeverMakeTheServerFetch(t *testing.T) {
	canary, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	touched := make(chan struct{})
	go func() {
		defer close(touched)
		if conn, err := canary.Accept(); err == nil {
			conn.Close()
			t.Error("somebody connected to the canary")
		}
	}()
	where := "http://" + canary.Addr().String() + "/keys"
	ring := mustKeyring(t, authConfig())
	k := makeAuthKeys()
	evil := object{"kty": "OKP", "crv": "Ed25519", "x": base64.RawURLEncoding.EncodeToString(k.edPublic)}
	for _, name := range []string{"jku", "x5u", "jwk", "x5c"} {
		header := object{"alg": "EdDSA", name: where}
		if name == "jwk" {
			header[name] = evil
		}
		token := forge(jwt.SigningMethodEdDSA, k.edPrivate, header, good(object{"aud": "shop", "iss": "https://login.example.com"}))
		if _, err := ring.verify(token, authNow); err == nil || err.Code != wire.TokenRefused {
			t.Errorf("%s: verify = %v, want 21", name, err)
		}
	}
	canary.Close()
	<-touched
}

func TestReloadSwapsKeysAndWithdrawsTrust(t *testing.T) {
	ring := mustKeyring(t, authConfig())
	token := hs(object{"alg": "HS256"}, good(nil))
	c, refusal := ring.verify(token, authNow)
	if refusal != nil || !ring.trusts(c) {
		t.Fatalf("verify = %v, trusts = %v", refusal, ring.trusts(c))
	}
	if err := ring.reload(Config{}); err == nil {
		t.Error("reload of an empty config succeeded")
	}
	if err := ring.reload(authConfig()); err != nil || !ring.trusts(c) {
		t.Errorf("the same keys again: %v, trusts = %v", err, ring.trusts(c))
	}
	cfg := authConfig()
	cfg.Apps[0].Keys[0].Secret = NewSecret([]byte(strings.Repeat("n", 32)))
	if err := ring.reload(cfg); err != nil {
		t.Fatal(err)
	}
	if ring.trusts(c) {
		t.Error("a token of a key that is gone is still trusted")
	}
	if _, refusal := ring.verify(token, authNow); refusal == nil || refusal.Code != wire.TokenRefused {
		t.Errorf("verify = %v, want 21", refusal)
	}
	if ring.trusts(claims{}) {
		t.Error("empty claims are trusted")
	}
}

func TestAuthorizeAsksTokenThenHook(t *testing.T) {
	ring := mustKeyring(t, authConfig())
	h := object{"alg": "HS256"}
	secretText := errors.New("database password is 1234")
	tests := []struct {
		name   string
		claims object
		hook   error
		verb   Verb
		target string
		want   wire.Code
	}{
		{"absent send is everybody", nil, nil, VerbSend, "bob", 0},
		{"oneself is a target like any", object{"send": []string{"bob"}}, nil, VerbSend, "alice", 23},
		{"empty send is nobody", object{"send": []string{}}, nil, VerbSend, "bob", 23},
		{"send fits", object{"send": []string{"a", "b*"}}, nil, VerbSend, "bob", 0},
		{"absent see is nobody", nil, nil, VerbSee, "bob", 23},
		{"see all", object{"see": []string{"*"}}, nil, VerbSee, "bob", 0},
		{"empty see is nobody", object{"see": []string{}}, nil, VerbSee, "bob", 23},
		{"unknown verb", object{"see": []string{"*"}}, nil, "own", "bob", 23},
		{"hook says no", nil, secretText, VerbSend, "bob", 23},
		{"hook chooses", nil, fmt.Errorf("quota: %w", &Refusal{Code: 1111, Detail: "later"}), VerbSend, "bob", 1111},
		{"hook cannot turn no into ok", nil, &Refusal{}, VerbSend, "bob", 23},
		{"hook cannot allow", object{"send": []string{}}, nil, VerbSend, "bob", 23},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, refusal := ring.verify(hs(h, good(tt.claims)), authNow)
			if refusal != nil {
				t.Fatal(refusal)
			}
			hook := func(_ context.Context, a Action) error {
				if a.App != "clinic" || a.User != "alice" || a.Target != tt.target {
					t.Errorf("hook saw %+v", a)
				}
				return tt.hook
			}
			var got wire.Code
			err := authorize(t.Context(), c, hook, Action{App: "forged", User: "forged", Verb: tt.verb, Target: tt.target, Kind: "command"})
			if err != nil {
				got = err.Code
				if strings.Contains(err.Detail, "1234") {
					t.Error("the hook's own text reached the client")
				}
			}
			if got != tt.want {
				t.Errorf("authorize = %v, want code %d", err, tt.want)
			}
		})
	}
	if err := authorize(t.Context(), claims{}, nil, Action{Verb: VerbSend, Target: "bob"}); err == nil {
		t.Error("empty claims may send")
	}
}

func TestMintedTokensVerify(t *testing.T) {
	k := makeAuthKeys()
	dir := t.TempDir()
	write := func(name string, private any) string {
		der, err := x509.MarshalPKCS8PrivateKey(private)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ed, rs := write("ed.pem", k.edPrivate), write("rsa.pem", k.rsa)
	ring := mustKeyring(t, authConfig())
	for _, key := range []Key{
		{Algorithm: HS256, Secret: NewSecret([]byte(clinicSecret))},
		{ID: "ed", Algorithm: EdDSA, PrivateKeyFile: ed},
		{ID: "rsa", Algorithm: RS256, PrivateKeyFile: rs},
	} {
		token, err := mintAt(authNow, key, "clinic", "bob", time.Hour, []string{}, []string{"a*"})
		if err != nil {
			t.Fatal(err)
		}
		c, refusal := ring.verify(token, authNow)
		if refusal != nil {
			t.Fatal(refusal)
		}
		if c.User != "bob" || !c.Expires.Equal(authNow.Add(time.Hour)) || c.Send.match("alice") || !c.See.match("alice") {
			t.Errorf("%s: claims = %+v", key.Algorithm, c)
		}
	}
	bad := map[string]Key{
		"no private key": {ID: "ed", Algorithm: EdDSA},
		"wrong private":  {ID: "ed", Algorithm: EdDSA, PrivateKeyFile: rs},
		"short secret":   {Algorithm: HS256, Secret: NewSecret([]byte("short"))},
		"no algorithm":   {Secret: NewSecret([]byte(clinicSecret))},
	}
	for name, key := range bad {
		if _, err := Mint(key, "clinic", "bob", time.Hour, nil, nil); err == nil {
			t.Errorf("%s: Mint succeeded", name)
		}
	}
	key := Key{Algorithm: HS256, Secret: NewSecret([]byte(clinicSecret))}
	if _, err := Mint(key, "clinic", "b\nb", time.Hour, nil, nil); err == nil {
		t.Error("Mint made a token for a bad user")
	}
	if _, err := Mint(key, "clinic", "bob", 0, nil, nil); err == nil {
		t.Error("Mint made a token that is never valid")
	}
	if _, err := Mint(key, "clinic", "bob", time.Hour, []string{`\`}, nil); err == nil {
		t.Error("Mint made a token with a bad pattern")
	}
}

func FuzzVerify(f *testing.F) {
	ring := mustKeyring(f, authConfig())
	f.Add(segment(object{"alg": "HS256"}), segment(good(nil)), "")
	f.Add(segment(object{"alg": "none", "kid": "ed"}), segment(good(object{"aud": []string{"two"}})), "AA")
	f.Add("", "", "..")
	f.Fuzz(func(t *testing.T, head, body, sig string) {
		// Nobody here has a key, so nothing may pass.
		for _, token := range []string{head + "." + body + "." + sig, segment(head) + "." + segment(body) + "." + sig} {
			if _, err := ring.verify(token, authNow); err == nil {
				t.Errorf("%q passed", token)
			}
		}
		// With a good signature any claims may come: no panic, and never a bad user.
		if c, err := ring.verify(hs(object{"alg": "HS256"}, body), authNow); err == nil && wire.CheckUser(c.User) != nil {
			t.Errorf("user %q passed", c.User)
		}
	})
}
