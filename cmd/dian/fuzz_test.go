package main

import (
	"encoding/json"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"unicode"
)

// FuzzQuote: what a peer has written comes out as text that a terminal only shows, and
// from which it can be read back (case 59).
func FuzzQuote(f *testing.F) {
	for _, text := range []string{"plain ü 点", "\x1b[2J\a\n", "a\u202egpj.exe", "\xff\x00", "\u2800\u3164\U000e0001", `{"a":"\u001b"}`, "\u009b1m"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		shown := func(s string) bool {
			return !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || unseen(r) })
		}
		q := quote(text)
		if back, err := strconv.Unquote(q); err != nil || back != text || !shown(q) {
			t.Errorf("quote(%q) = %q, which reads %q, %v", text, q, back, err)
		}
		if e := excerpt([]byte(text), 10); !shown(e) {
			t.Errorf("excerpt(%q) = %q", text, e)
		}
		line, err := json.Marshal(map[string]string{"name": text, text: "x"})
		if err != nil {
			t.Fatal(err)
		}
		var before, after map[string]string
		plain := plainJSON(line)
		if json.Unmarshal(line, &before) != nil || json.Unmarshal(plain, &after) != nil || !reflect.DeepEqual(before, after) || !shown(string(plain)) {
			t.Errorf("plainJSON(%s) = %s", line, plain)
		}
	})
}
