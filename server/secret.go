package server

import (
	"crypto/subtle"
	"log/slog"
)

// redacted is what every way of printing a Secret shows.
const redacted = "[redacted]"

// Secret holds the bytes of a shared secret and shows them to nobody: fmt, slog,
// JSON and YAML all print "[redacted]". The zero value is no secret at all.
//
// The bytes sit behind a function on purpose. fmt and debug printers do not ask
// the methods of an unexported field, they print what is in it; of a function
// they can only print the address (case 31).
type Secret struct {
	reveal func() []byte
}

// NewSecret keeps a copy of b.
func NewSecret(b []byte) Secret {
	if len(b) == 0 {
		return Secret{}
	}
	kept := append([]byte(nil), b...)
	return Secret{reveal: func() []byte { return kept }}
}

// IsZero reports whether there is no secret.
func (s Secret) IsZero() bool { return s.reveal == nil }

// String returns "[redacted]", or nothing if there is no secret.
func (s Secret) String() string {
	if s.IsZero() {
		return ""
	}
	return redacted
}

// GoString is String, for %#v.
func (s Secret) GoString() string { return "server.Secret{" + s.String() + "}" }

// LogValue is String, for slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText is String, for JSON and other encoders.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalJSON is String, for JSON.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + s.String() + `"`), nil }

// MarshalYAML is String, for YAML.
func (s Secret) MarshalYAML() (any, error) { return s.String(), nil }

// bytes returns the secret itself, which the caller must neither change nor keep.
func (s Secret) bytes() []byte {
	if s.IsZero() {
		return nil
	}
	return s.reveal()
}

// equal compares two secrets in constant time for their length.
func (s Secret) equal(other Secret) bool {
	return subtle.ConstantTimeCompare(s.bytes(), other.bytes()) == 1
}
