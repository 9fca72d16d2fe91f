package server

import (
	"strings"
	"testing"
	"time"
)

func TestPatternsMatchWholeNames(t *testing.T) {
	tests := []struct {
		pattern, name string
		want          bool
	}{
		{"*", "", true}, {"*", "bob", true}, {"**", "bob", true}, {"bob", "bob", true},
		{"bob", "Bob", false}, {"bob", "bobby", false}, {"bob", "", false},
		{"b*", "bob", true}, {"b*", "alice", false}, {"*b", "bob", true}, {"*o*", "bob", true},
		{"b*b", "b", false}, {"b*b", "bb", true}, {"a*b*c", "axxbyyc", true}, {"a*b*c", "acb", false},
		{"*aab", "aaab", true}, {"*ab*ab", "ab", false}, {"*ab*ab", "abab", true},
		{`a\*`, "a*", true}, {`a\*`, "ab", false}, {`\\`, `\`, true}, {`\b`, "b", true}, {`*\*`, "x*", true},
		{"医*", "医生", true}, {`\医`, "医", true}, {"?", "x", false}, {"[a]", "a", false}, {".*", "xy", false},
	}
	for _, tt := range tests {
		p, err := compilePattern(tt.pattern)
		if err != nil {
			t.Errorf("compilePattern(%q): %v", tt.pattern, err)
		} else if got := p.matches(tt.name); got != tt.want {
			t.Errorf("%q matches %q = %v, want %v", tt.pattern, tt.name, got, tt.want)
		}
	}
	for _, bad := range []string{"", `\`, `a*\`, strings.Repeat("a", maxPatternBytes+1)} {
		if _, err := compilePattern(bad); err == nil {
			t.Errorf("compilePattern(%.20q) succeeded", bad)
		}
	}
	if (pattern{}).matches("") || patterns(nil).match("bob") || !everyone().match("bob") {
		t.Error("the zero pattern fits somebody, or everyone does not fit bob")
	}
}

func TestHostilePatternsCostNothing(t *testing.T) {
	p, err := compilePattern(strings.Repeat("a*", 127) + "b")
	if err != nil {
		t.Fatal(err)
	}
	name := strings.Repeat("a", 100_000) // far more than a user id has
	start := time.Now()
	if p.matches(name) {
		t.Error("it fits")
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("one match took %v", took)
	}
}

// slowMatch is the obvious definition of a pattern.
func slowMatch(p, name string) bool {
	switch {
	case p == "":
		return name == ""
	case p[0] == '*':
		return slowMatch(p[1:], name) || name != "" && slowMatch(p, name[1:])
	case p[0] == '\\':
		p = p[1:]
	}
	return name != "" && name[0] == p[0] && slowMatch(p[1:], name[1:])
}

func FuzzPattern(f *testing.F) {
	f.Add("a*b", "axxb")
	f.Add(`*\**`, "x*y")
	f.Fuzz(func(t *testing.T, text, name string) {
		p, err := compilePattern(text)
		if err != nil || strings.Count(text, "*") > 4 || len(name) > 24 {
			return
		}
		if got, want := p.matches(name), slowMatch(text, name); got != want {
			t.Errorf("%q matches %q = %v, want %v", text, name, got, want)
		}
	})
}
