// Package names is a table of hostile file names for everybody's tests, and what a
// name must be that is created or shown.
package names

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// A Row is a name as a peer may send it and what it is called where it is safe.
type Row struct {
	Case int    // of the numbered list of threats
	Name string // of the row, unique
	In   string // may be no UTF-8, and longer than the wire takes
	Safe string
}

// All returns the rows of testdata/vectors/names.json.
func All(t testing.TB) []Row {
	t.Helper()
	_, here, _, _ := runtime.Caller(0)
	data, err := os.ReadFile(filepath.Join(filepath.Dir(here), "../../../testdata/vectors/names.json"))
	if err != nil {
		t.Fatal(err)
	}
	var read []struct {
		Case   int
		Name   string
		In     string
		Base64 []byte
		Times  int // In is this often what is written
		Safe   string
	}
	if err := json.Unmarshal(data, &read); err != nil {
		t.Fatal(err)
	}
	var rows []Row
	seen := map[string]bool{}
	for _, r := range read {
		in := strings.Repeat(r.In, max(1, r.Times)) + string(r.Base64)
		if seen[r.Name] {
			t.Fatalf("two rows are named %q", r.Name)
		}
		seen[r.Name] = true
		rows = append(rows, Row{r.Case, r.Name, in, r.Safe})
	}
	if len(rows) < 250 {
		t.Fatalf("%d rows, want at least 250", len(rows))
	}
	return rows
}

// Sendable returns the rows that the wire takes: valid UTF-8 of at most 1,024 bytes.
func Sendable(t testing.TB) []Row {
	t.Helper()
	var rows []Row
	for _, r := range All(t) {
		if utf8.ValidString(r.In) && len(r.In) <= 1<<10 {
			rows = append(rows, r)
		}
	}
	return rows
}

// Broken says what makes name unfit to be created. It knows nothing of how package
// filename works.
func Broken(name string) []string {
	var out []string
	bad := func(broken bool, format string, args ...any) {
		if broken {
			out = append(out, fmt.Sprintf(format, args...))
		}
	}
	folded := norm.NFKC.String(name)
	bad(!utf8.ValidString(name), "is not UTF-8")
	bad(len(name) == 0 || len(name) > 255, "has %d bytes", len(name))
	bad(strings.ContainsAny(folded, `/\`), "has a slash, or one when it is folded")
	bad(strings.ContainsAny(name, `<>:"|?*`), "has a character that Windows forbids")
	bad(strings.Trim(folded, ". ") == "", "is only dots and spaces")
	bad(strings.HasSuffix(name, ".") || strings.HasSuffix(name, " "), "ends in a dot or space")
	bad(!filepath.IsLocal(name) || filepath.Base(name) != name, "is not a plain name")
	for _, r := range Raw(name) {
		bad(true, "has %U", r)
	}
	stem, _, _ := strings.Cut(strings.ToUpper(folded), ".")
	switch stem = strings.TrimRightFunc(stem, unicode.IsSpace); { // " CON" is none
	case len(stem) == 4 && (strings.HasPrefix(stem, "COM") || strings.HasPrefix(stem, "LPT")):
		bad(stem[3] >= '0' && stem[3] <= '9', "is a device")
	default:
		for _, device := range []string{"CON", "PRN", "AUX", "NUL", "CLOCK$", "CONIN$", "CONOUT$"} {
			bad(stem == device, "is a device")
		}
	}
	return out
}

// Raw returns the characters of text that must never reach a terminal, a log or a
// header as they are: controls, C1 too; what changes the direction of text; and what
// shows nothing. Bytes that are no UTF-8 are reported as U+FFFD if text has no such
// character by itself.
func Raw(text string) []rune {
	var out []rune
	for i, r := range text {
		_, width := utf8.DecodeRuneInString(text[i:])
		switch {
		case r == utf8.RuneError && width == 1,
			r < ' ', r >= 0x7F && r < 0xA0,
			unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Bidi_Control, unicode.Variation_Selector,
				unicode.Other_Default_Ignorable_Code_Point, unicode.Noncharacter_Code_Point),
			r == 0x2800:
			out = append(out, r)
		}
	}
	return out
}
