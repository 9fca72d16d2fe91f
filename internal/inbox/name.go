package inbox

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

const (
	maxSafeName = 240 // bytes; leaves room for " (123)" below the usual 255
	maxExt      = 32  // bytes, dot included; longer ones are not extensions
)

// SafeName turns the name that a peer gave a file into one that is safe to create,
// on any system, inside a folder one has chosen (cases 57 to 63). It is the base
// name of name, whichever slashes it uses, in Unicode's NFC, with an underscore in
// place of each character that is a control, invisible, changes the direction of
// text, is not UTF-8, or is forbidden on Windows; without dots and spaces at its
// end; marked with a leading underscore if Windows reserves it (CON, NUL.txt,
// COM1); cut to 240 bytes with its extension kept; and "unnamed" if nothing is
// left. SafeName(SafeName(x)) == SafeName(x).
//
// Names that only mean something to a shell or a habit, such as ".bashrc", "-rf" or
// "a#b%41.txt", stay as they are: they are the user's data. Whoever puts a name on
// a command line writes "./" before it.
func SafeName(name string) string {
	name = norm.NFC.String(strings.ToValidUTF8(name, "_"))
	name = strings.TrimRight(name, `/\`)
	name = name[strings.LastIndexAny(name, `/\`)+1:]
	name = strings.Map(safeRune, name)
	name = trimEnd(name)
	if name == "" {
		return "unnamed"
	}
	name = cut(name)
	if reserved(name) {
		name = cut("_" + name)
	}
	return name
}

// cut shortens name to maxSafeName bytes, between runes, before its extension.
func cut(name string) string {
	if len(name) <= maxSafeName {
		return name
	}
	stem, ext := splitExt(name)
	n := maxSafeName - len(ext)
	for !utf8.RuneStart(stem[n]) {
		n--
	}
	return trimEnd(stem[:n] + ext)
}

func trimEnd(name string) string {
	return strings.TrimRightFunc(name, func(r rune) bool { return r == '.' || unicode.IsSpace(r) })
}

// splitExt cuts name before its extension, if it has one: ".bashrc" has none.
func splitExt(name string) (stem, ext string) {
	dot := strings.LastIndexByte(name, '.')
	if dot <= 0 || len(name)-dot > maxExt {
		return name, ""
	}
	return name[:dot], name[dot:]
}

// safeRune maps what has no place in a file name to an underscore.
func safeRune(r rune) rune {
	switch {
	case strings.ContainsRune(`<>:"|?*`, r),
		unicode.IsControl(r),
		unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp), // bidi, zero-width, line ends
		unicode.Is(unicode.Other_Default_Ignorable_Code_Point, r),
		unicode.Is(unicode.Noncharacter_Code_Point, r):
		return '_'
	}
	return r
}

// reserved reports whether Windows takes name for a device, whatever follows its
// first dot (case 60).
func reserved(name string) bool {
	stem, _, _ := strings.Cut(name, ".")
	stem = strings.ToUpper(strings.TrimRightFunc(stem, unicode.IsSpace))
	switch stem {
	case "CON", "PRN", "AUX", "NUL", "CLOCK$", "CONIN$", "CONOUT$":
		return true
	}
	digit, ok := strings.CutPrefix(stem, "COM")
	if !ok {
		digit, ok = strings.CutPrefix(stem, "LPT")
	}
	return ok && utf8.RuneCountInString(digit) == 1 && strings.Contains("0123456789¹²³", digit)
}
