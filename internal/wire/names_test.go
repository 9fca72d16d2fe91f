package wire

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/uuid"
)

func TestUserIDs(t *testing.T) { // cases 20, 40
	good := []string{
		"a", "alice@example.com", "a.b", "...", ".a", "*", ">", "a/b", "../x", `C:\x`, "a b", "点对点", "é",
		"🙂", "a'\"<&%", "-rf", strings.Repeat("x", UserChars), strings.Repeat("点", UserChars),
	}
	for _, s := range good {
		if err := CheckUser(s); err != nil {
			t.Errorf("CheckUser(%s) = %v, want nil", Quote(s), err)
		}
	}
	bad := []string{
		"", ".", "..", " a", "a ", "\u3000a", "a\u00a0", "a\x00", "a\r\nb", "a\tb", "\x7f", "a\u0085", "a\u202eb", "a\u200bb",
		"\ufeffa", "a\u2028b", "a\u2029", "\ufdd0", "\uffff", "\U0001fffe", "e\u0301", "\xff", "a\xc3", "\xed\xa0\x80",
		strings.Repeat("x", UserChars+1), strings.Repeat("点", UserChars+1), strings.Repeat("x", 1<<20),
	}
	for _, s := range bad {
		if err := CheckUser(s); err == nil {
			t.Errorf("CheckUser(%.80s) = nil, want a refusal", Quote(s))
		} else if s != "" && len(s) > 2 && strings.Contains(err.Error(), s) {
			t.Errorf("CheckUser(%.80s) repeats the name in its error", Quote(s))
		}
	}
	if CheckApp(strings.Repeat("x", AppChars)) != nil || CheckApp(strings.Repeat("x", AppChars+1)) == nil {
		t.Errorf("app ids are not limited to %d characters", AppChars)
	}
}

func TestSendIDs(t *testing.T) {
	id := NewSendID()
	if err := CheckSendID(id); err != nil {
		t.Errorf("CheckSendID(%q) = %v", id, err)
	}
	if v := uuid.MustParse(id).Version(); v != 7 {
		t.Errorf("NewSendID has version %d, want 7", v)
	}
	if next := NewSendID(); next <= id {
		t.Errorf("%q does not sort behind %q", next, id)
	}
	for _, s := range []string{"", strings.ToUpper(sampleID), strings.ReplaceAll(sampleID, "-", ""), "{" + sampleID + "}",
		"urn:uuid:" + sampleID, sampleID + " ", sampleID[:35] + "g", strings.Replace(sampleID, "-", "0", 1)} {
		var e *Error
		if err := CheckSendID(s); !errors.As(err, &e) || e.Code != BadSendID {
			t.Errorf("CheckSendID(%q) = %v, want BadSendID", s, err)
		}
	}
}

func TestQuoteShowsNothingRaw(t *testing.T) { // case 59
	tests := map[string]string{
		"photo (1).jpg": `"photo (1).jpg"`,
		"点 é":           `"点 é"`,
		"a\x1b[31mb":    `"a\x1b[31mb"`,
		"a\r\n\a\"":     `"a\r\n\a\""`,
		"\u202egpj.exe": `"\u202egpj.exe"`,
		"a\u200bb":      `"a\u200bb"`,
		"a\u3164b":      `"a\u3164b"`,
		"a\ufe0fb":      `"a\ufe0fb"`,
		"a\U000e0100b":  `"a\U000e0100b"`,
		"\xff":          `"\xff"`,
		"\u2028\u00a0":  `"\u2028\u00a0"`,
		"":              `""`,
	}
	for s, want := range tests {
		if got := Quote(s); got != want {
			t.Errorf("Quote(%q) = %s, want %s", s, got, want)
		}
	}
}

func FuzzNames(f *testing.F) {
	f.Add("alice")
	f.Add("\u202e")
	f.Fuzz(func(t *testing.T, s string) {
		CheckUser(s)
		for _, r := range Quote(s) {
			if r < ' ' || r == 0x7f || invisible(r) {
				t.Fatalf("Quote lets %U through", r)
			}
		}
	})
}
