package wire

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxLogText bounds what others said in a record of the log, in bytes, before escaping.
const MaxLogText = 512

// IsText reports whether s is valid UTF-8 of printable characters only, so that terminals and logs show it
// unchanged.
func IsText(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}

// Escape cuts a text to limit bytes and escapes what could do harm in a log or on a terminal.
func Escape(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit]
	}
	if IsText(s) {
		return s
	}
	q := strconv.Quote(s)
	return q[1 : len(q)-1]
}
