package filename

import (
	"path/filepath"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
	"pgregory.net/rapid"

	"github.com/dian-im/dian/internal/filename/names"
)

// Cases 20, 57, 59 to 63, 68: what each hostile name of the table becomes.
func TestHostileNamesBecomeSafe(t *testing.T) {
	for _, row := range names.All(t) {
		if got := Safe(row.In); got != row.Safe {
			t.Errorf("case %d, %s: Safe(%.80q) = %q, want %q", row.Case, row.Name, row.In, got, row.Safe)
		}
		checkSafe(t, row.In)
	}
}

// checkSafe holds Safe to everything that it promises, for the name and for what
// becomes of it when names are taken.
func checkSafe(t interface{ Errorf(string, ...any) }, in string) {
	got := Safe(in)
	for _, i := range []int{0, 1, 9_999} {
		for _, broken := range names.Broken(Numbered(got, i)) {
			t.Errorf("Safe(%.200q) = %q, and number %d %s", in, got, i, broken)
		}
	}
	switch {
	case len(got) > maxSafe:
		t.Errorf("Safe(%.200q) has %d bytes", in, len(got))
	case !utf8.ValidString(got) || !norm.NFC.IsNormalString(got):
		t.Errorf("Safe(%.200q) = %q is not UTF-8 in NFC", in, got)
	case reserved(got) || trimEnd(got) != got:
		t.Errorf("Safe(%.200q) = %q is not a name on Windows", in, got)
	case Safe(got) != got:
		t.Errorf("Safe(%.200q) = %q, and of that %q", in, got, Safe(got))
	}
}

// cases 57 to 63
func TestSafeNameIsSafeWhateverComes(t *testing.T) {
	var pieces []string
	for _, row := range names.All(t) {
		if len(row.In) <= 300 {
			pieces = append(pieces, row.In)
		}
	}
	pieces = append(pieces, "CON", "nul", "com", "¹", "1", ".", "..", "/", `\`, ":", " ", "\u0338", "<", "\u0301", "e", "(", ")", "_",
		"\u200d", "\u202e", "\xff", "\x00", "\n", strings.Repeat("x", 120), strings.Repeat("é", 61), strings.Repeat("\u0301", 40), ".txt", "\u212a", "㌀")
	hostile := rapid.SampledFrom(pieces)
	rapid.Check(t, func(t *rapid.T) {
		checkSafe(t, strings.Join(rapid.SliceOfN(hostile, 0, 12).Draw(t, "pieces"), "")+rapid.String().Draw(t, "rest"))
	})
}

// Every character there is. A newer Unicode that adds one which folds to a slash
// fails here.
func TestNoCharacterBecomesASlash(t *testing.T) {
	for r := rune(0); r <= unicode.MaxRune; r++ {
		if !utf8.ValidRune(r) {
			continue
		}
		s := safeRune(r)
		if s != r && s != '_' {
			t.Errorf("%U becomes %U", r, s)
		}
		if folded := norm.NFKC.String(string(s)); strings.ContainsAny(folded, `/\`) && r != '/' && r != '\\' {
			t.Errorf("%U stays and folds to %q", r, folded)
		}
		if decomposes := norm.NFKD.PropertiesString(string(r)).Decomposition() != nil; r > 0x3000 && r%64 != 0 && (!decomposes || unicode.Is(unicode.Hangul, r)) {
			continue // tens of thousands that nothing happens to
		}
		checkSafe(t, string(r)+".."+string(r)+"x"+string(r))
		checkSafe(t, "CON"+string(r)+"\u0301.txt")
	}
}

func TestSafeNameIsAFileOfItsFolder(t *testing.T) {
	for _, row := range names.All(t) {
		if path := filepath.Join("folder", Safe(row.In)); filepath.Dir(path) != "folder" || !filepath.IsLocal(path) {
			t.Errorf("%s: %q", row.Name, path)
		}
	}
}

func FuzzSafeName(f *testing.F) {
	for _, row := range names.All(f) {
		if len(row.In) <= 6_000 {
			f.Add(row.In)
		}
	}
	f.Fuzz(func(t *testing.T, in string) { checkSafe(t, in) })
}
