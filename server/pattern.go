package server

import (
	"errors"
	"fmt"
	"strings"
)

// Bounds of the lists of user patterns in a token (claims send and see).
const (
	maxPatterns     = 64
	maxPatternBytes = 256
)

// pattern is a compiled user pattern: the literal texts between its stars. One
// part means no star, so the whole name has to be equal to it.
//
// In a pattern `*` stands for any run of characters, also an empty one, and `\`
// takes the next character literally. Everything else stands for itself, byte
// for byte: IDs that differ in case or look alike are different IDs (case 40).
type pattern struct {
	parts []string
}

// compilePattern reads one user pattern.
func compilePattern(text string) (pattern, error) {
	switch {
	case text == "":
		return pattern{}, errors.New("a user pattern is empty; write * for every user")
	case len(text) > maxPatternBytes:
		return pattern{}, fmt.Errorf("a user pattern has %d bytes; at most %d are allowed", len(text), maxPatternBytes)
	}
	var parts []string
	var literal strings.Builder
	starred := false // the byte before was a star: ** is *
	for i := 0; i < len(text); i++ {
		switch c := text[i]; c {
		case '*':
			if !starred {
				parts = append(parts, literal.String())
				literal.Reset()
			}
			starred = true
			continue
		case '\\':
			i++
			if i == len(text) {
				return pattern{}, errors.New(`a user pattern ends in a single \; write \\ for a backslash`)
			}
			literal.WriteByte(text[i])
		default:
			literal.WriteByte(c)
		}
		starred = false
	}
	return pattern{parts: append(parts, literal.String())}, nil
}

// matches reports whether name fits. It takes each part at its first place
// after the one before and never goes back, so its time grows with the lengths
// and not with the number of stars: a hostile pattern cannot burn CPU.
func (p pattern) matches(name string) bool {
	if len(p.parts) == 0 {
		return false
	}
	last := len(p.parts) - 1
	if last == 0 {
		return name == p.parts[0]
	}
	name, ok := strings.CutPrefix(name, p.parts[0])
	if !ok {
		return false
	}
	for _, part := range p.parts[1:last] {
		at := strings.Index(name, part)
		if at < 0 {
			return false
		}
		name = name[at+len(part):]
	}
	return strings.HasSuffix(name, p.parts[last])
}

// patterns is a list of user patterns. The zero value fits nobody.
type patterns []pattern

// everyone fits every user.
func everyone() patterns { return patterns{{parts: []string{"", ""}}} }

// compilePatterns reads a list of user patterns.
func compilePatterns(texts []string) (patterns, error) {
	if len(texts) > maxPatterns {
		return nil, fmt.Errorf("%d user patterns; at most %d are allowed", len(texts), maxPatterns)
	}
	list := make(patterns, 0, len(texts))
	for _, text := range texts {
		p, err := compilePattern(text)
		if err != nil {
			return nil, err
		}
		list = append(list, p)
	}
	return list, nil
}

// match reports whether any pattern of the list fits name.
func (l patterns) match(name string) bool {
	for _, p := range l {
		if p.matches(name) {
			return true
		}
	}
	return false
}
