package config

import (
	"strconv"
	"strings"
)

// Error is one thing wrong with a configuration. Several come joined (errors.Join), each on its line.
type Error struct {
	File    string // "" when the value did not come from a file
	Line    int    // from 1; 0 when there is none
	Key     string // dotted: "bans.max_for"; a list's item: "allow[2]"; "" when the value stands alone
	Problem string // what is wrong
	Remedy  string // what to write
}

// Error has the form `file:line: key: what is wrong, what to write`; parts that are not known are left out.
func (e *Error) Error() string {
	var b strings.Builder
	if e.File != "" {
		b.WriteString(e.File)
		if e.Line > 0 {
			b.WriteByte(':')
			b.WriteString(strconv.Itoa(e.Line))
		}
		b.WriteString(": ")
	}
	if e.Key != "" {
		b.WriteString(e.Key)
		b.WriteString(": ")
	}
	b.WriteString(e.Problem)
	if e.Remedy != "" {
		b.WriteString(", ")
		b.WriteString(e.Remedy)
	}
	return b.String()
}
