package server

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/dian-im/dian/internal/wire"
)

// Mint makes a token for user in app that is valid from now for ttl, signed with
// key: an HS256 key's Secret, or the PrivateKeyFile of another one. send and see
// are the user patterns of the claims of that name; nil leaves a claim away, which
// means everybody for send and nobody for see, and an empty list means nobody.
func Mint(key Key, app, user string, ttl time.Duration, send, see []string) (string, error) {
	return mintAt(time.Now(), key, app, user, ttl, send, see)
}

// mintAt is Mint at a given time.
func mintAt(now time.Time, key Key, app, user string, ttl time.Duration, send, see []string) (string, error) {
	if err := wire.CheckApp(app); err != nil {
		return "", fmt.Errorf("make a token: %w", err)
	}
	if err := wire.CheckUser(user); err != nil {
		return "", fmt.Errorf("make a token: %w", err)
	}
	if ttl < time.Second {
		return "", errors.New("make a token: it must be valid for at least 1s")
	}
	end := now.Add(ttl).Unix()
	if end > maxTokenSeconds {
		return "", errors.New("make a token: it would outlive the year 9999")
	}
	body := jwt.MapClaims{"aud": app, "sub": user, "iat": now.Unix(), "exp": end}
	for name, list := range map[string][]string{"send": send, "see": see} {
		if _, err := compilePatterns(list); err != nil {
			return "", fmt.Errorf("make a token: %s: %w", name, err)
		}
		if list != nil {
			body[name] = slices.Clone(list)
		}
	}
	method, material, err := key.signer()
	if err != nil {
		return "", fmt.Errorf("make a token: %w", err)
	}
	token := jwt.NewWithClaims(method, body)
	if key.ID != "" {
		token.Header["kid"] = key.ID
	}
	signed, err := token.SignedString(material)
	if err != nil {
		return "", errors.New("make a token: the private key does not fit its algorithm")
	}
	if len(signed) > wire.TokenBytes {
		return "", fmt.Errorf("make a token: it has %d bytes; at most %d are allowed, use fewer patterns", len(signed), wire.TokenBytes)
	}
	return signed, nil
}

// signer returns what Mint signs with.
func (k Key) signer() (jwt.SigningMethod, any, error) {
	if k.Algorithm == HS256 {
		// newVerifyKey refuses what no server would accept.
		if _, err := newVerifyKey(k.ID, HS256, k.Secret, nil); err != nil {
			return nil, nil, err
		}
		return jwt.SigningMethodHS256, k.Secret.bytes(), nil
	}
	if k.Algorithm != EdDSA && k.Algorithm != RS256 {
		return nil, nil, fmt.Errorf("unknown algorithm %q; use HS256, EdDSA or RS256", string(k.Algorithm))
	}
	if k.PrivateKeyFile == "" {
		return nil, nil, fmt.Errorf("an %s key signs with its private key; give its file", string(k.Algorithm))
	}
	data, err := readKeyFile(k.PrivateKeyFile)
	if err != nil {
		return nil, nil, err
	}
	private, err := parsePrivateKey(data)
	if err != nil {
		return nil, nil, fmt.Errorf("private key file %q: %w", k.PrivateKeyFile, err)
	}
	if _, err := newVerifyKey(k.ID, k.Algorithm, Secret{}, private.Public()); err != nil {
		return nil, nil, fmt.Errorf("private key file %q: %w", k.PrivateKeyFile, err)
	}
	if k.Algorithm == EdDSA {
		return jwt.SigningMethodEdDSA, private, nil
	}
	return jwt.SigningMethodRS256, private, nil
}
