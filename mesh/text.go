package mesh

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// isCleanText reports whether s is valid UTF-8 of printable characters only, so that a terminal and a log show it as it is.
func isCleanText(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}

// escapeText makes any text harmless in a log or on a terminal, and no longer than limit bytes before escaping.
func escapeText(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit]
	}
	if isCleanText(s) {
		return s
	}
	q := strconv.Quote(s)
	return q[1 : len(q)-1]
}
