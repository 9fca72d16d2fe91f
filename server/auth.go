package server

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/dian-im/dian/internal/wire"
)

// tokenSkew is how far the issuer's clock may run ahead of ours: it is granted to
// nbf and iat. exp gets none, so that a session can be ended at exactly the
// moment that its token names.
const tokenSkew = time.Minute

// maxTokenSeconds is the last second of the year 9999. Times beyond it, in a
// claim, are mistakes and would overflow later arithmetic.
const maxTokenSeconds = 253402300799

// claims is what a verified token says. The zero value may do nothing.
type claims struct {
	App, User string
	Expires   time.Time
	Send, See patterns

	key    *verifyKey   // whose signature it was, see keyring.trusts
	issued time.Time    // iat; zero if the token has none
	marks  [2]tokenMark // what a revocation may name it by: its text's, its jti's or none

	address string // who showed it, for audit and admin; see clientAddr

	elsewhere bool // another node has verified it, and asks what it may do; see far
}

// keyring knows the keys of all apps. Its methods may be called at the same time
// as reload, and see either the old keys or the new ones.
type keyring struct {
	log     *slog.Logger
	apps    atomic.Pointer[map[string]*appKeys]
	revoked *revocations // set before use; nil has none

	mu      sync.Mutex
	changed chan struct{} // guarded by mu; closed at the next change; nil if nobody waits
}

// appKeys are the keys of one app, by their id, and what else a reload changes.
type appKeys struct {
	issuer  string // what iss must be, unless empty
	byID    map[string]*verifyKey
	maxFile int64 // bytes; 0: as in Config
}

// maxFileBytes returns the app's own limit for one file, 0 for none.
func (k *keyring) maxFileBytes(app string) int64 {
	if keys := (*k.apps.Load())[app]; keys != nil {
		return keys.maxFile
	}
	return 0
}

// newKeyring reads the keys of cfg's apps.
func newKeyring(cfg Config) (*keyring, error) {
	k := &keyring{log: cfg.Logger}
	if k.log == nil {
		k.log = slog.New(slog.DiscardHandler)
	}
	return k, k.reload(cfg)
}

// reload replaces all keys by those of cfg's apps, at once. After an error the
// keys are those of before. Sessions whose token is no longer trusted are the
// caller's to end.
func (k *keyring) reload(cfg Config) error {
	apps, err := cfg.loadKeys()
	if err != nil {
		return err
	}
	k.apps.Store(&apps)
	return nil
}

// trusts reports whether a token that was verified before would still find its
// key, the same app having the same key under the same id, and is not revoked
// (case 30). Every path asks this, or verify, before it lets anything happen.
func (k *keyring) trusts(c claims) bool {
	app := (*k.apps.Load())[c.App]
	if app == nil || c.key == nil {
		return false
	}
	now := app.byID[c.key.id]
	return now != nil && now.same(c.key) && !k.revoked.refuse(c, time.Now())
}

// change returns a channel that is closed when trusts may answer otherwise.
func (k *keyring) change() <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.changed == nil {
		k.changed = make(chan struct{})
	}
	return k.changed
}

// tell closes the channel of change.
func (k *keyring) tell() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.changed != nil {
		close(k.changed)
		k.changed = nil
	}
}

// verify checks a token and returns what it says. The codes are those of
// docs/protocol.md section 3: 19 if it cannot be read, 20 if there is no such
// app, 21 if it is not good here and now, 18 if that is only because its time is
// over. A token that is expired and badly signed is badly signed (case 26).
//
// Nothing of a token counts before its signature does, except for aud and kid,
// which select the key; they are looked up in maps and go nowhere else (case 22).
func (k *keyring) verify(token string, now time.Time) (claims, *wire.Error) {
	c, refusal, reason := k.check(token, now)
	if refusal != nil {
		// The reason is for the operator. It holds nothing of the token, and
		// the client is told less: refusals of kind 21 look alike.
		k.log.Debug("token refused", "code", uint32(refusal.Code), "reason", reason)
		return claims{}, refusal
	}
	return c, nil
}

// check does the work of verify and adds the reason of a refusal for the log.
func (k *keyring) check(token string, now time.Time) (claims, *wire.Error, string) {
	c, refusal, reason := k.prove(token)
	if refusal != nil {
		return claims{}, refusal, reason
	}
	refused := func(reason string) (claims, *wire.Error, string) {
		return claims{}, &wire.Error{Code: wire.TokenRefused}, reason
	}
	switch {
	case !now.Before(c.Expires):
		return claims{}, &wire.Error{Code: wire.TokenExpired}, "expired"
	case now.Add(tokenSkew).Before(c.notBefore):
		return refused("not valid yet (nbf)")
	case now.Add(tokenSkew).Before(c.issued):
		return refused("issued in the future (iat)")
	case c.keys.issuer != "" && c.issuer != c.keys.issuer:
		return refused("iss is not the app's issuer")
	case wire.CheckUser(c.User) != nil:
		return refused("sub is not a user id")
	case k.revoked.refuse(c.claims, now):
		return refused("revoked")
	}
	return c.claims, nil, ""
}

// prove checks a token's form and signature, and reads what it says. It does not
// say whether that counts now.
func (k *keyring) prove(token string) (tokenClaims, *wire.Error, string) {
	malformed := func(reason string) (tokenClaims, *wire.Error, string) {
		return tokenClaims{}, &wire.Error{Code: wire.TokenMalformed, Detail: reason}, reason
	}
	refused := func(reason string) (tokenClaims, *wire.Error, string) {
		return tokenClaims{}, &wire.Error{Code: wire.TokenRefused}, reason
	}

	head, body, ok := splitToken(token)
	if !ok {
		return malformed("not a JWT in compact form of at most 8192 bytes")
	}
	header, ok := decodeObject(head)
	if !ok {
		return malformed("the header is not a JSON object in base64url")
	}
	unproven, ok := decodeObject(body)
	if !ok {
		return malformed("the claims are not a JSON object in base64url")
	}
	if _, there := header["crit"]; there {
		return refused("the header asks for extensions (crit)")
	}
	appID, ok := audience(unproven["aud"])
	if !ok {
		return refused("aud is not exactly one app")
	}
	app := (*k.apps.Load())[appID]
	if app == nil {
		return tokenClaims{}, &wire.Error{Code: wire.NoSuchApp}, "no such app"
	}
	kid, ok := keyID(header)
	if !ok {
		return refused("kid is not a text")
	}
	key := app.find(kid)
	if key == nil {
		return refused("the app has no key of this kid")
	}
	var proven rawClaims
	_, err := key.parser.ParseWithClaims(token, &proven, func(*jwt.Token) (any, error) { return key.material(), nil })
	switch {
	case errors.Is(err, jwt.ErrTokenMalformed):
		return malformed("a segment cannot be decoded")
	case err != nil:
		return refused("the signature or algorithm does not fit the key")
	}

	c, problem := readClaims(proven.members)
	if problem != "" {
		return malformed(problem)
	}
	c.App, c.key, c.keys, c.marks[0] = appID, key, app, markOfToken(token)
	return c, nil, ""
}

// find returns the key for a kid. Without a kid it is the key without an id, or
// the only one there is; it is never found by trying.
func (a *appKeys) find(kid string) *verifyKey {
	if key := a.byID[kid]; key != nil || kid != "" || len(a.byID) != 1 {
		return key
	}
	for _, only := range a.byID {
		return only
	}
	return nil
}

// splitToken returns the first two of a compact JWT's three segments. The size
// is checked before anything else (case 27), and the alphabet here because
// encoding/base64 passes over line breaks.
func splitToken(token string) (head, body string, ok bool) {
	if len(token) > wire.TokenBytes {
		return "", "", false
	}
	dots := 0
	for i := range len(token) {
		switch c := token[i]; {
		case c == '.':
			dots++
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return "", "", false
		}
	}
	if dots != 2 {
		return "", "", false
	}
	head, rest, _ := strings.Cut(token, ".")
	body, _, _ = strings.Cut(rest, ".")
	return head, body, true
}

// decodeObject reads a segment's JSON object. A map and not a struct, because
// encoding/json would take "AUD" for "aud" in a struct. Of members of the same
// name the last one counts, for us and golang-jwt alike (RFC 7519 section 4).
func decodeObject(segment string) (map[string]json.RawMessage, bool) {
	data, err := base64.RawURLEncoding.Strict().DecodeString(segment)
	if err != nil {
		return nil, false
	}
	var object map[string]json.RawMessage
	err = json.Unmarshal(data, &object)
	return object, err == nil && object != nil
}

// audience returns the one app that aud names, as a text or a list of one.
func audience(raw json.RawMessage) (string, bool) {
	if one, ok := text(raw); ok {
		return one, one != ""
	}
	list, ok := textList(raw)
	if !ok || len(list) != 1 {
		return "", false
	}
	return list[0], list[0] != ""
}

// keyID returns the header's kid, or "" if there is none.
func keyID(header map[string]json.RawMessage) (string, bool) {
	raw, there := header["kid"]
	if !there {
		return "", true
	}
	return text(raw)
}

// rawClaims takes the members out of golang-jwt's parser as they are.
type rawClaims struct {
	jwt.RegisteredClaims // never filled: it only makes rawClaims a jwt.Claims
	members              map[string]json.RawMessage
}

// UnmarshalJSON keeps the members of the object.
func (r *rawClaims) UnmarshalJSON(data []byte) error { return json.Unmarshal(data, &r.members) }

// tokenClaims is claims with what is looked at once.
type tokenClaims struct {
	claims
	keys      *appKeys
	issuer    string
	jti       string
	notBefore time.Time
}

// readClaims reads the claims of a token whose signature is good. The second
// result says what has the wrong form, or nothing.
func readClaims(members map[string]json.RawMessage) (tokenClaims, string) {
	var c tokenClaims
	var ok bool
	if c.Expires, ok = numericDate(members["exp"]); !ok {
		return c, "exp is required and must be a number of seconds"
	}
	for name, at := range map[string]*time.Time{"nbf": &c.notBefore, "iat": &c.issued} {
		if raw, there := members[name]; there {
			if *at, ok = numericDate(raw); !ok {
				return c, name + " must be a number of seconds"
			}
		}
	}
	// sub and iss of a wrong type read as empty, and are refused as such.
	c.User, _ = text(members["sub"])
	c.issuer, _ = text(members["iss"])
	if c.jti, ok = text(members["jti"]); ok {
		c.marks[1] = markOfJTI(c.jti)
	}

	c.Send = everyone()
	for name, to := range map[string]*patterns{"send": &c.Send, "see": &c.See} {
		raw, there := members[name]
		if !there {
			continue
		}
		// Also null is refused: taking it for absent would turn somebody's
		// empty list into "everyone".
		list, ok := textList(raw)
		if !ok {
			return c, name + " must be a list of user patterns"
		}
		var err error
		if *to, err = compilePatterns(list); err != nil {
			return c, name + ": " + err.Error()
		}
	}
	return c, ""
}

// text returns a JSON string.
func text(raw json.RawMessage) (string, bool) {
	if len(raw) == 0 || raw[0] != '"' {
		return "", false
	}
	var s string
	return s, json.Unmarshal(raw, &s) == nil
}

// textList returns a JSON list of strings.
func textList(raw json.RawMessage) ([]string, bool) {
	if len(raw) == 0 || raw[0] != '[' {
		return nil, false
	}
	var elements []json.RawMessage
	if json.Unmarshal(raw, &elements) != nil {
		return nil, false
	}
	list := make([]string, len(elements))
	for i, e := range elements {
		var ok bool
		if list[i], ok = text(e); !ok {
			return nil, false
		}
	}
	return list, true
}

// numericDate returns a JSON number of seconds since 1970 as a time, with its
// fraction.
func numericDate(raw json.RawMessage) (time.Time, bool) {
	if len(raw) == 0 || raw[0] != '-' && (raw[0] < '0' || raw[0] > '9') {
		return time.Time{}, false
	}
	var seconds float64
	if json.Unmarshal(raw, &seconds) != nil || math.Abs(seconds) > maxTokenSeconds {
		return time.Time{}, false
	}
	whole, fraction := math.Modf(seconds)
	return time.Unix(int64(whole), int64(fraction*1e9)), true
}

// Verb is what a user wants to do to another one.
type Verb string

// The verbs that are asked about.
const (
	VerbSend Verb = "send" // send it a command, buffer or file, or go on with one
	VerbSee  Verb = "see"  // know whether it is online
)

// Action is one thing that a user wants to do. Its text form is for programs,
// not for people.
type Action struct {
	App, User string // who; always from a verified token
	Verb      Verb
	Target    string // to whom; a well-formed user id that may not exist
	Kind      string // with VerbSend: "command", "buffer" or "file"
}

// Refusal is an error with which Config.Authorize chooses what the client gets:
// Code (docs/protocol.md section 10; 0 means 23, no permission) and Detail.
type Refusal struct {
	Code   uint32
	Detail string // shown to the client, at most 512 bytes of it
}

// Error returns the detail and the code.
func (r *Refusal) Error() string { return fmt.Sprintf("refused (code %d): %s", r.Code, r.Detail) }

// authorize says whether the holder of c may do a. It is asked on every path,
// for live, resumed and forwarded work alike (case 41): first the token's
// patterns, which know no exception for oneself, then the operator's hook, which
// may only forbid. A hook's error means no: a Refusal in it chooses code and
// detail, any other is 23 and its text stays here.
func authorize(ctx context.Context, c claims, hook func(context.Context, Action) error, a Action) *wire.Error {
	a.App, a.User = c.App, c.User
	allowed := false
	switch a.Verb {
	case VerbSend:
		allowed = c.Send.match(a.Target)
	case VerbSee:
		allowed = c.See.match(a.Target)
	}
	if !allowed {
		return &wire.Error{Code: wire.NoPermission, Detail: "the token does not allow it"}
	}
	if hook == nil {
		return nil
	}
	err := hook(ctx, a)
	if err == nil {
		return nil
	}
	no := &wire.Error{Code: wire.NoPermission}
	if r, ok := errors.AsType[*Refusal](err); ok && r != nil {
		if r.Code != 0 {
			no.Code = wire.Code(r.Code)
		}
		no.Detail = strings.ToValidUTF8(r.Detail[:min(len(r.Detail), wire.DetailBytes)], "")
	}
	return no
}
