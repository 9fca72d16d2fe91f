package server

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/golang-jwt/jwt/v5"
)

// Algorithm is how a key signs tokens. It belongs to the key: what a token's
// header says can only agree with it (case 21).
type Algorithm string

// The algorithms that a key may have.
const (
	HS256 Algorithm = "HS256" // HMAC with SHA-256: issuer and server share a Secret
	EdDSA Algorithm = "EdDSA" // Ed25519
	RS256 Algorithm = "RS256" // RSA PKCS #1 v1.5 with SHA-256, 2048 bits or more
)

// Bounds of key material.
const (
	minSecretBytes  = 32      // RFC 7518 section 3.2: as long as the hash
	maxSecretBytes  = 4 << 10 // nobody needs more; a wrong file would have
	minRSABits      = 2048
	maxRSABits      = 8192 // a check costs time that grows with the square
	maxKeyFileBytes = 1 << 20
	maxKeyIDBytes   = 256
	maxKeysPerApp   = 256
)

// Key is one key whose tokens an app accepts. Exactly one of Secret, PublicKey,
// PublicKeyFile and JWKSFile says what the key is. Files are read by Check, New
// and a reload, never in between, and nothing is ever fetched.
type Key struct {
	// ID is the kid that tokens name the key by. At most one key of an app may
	// go without: it is the one for tokens that carry no kid. With JWKSFile it
	// stays empty, the file has the kids.
	ID string

	// Algorithm is required, except with JWKSFile.
	Algorithm Algorithm

	// Secret is for HS256: 32 bytes or more, random.
	Secret Secret

	// PublicKey is an ed25519.PublicKey for EdDSA or an *rsa.PublicKey for RS256.
	PublicKey crypto.PublicKey

	// PublicKeyFile is a PEM file with a PUBLIC KEY (or RSA PUBLIC KEY).
	PublicKeyFile string

	// JWKSFile is a JSON file with a JWK Set (RFC 7517): Ed25519, RSA and secret
	// (oct) keys. Keys whose "use" is not "sig" are passed over; any other key
	// that cannot be used is an error. It must not contain private keys.
	JWKSFile string

	// PrivateKeyFile is a PEM file with the PRIVATE KEY (PKCS #8) of an EdDSA or
	// RS256 key. Only Mint reads it; a server does not need it.
	PrivateKeyFile string
}

// verifyKey is a Key in the form that checks signatures.
type verifyKey struct {
	id        string
	algorithm Algorithm
	secret    Secret           // HS256
	public    crypto.PublicKey // EdDSA: ed25519.PublicKey, RS256: *rsa.PublicKey
	parser    *jwt.Parser      // knows this key's algorithm and no other
}

// newVerifyKey checks the material of a key and makes it ready for use.
func newVerifyKey(id string, algorithm Algorithm, secret Secret, public crypto.PublicKey) (*verifyKey, error) {
	if len(id) > maxKeyIDBytes {
		return nil, fmt.Errorf("the key's id (kid) has %d bytes; at most %d are allowed", len(id), maxKeyIDBytes)
	}
	switch algorithm {
	case HS256:
		if public != nil {
			return nil, errors.New("HS256 needs a secret and no public key; for a public key the algorithm is EdDSA or RS256")
		}
		switch n := len(secret.bytes()); {
		case n == 0:
			return nil, errors.New("HS256 needs a secret")
		case n < minSecretBytes:
			return nil, fmt.Errorf("HS256 secret has %d bytes; use at least %d", n, minSecretBytes)
		case n > maxSecretBytes:
			return nil, fmt.Errorf("HS256 secret has %d bytes; use at most %d", n, maxSecretBytes)
		}
	case EdDSA:
		key, ok := public.(ed25519.PublicKey)
		switch {
		case !secret.IsZero():
			return nil, errors.New("EdDSA needs a public key and no secret")
		case public == nil:
			return nil, errors.New("EdDSA needs a public key")
		case !ok:
			return nil, fmt.Errorf("EdDSA needs an Ed25519 public key, this is %s", describeKey(public))
		case len(key) != ed25519.PublicKeySize:
			return nil, fmt.Errorf("Ed25519 public key has %d bytes; it must have %d", len(key), ed25519.PublicKeySize)
		}
	case RS256:
		key, ok := public.(*rsa.PublicKey)
		switch {
		case !secret.IsZero():
			return nil, errors.New("RS256 needs a public key and no secret")
		case public == nil:
			return nil, errors.New("RS256 needs a public key")
		case !ok:
			return nil, fmt.Errorf("RS256 needs an RSA public key, this is %s", describeKey(public))
		}
		if err := checkRSA(key); err != nil {
			return nil, err
		}
	case "":
		return nil, errors.New("the key has no algorithm; set HS256, EdDSA or RS256")
	default:
		return nil, fmt.Errorf("unknown algorithm %q; use HS256, EdDSA or RS256", string(algorithm))
	}
	return &verifyKey{
		id: id, algorithm: algorithm, secret: secret, public: public,
		parser: jwt.NewParser(
			jwt.WithValidMethods([]string{string(algorithm)}),
			jwt.WithStrictDecoding(),
			jwt.WithoutClaimsValidation(), // readClaims does it, with our codes and skews
		),
	}, nil
}

// checkRSA refuses keys that are too weak, too slow or no keys at all.
func checkRSA(key *rsa.PublicKey) error {
	if key == nil || key.N == nil || key.N.Sign() <= 0 {
		return errors.New("RSA public key has no modulus")
	}
	switch bits := key.N.BitLen(); {
	case bits < minRSABits:
		return fmt.Errorf("RSA public key has %d bits; use at least %d", bits, minRSABits)
	case bits > maxRSABits:
		return fmt.Errorf("RSA public key has %d bits; use at most %d", bits, maxRSABits)
	case key.N.Bit(0) == 0:
		return errors.New("RSA public key has an even modulus: it is damaged")
	case key.E < 3 || key.E&1 == 0 || int64(key.E) > 1<<31-1:
		return fmt.Errorf("RSA public key has the exponent %d; it must be odd, between 3 and 2^31-1", key.E)
	}
	return nil
}

// describeKey names a public key's kind for an error.
func describeKey(public crypto.PublicKey) string {
	switch public.(type) {
	case ed25519.PublicKey:
		return "an Ed25519 key"
	case *rsa.PublicKey:
		return "an RSA key"
	default:
		return fmt.Sprintf("a %T", public)
	}
}

// material returns what golang-jwt checks a signature with.
func (k *verifyKey) material() any {
	if k.algorithm == HS256 {
		return k.secret.bytes()
	}
	return k.public
}

// same reports whether two keys accept the same signatures.
func (k *verifyKey) same(other *verifyKey) bool {
	if k.algorithm != other.algorithm {
		return false
	}
	switch public := k.public.(type) {
	case ed25519.PublicKey:
		return public.Equal(other.public)
	case *rsa.PublicKey:
		return public.Equal(other.public)
	}
	return k.secret.equal(other.secret)
}

// load turns a Key into what it stands for: one key, or those of a JWKS file.
func (k Key) load() ([]*verifyKey, error) {
	sources := 0
	for _, given := range []bool{!k.Secret.IsZero(), k.PublicKey != nil, k.PublicKeyFile != "", k.JWKSFile != ""} {
		if given {
			sources++
		}
	}
	switch {
	case sources == 0:
		return nil, errors.New("the key is empty; give a secret, a public key, a public key file or a JWKS file")
	case sources > 1:
		return nil, errors.New("give only one of secret, public key, public key file and JWKS file")
	case k.JWKSFile != "":
		if k.ID != "" || k.Algorithm != "" {
			return nil, errors.New("with a JWKS file leave id and algorithm away; the file has them")
		}
		data, err := readKeyFile(k.JWKSFile)
		if err != nil {
			return nil, err
		}
		keys, err := parseJWKS(data)
		if err != nil {
			return nil, fmt.Errorf("JWKS file %q: %w", k.JWKSFile, err)
		}
		return keys, nil
	}
	public := k.PublicKey
	if k.PublicKeyFile != "" {
		data, err := readKeyFile(k.PublicKeyFile)
		if err != nil {
			return nil, err
		}
		if public, err = parsePublicKey(data); err != nil {
			return nil, fmt.Errorf("public key file %q: %w", k.PublicKeyFile, err)
		}
	}
	key, err := newVerifyKey(k.ID, k.Algorithm, k.Secret, public)
	if err != nil {
		return nil, err
	}
	return []*verifyKey{key}, nil
}

// parsePublicKey reads one public key in PEM.
func parsePublicKey(data []byte) (crypto.PublicKey, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("no PEM block; it should begin with -----BEGIN PUBLIC KEY-----")
	}
	switch block.Type {
	case "PUBLIC KEY":
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, errors.New("the PUBLIC KEY block cannot be read; it is damaged or of an unknown kind")
		}
		return key, nil
	case "RSA PUBLIC KEY":
		key, err := x509.ParsePKCS1PublicKey(block.Bytes)
		if err != nil {
			return nil, errors.New("the RSA PUBLIC KEY block cannot be read; it is damaged")
		}
		return key, nil
	case "PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "OPENSSH PRIVATE KEY":
		return nil, errors.New("this is a private key; the server needs only its public half (openssl pkey -pubout)")
	default:
		return nil, fmt.Errorf("a PEM block %.40q; it should be PUBLIC KEY", block.Type)
	}
}

// parsePrivateKey reads one private key in PEM, PKCS #8.
func parsePrivateKey(data []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("no PEM block that begins with -----BEGIN PRIVATE KEY----- (PKCS #8, not encrypted)")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("the PRIVATE KEY block cannot be read; it is damaged or of an unknown kind")
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, errors.New("the PRIVATE KEY cannot sign")
	}
	return signer, nil
}

// readKeyFile reads a small file that an operator has named. What is in it does
// not occur in the error.
func readKeyFile(path string) ([]byte, error) {
	return readSmallFile(path, maxKeyFileBytes)
}

// readSmallFile reads a regular file of at most limit bytes. Pipes and devices
// are refused: reading them could wait for ever.
func readSmallFile(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", path, bare(err))
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read %q: not a regular file", path)
	}
	f, err := os.Open(filepath.Clean(path))
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", path, bare(err))
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", path, bare(err))
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("read %q: larger than %d bytes; is it the right file?", path, limit)
	}
	return data, nil
}

// bare takes the operation and path off a file error, which our text has already.
func bare(err error) error {
	if e, ok := errors.AsType[*os.PathError](err); ok {
		return e.Err
	}
	return err
}
