package server

import (
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
)

// jwk holds the members of a JSON Web Key (RFC 7517, RFC 7518 section 6,
// RFC 8037) that we read. The private members are here to be refused.
type jwk struct {
	Kty, Kid, Use, Alg, Crv string
	X, N, E, K              string
	D                       json.RawMessage
}

// parseJWKS reads a JWK Set. Every key must be usable, because a key that is
// silently left out shows only when its tokens are refused; keys for another
// use than signing are the exception. Errors name a key by its place: a kid may
// be long and odd, and material must never be printed.
func parseJWKS(data []byte) ([]*verifyKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(data, &set); err != nil {
		return nil, errors.New(`not a JWK Set; it should be a JSON object {"keys": [...]}`)
	}
	switch n := len(set.Keys); {
	case n == 0:
		return nil, errors.New(`no keys; it should be a JSON object {"keys": [...]}`)
	case n > maxKeysPerApp:
		return nil, fmt.Errorf("%d keys; at most %d are allowed", n, maxKeysPerApp)
	}
	var keys []*verifyKey
	for i, raw := range set.Keys {
		var k jwk
		if err := json.Unmarshal(raw, &k); err != nil {
			return nil, fmt.Errorf("keys[%d]: not a JWK; a member has the wrong type", i)
		}
		if k.Use != "" && k.Use != "sig" {
			continue
		}
		if k.Kid == "" && len(set.Keys) > 1 {
			return nil, fmt.Errorf("keys[%d]: no kid; it is required where there are several keys", i)
		}
		key, err := k.load()
		if err != nil {
			return nil, fmt.Errorf("keys[%d]: %w", i, err)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, errors.New(`no keys for signatures; their "use" should be "sig" or absent`)
	}
	return keys, nil
}

// load makes one JWK ready for use.
func (k jwk) load() (*verifyKey, error) {
	if len(k.D) > 0 {
		return nil, errors.New(`a private key (member "d"); keep only its public half here`)
	}
	switch k.Kty {
	case "OKP":
		if k.Crv != "Ed25519" {
			return nil, fmt.Errorf(`unsupported curve %.20q; use Ed25519`, k.Crv)
		}
		if err := k.agrees(EdDSA); err != nil {
			return nil, err
		}
		x, err := member("x", k.X, 64)
		if err != nil {
			return nil, err
		}
		return newVerifyKey(k.Kid, EdDSA, Secret{}, ed25519.PublicKey(x))
	case "RSA":
		if err := k.agrees(RS256); err != nil {
			return nil, err
		}
		n, err := member("n", k.N, maxRSABits/8+1)
		if err != nil {
			return nil, err
		}
		e, err := member("e", k.E, 8)
		if err != nil {
			return nil, err
		}
		exponent := new(big.Int).SetBytes(e)
		if exponent.BitLen() > 31 { // more would not fit an int everywhere
			return nil, errors.New("RSA exponent is larger than 2^31-1")
		}
		return newVerifyKey(k.Kid, RS256, Secret{}, &rsa.PublicKey{
			N: new(big.Int).SetBytes(n),
			E: int(exponent.Int64()),
		})
	case "oct":
		if err := k.agrees(HS256); err != nil {
			return nil, err
		}
		secret, err := member("k", k.K, maxSecretBytes)
		if err != nil {
			return nil, err
		}
		return newVerifyKey(k.Kid, HS256, NewSecret(secret), nil)
	case "":
		return nil, errors.New("no kty")
	default:
		return nil, fmt.Errorf(`unsupported kty %.20q; use OKP (Ed25519), RSA or oct`, k.Kty)
	}
}

// agrees checks the optional member alg against the only one we use for this kty.
func (k jwk) agrees(want Algorithm) error {
	if k.Alg != "" && k.Alg != string(want) {
		return fmt.Errorf("unsupported alg %.20q for kty %s; use %s", k.Alg, k.Kty, string(want))
	}
	return nil
}

// member decodes one base64url member of at most limit bytes.
func member(name, text string, limit int) ([]byte, error) {
	if text == "" {
		return nil, fmt.Errorf("member %q is missing", name)
	}
	if base64.RawURLEncoding.DecodedLen(len(text)) > limit {
		return nil, fmt.Errorf("member %q has more than %d bytes", name, limit)
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("member %q is not base64url without padding", name)
	}
	return b, nil
}
