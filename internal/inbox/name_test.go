package inbox

import (
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
	"pgregory.net/rapid"
)

func TestSafeName(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		// case 57
		{"photo.jpg", "photo.jpg"},
		{"../x", "x"}, {"/x", "x"}, {`C:\x`, "x"}, {`\\s\x`, "x"}, {"x/", "x"}, {`a/b\c`, "c"}, {`..\..\x`, "x"},
		{".", "unnamed"}, {"..", "unnamed"}, {"", "unnamed"}, {"/", "unnamed"}, {"../", "unnamed"}, {"...", "unnamed"},
		{"a\x00b", "a_b"}, {"%2e%2e%2fx", "%2e%2e%2fx"}, {"C:x", "C_x"},
		// case 59
		{"a\x1b[31mb\a\n", "a_[31mb__"}, {"exe\u202egpj.exe", "exe_gpj.exe"}, {"a\u200bb\ufeff", "a_b_"}, {"a\u2028b", "a_b"},
		{"a\u3164b\u034f", "a_b_"}, {"\u2066x", "_x"},
		// case 60
		{"CON", "_CON"}, {"nul.txt", "_nul.txt"}, {"COM1", "_COM1"}, {"COM1 ", "_COM1"}, {"com¹", "_com¹"}, {"lpt3.tar.gz", "_lpt3.tar.gz"},
		{"CLOCK$", "_CLOCK$"}, {"CONIN$", "_CONIN$"}, {"conout$.x", "_conout$.x"}, {"aux .c", "_aux .c"}, {"CLOC\u212a$", "_CLOCK$"},
		{"a:b", "a_b"}, {"a. . ", "a"}, {"a\u00a0", "a"}, {"COM10", "COM10"}, {"CONSOLE", "CONSOLE"}, {"NUL:", "NUL_"}, {`a<>:"|?*b`, "a_______b"},
		// case 61
		{"a\xffb\xfe\xfd.txt", "a_b_.txt"}, {strings.Repeat("é", 150) + ".jpeg", strings.Repeat("é", 117) + ".jpeg"},
		{strings.Repeat("a", 5000), strings.Repeat("a", 240)},
		{"a." + strings.Repeat("b", 300), "a." + strings.Repeat("b", 238)},
		{"CON" + strings.Repeat(" ", 300) + "x", "_CON"},
		{"CON." + strings.Repeat("b", 300), "_CON." + strings.Repeat("b", 235)},
		// case 62
		{"e\u0301", "é"}, {"é", "é"},
		// case 63
		{".partial", ".partial"}, {".bashrc", ".bashrc"}, {"-rf", "-rf"}, {"a#b?%41.txt", "a#b_%41.txt"}, {"写真 .jpg", "写真 .jpg"},
	} {
		if got := SafeName(c.in); got != c.want {
			t.Errorf("SafeName(%q) = %q, want %q", c.in, got, c.want)
		}
	}
}

// checkSafe holds name to everything that SafeName promises.
func checkSafe(t interface{ Errorf(string, ...any) }, in string) {
	got := SafeName(in)
	switch {
	case got == "" || got == "." || got == ".." || len(got) > maxSafeName:
		t.Errorf("SafeName(%q) = %q", in, got)
	case !filepath.IsLocal(got) || filepath.Base(got) != got || strings.ContainsAny(got, "/\\:<>\"|?*\x00"):
		t.Errorf("SafeName(%q) = %q is not a plain name", in, got)
	case !utf8.ValidString(got) || !norm.NFC.IsNormalString(got):
		t.Errorf("SafeName(%q) = %q is not UTF-8 in NFC", in, got)
	case reserved(got) || trimEnd(got) != got:
		t.Errorf("SafeName(%q) = %q is not a name on Windows", in, got)
	case SafeName(got) != got:
		t.Errorf("SafeName(%q) = %q, and of that %q", in, got, SafeName(got))
	}
}

// cases 57 to 63
func TestSafeNameIsSafeWhateverComes(t *testing.T) {
	hostile := rapid.SampledFrom([]string{"CON", "nul", "com", "¹", "1", ".", "..", "/", `\`, ":", " ", "\u0338", "<", "\u0301", "e",
		"\u200d", "\u202e", "\xff", "\x00", "\n", strings.Repeat("x", 120), strings.Repeat("é", 61), strings.Repeat("\u0301", 40), ".txt", "\u212a", "㌀"})
	rapid.Check(t, func(t *rapid.T) {
		checkSafe(t, strings.Join(rapid.SliceOfN(hostile, 0, 12).Draw(t, "pieces"), "")+rapid.String().Draw(t, "rest"))
	})
}

func FuzzSafeName(f *testing.F) {
	for _, s := range []string{"a.txt", "../x", "CON ", "a:b", "\xff\xfe", strings.Repeat("é", 200) + ".x", "e\u0301\u202e"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) { checkSafe(t, in) })
}
