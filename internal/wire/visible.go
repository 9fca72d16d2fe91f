package wire

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// Visible returns s if it is fit for a terminal or a log line as it is, and otherwise
// Quote(s). Use it for texts of errors, which may have somebody's names in them.
func Visible(s string) string {
	if utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !strconv.IsPrint(r) || invisible(r) }) < 0 {
		return s
	}
	return Quote(s)
}
