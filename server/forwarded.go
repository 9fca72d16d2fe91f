package server

import (
	"net/netip"
	"strings"
)

// How many hops of a request are looked at, and how long a header may be. More is
// nobody's network.
const (
	maxHops      = 32
	maxForwarded = 8 << 10
)

// hopsOf reads the lines of a header of one form, in their order: the last hop is
// the nearest. False means that there is no such header. What cannot be read makes
// everything before it not valid, so it does not matter how it was meant.
func hopsOf(lines []string, split func(string) ([]netip.Addr, bool)) (hops []netip.Addr, there bool) {
	for _, line := range lines {
		more, ok := []netip.Addr(nil), len(line) <= maxForwarded
		if ok {
			more, ok = split(line)
		}
		if !ok {
			hops = append(hops[:0], netip.Addr{}) // and what came before
			continue
		}
		hops = append(hops, more...)
	}
	if len(hops) > maxHops {
		hops = hops[len(hops)-maxHops:]
		hops[0] = netip.Addr{}
	}
	return hops, len(lines) > 0
}

// forwardedList reads a line of X-Forwarded-For: addresses with commas between.
func forwardedList(line string) ([]netip.Addr, bool) {
	var hops []netip.Addr
	for hop := range strings.SplitSeq(line, ",") {
		hops = append(hops, hopAddr(strings.Trim(hop, " \t")))
	}
	return hops, true
}

// forwardedElements reads a line of Forwarded (RFC 7239 section 4): elements with
// commas between, each of pairs with semicolons between. Only "for" counts; an
// element without one hides who it was. False means that the line is malformed.
func forwardedElements(line string) ([]netip.Addr, bool) {
	var hops []netip.Addr
	var hop netip.Addr
	seen := false
	for rest := line; ; {
		rest = strings.TrimLeft(rest, " \t")
		name, after, ok := strings.Cut(rest, "=")
		if !ok || !isToken(name) {
			return nil, false
		}
		value, after, ok := forwardedValue(after)
		if !ok {
			return nil, false
		}
		if strings.EqualFold(name, "for") {
			if seen { // a name may occur once in an element
				return nil, false
			}
			hop, seen = hopAddr(value), true
		}
		after = strings.TrimLeft(after, " \t")
		switch {
		case after == "":
			return append(hops, hop), true
		case after[0] == ',':
			hops = append(hops, hop)
			hop, seen = netip.Addr{}, false
		case after[0] != ';':
			return nil, false
		}
		rest = after[1:]
	}
}

// forwardedValue reads a token or a quoted string, and returns what follows it.
func forwardedValue(text string) (value, rest string, ok bool) {
	if !strings.HasPrefix(text, `"`) {
		end := strings.IndexAny(text, ";, \t")
		if end < 0 {
			end = len(text)
		}
		return text[:end], text[end:], isToken(text[:end])
	}
	var plain strings.Builder
	for i := 1; i < len(text); i++ {
		switch text[i] {
		case '"':
			return plain.String(), text[i+1:], true
		case '\\':
			if i++; i == len(text) {
				return "", "", false
			}
		}
		plain.WriteByte(text[i])
	}
	return "", "", false
}

// isToken reports whether text is a token of RFC 9110 section 5.6.2.
func isToken(text string) bool {
	for i := range len(text) {
		c := text[i]
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !letter && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return false
		}
	}
	return text != ""
}

// hopAddr reads an address with or without a port, IPv6 in brackets or bare. What
// is none ("unknown", "_hidden") is not valid.
func hopAddr(text string) netip.Addr {
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		return a.Unmap()
	}
	if at, err := netip.ParseAddrPort(text); err == nil && at.Addr().Zone() == "" {
		return at.Addr().Unmap()
	}
	if inner, ok := strings.CutPrefix(text, "["); ok && strings.HasSuffix(inner, "]") {
		if a, err := netip.ParseAddr(inner[:len(inner)-1]); err == nil && a.Is6() && a.Zone() == "" {
			return a.Unmap()
		}
	}
	return netip.Addr{}
}
