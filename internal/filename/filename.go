// Package filename makes the names that peers give to files safe to create.
//
// A name from the wire is data. What is received lies under a random name; only
// where a person is to find it, in a folder of theirs or in a browser's list of
// downloads, it gets the name that its sender gave, as Safe makes it.
// testdata/vectors/names.json says of some hundred hostile names what that is.
package filename

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

const (
	maxSafe = 240 // bytes; leaves room for " (123)" below the usual 255
	maxExt  = 32  // bytes, dot included; longer ones are not extensions
)

// Safe turns the name that a peer gave a file into one that is safe to create, on
// any system, inside a folder one has chosen (cases 57 to 63). It is the base name
// of name, whichever slashes it uses, in Unicode's NFC, with an underscore in place
// of each character that is a control, invisible, changes the direction of text, is
// not UTF-8, looks like a slash or becomes one in Unicode's NFKC, or is forbidden on
// Windows; without dots and spaces at its end; marked with a leading underscore if
// Windows reserves it (CON, NUL.txt, COM1); cut to 240 bytes with its extension
// kept; and "unnamed" if nothing is left. Safe(Safe(x)) == Safe(x).
//
// Names that only mean something to a shell or a habit, such as ".bashrc", "-rf" or
// "a#b%41.txt", stay as they are: they are the user's data. Whoever puts a name on
// a command line writes "./" before it.
func Safe(name string) string {
	name = norm.NFC.String(strings.ToValidUTF8(name, "_"))
	name = strings.TrimRight(name, `/\`)
	name = name[strings.LastIndexAny(name, `/\`)+1:]
	name = trimEnd(strings.Map(safeRune, name))
	if trimEnd(norm.NFKC.String(name)) == "" { // "‥" would be ".." to whoever folds names
		return "unnamed"
	}
	name = cut(name)
	if reserved(name) {
		name = cut("_" + name)
	}
	return name
}

// Numbered returns the name to try after i taken ones: "photo (1).jpg".
func Numbered(name string, i int) string {
	if i == 0 {
		return name
	}
	stem, ext := splitExt(name)
	return stem + " (" + strconv.Itoa(i) + ")" + ext
}

// cut shortens name to maxSafe bytes, between runes, before its extension.
func cut(name string) string {
	if len(name) <= maxSafe {
		return name
	}
	stem, ext := splitExt(name)
	n := maxSafe - len(ext)
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

// slashes are the characters whose NFKC has a slash or a backslash, and those that
// Windows takes for one where it squeezes a name into an older code page.
const slashes = "\uff0f\uff3c\ufe68\u2100\u2101\u2105\u2106" + "\u2044\u2215\u2216\u29f5\u29f8\u29f9"

// safeRune maps what has no place in a file name to an underscore.
func safeRune(r rune) rune {
	switch {
	case strings.ContainsRune(`<>:"|?*`+slashes, r),
		unicode.IsControl(r),
		unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp), // bidi, zero-width, line ends
		unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector),
		r == '\u2800',                  // braille without dots
		r >= '\uf000' && r <= '\uf0ff', // what WSL, Cygwin and SMB show for forbidden ASCII
		unicode.Is(unicode.Noncharacter_Code_Point, r):
		return '_'
	}
	return r
}

// reserved reports whether Windows takes name for a device, whatever follows its
// first dot (case 60). Folding covers COM¹ and fullwidth letters.
func reserved(name string) bool {
	stem, _, _ := strings.Cut(norm.NFKC.String(name), ".")
	stem = strings.ToUpper(strings.TrimRightFunc(stem, unicode.IsSpace))
	switch stem {
	case "CON", "PRN", "AUX", "NUL", "CLOCK$", "CONIN$", "CONOUT$":
		return true
	}
	digit, ok := strings.CutPrefix(stem, "COM")
	if !ok {
		digit, ok = strings.CutPrefix(stem, "LPT")
	}
	return ok && len(digit) == 1 && digit[0] >= '0' && digit[0] <= '9'
}
