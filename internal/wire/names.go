package wire

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
	"golang.org/x/text/unicode/norm"
)

// CheckUser says why s cannot be a user id. A user id is 1 to UserChars
// characters of valid UTF-8 in NFC, compared byte by byte. It holds no control,
// format, line-separator or non-characters, has no space at either end, and is
// not "." or "..". Everything else is allowed, `.`, `*`, `>`, `/` and `@` too:
// whoever builds a path, subject or log line from it must encode it (cases 20, 40).
// The error's text does not repeat s.
func CheckUser(s string) error { return checkName("user id", s, UserChars) }

// CheckApp says why s cannot be an app id: the rules of CheckUser, but at most
// AppChars characters.
func CheckApp(s string) error { return checkName("app id", s, AppChars) }

func checkName(what, s string, chars int) error {
	// The byte length bounds the work before anything looks at the content.
	switch {
	case s == "":
		return errors.New(what + " is empty")
	case len(s) > chars*utf8.UTFMax || utf8.RuneCountInString(s) > chars:
		return errors.New(what + " is longer than " + strconv.Itoa(chars) + " characters")
	case s == "." || s == "..":
		return errors.New(what + " is a dot name")
	case !utf8.ValidString(s):
		return errors.New(what + " is not UTF-8")
	case isPlain(s):
		return nil
	}
	for _, r := range s {
		if unicode.In(r, unicode.Cc, unicode.Cf, unicode.Cs, unicode.Zl, unicode.Zp) || nonCharacter(r) {
			return errors.New(what + " holds a control or invisible character")
		}
	}
	if strings.TrimSpace(s) != s {
		return errors.New(what + " begins or ends with a space")
	}
	if !norm.NFC.IsNormalString(s) {
		return errors.New(what + " is not in Unicode normal form C")
	}
	return nil
}

// isPlain reports whether s is visible ASCII: of that nothing else has to be asked.
func isPlain(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// nonCharacter reports whether Unicode says that r will never be a character.
func nonCharacter(r rune) bool {
	return r >= 0xFDD0 && r <= 0xFDEF || r&0xFFFE == 0xFFFE
}

// CheckSendID says why s cannot be a sendID: only the canonical form of a UUID
// is one, 36 characters, lower case. Its version does not matter.
func CheckSendID(s string) error {
	if !isSendID(s) {
		return &Error{BadSendID, "not a lower-case UUID of 36 characters"}
	}
	return nil
}

func isSendID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
				return false
			}
		}
	}
	return true
}

// NewSendID returns a fresh sendID: a UUIDv7, so ids sort by their time.
func NewSendID() string {
	id, err := uuid.NewV7FromReader(chaCha{})
	if err != nil {
		panic("wire: a reader that does not fail has failed: " + err.Error())
	}
	return id.String()
}

// chaCha reads random bytes from the runtime's ChaCha8, which nobody can foretell
// and which costs no system call.
type chaCha struct{}

func (chaCha) Read(p []byte) (int, error) {
	var word [8]byte
	for rest := p; len(rest) > 0; {
		binary.LittleEndian.PutUint64(word[:], rand.Uint64())
		rest = rest[copy(rest, word[:]):]
	}
	return len(p), nil
}

// Quote returns s in double quotes, fit for a terminal or a log line whatever a
// peer put into it: control, bidirectional, zero-width and other invisible
// characters come as escapes (case 59). Use it for every name from the wire.
func Quote(s string) string {
	q := strconv.Quote(s) // escapes what is not unicode.IsPrint, so Cc, Cf, Zl, Zp and broken UTF-8
	if strings.IndexFunc(q, invisible) < 0 {
		return q
	}
	var b strings.Builder
	for _, r := range q {
		if !invisible(r) {
			b.WriteRune(r)
			continue
		}
		e := strconv.QuoteRuneToASCII(r)
		b.WriteString(e[1 : len(e)-1])
	}
	return b.String()
}

// invisible reports whether r prints as nothing although IsPrint lets it pass:
// Unicode's Default_Ignorable_Code_Point outside of Cf, and the blank braille cell.
func invisible(r rune) bool {
	switch {
	case r < 0x34F:
		return false
	case r == 0x34F, r == 0x115F, r == 0x1160, r == 0x17B4, r == 0x17B5, r == 0x2800,
		r == 0x3164, r == 0xFFA0:
		return true
	}
	return r >= 0x180B && r <= 0x180F || r >= 0xFE00 && r <= 0xFE0F || r >= 0xE0000 && r <= 0xE0FFF
}
