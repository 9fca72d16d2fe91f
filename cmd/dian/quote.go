package main

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// quote returns s in double quotes, fit for a terminal whatever a peer has put
// into it: control, bidirectional, zero-width and other invisible characters come
// as escapes (case 59).
func quote(s string) string {
	var b strings.Builder
	for _, r := range strconv.Quote(s) { // escapes what is not unicode.IsPrint
		if unseen(r) {
			e := strconv.QuoteRuneToASCII(r)
			b.WriteString(e[1 : len(e)-1])
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

// excerpt quotes the beginning of data, at most n bytes of it.
func excerpt(data []byte, n int) string {
	if len(data) <= n {
		return quote(string(data))
	}
	return quote(strings.ToValidUTF8(string(data[:n]), "")) + "…"
}

// plainJSON makes JSON fit for a terminal too: characters that encoding/json
// leaves as they are and that are not visible, C1 controls and bidirectional
// marks among them, become \u escapes. They occur only inside strings.
func plainJSON(line []byte) []byte {
	text := string(line)
	if strings.IndexFunc(text, hidden) < 0 {
		return line
	}
	var b strings.Builder
	for _, r := range text {
		switch {
		case !hidden(r):
			b.WriteRune(r)
		case r > 0xFFFF:
			r -= 0x10000
			fmt.Fprintf(&b, `\u%04x\u%04x`, 0xD800+r>>10, 0xDC00+r&0x3FF)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return []byte(b.String())
}

// visible returns text with escapes in place of all that is not visible, and of bytes
// that are no UTF-8.
func visible(text []byte) []byte {
	var out []byte
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		if r == utf8.RuneError && n == 1 || r < ' ' || r == 0x7F || hidden(r) {
			e := strconv.QuoteToASCII(string(text[:n]))
			out = append(out, e[1:len(e)-1]...)
		} else {
			out = append(out, text[:n]...)
		}
		text = text[n:]
	}
	return out
}

func hidden(r rune) bool { return r > 0x7E && (unseen(r) || !unicode.IsPrint(r)) }

// unseen reports whether r shows nothing although unicode.IsPrint lets it pass:
// Unicode's default ignorable characters and the blank braille cell.
func unseen(r rune) bool {
	return r > 0x7E && (unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector) || r == 0x2800)
}
