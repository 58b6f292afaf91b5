package config

import (
	"strconv"
	"strings"
)

// Error is one problem of a configuration. Several are joined with errors.Join, one per line.
type Error struct {
	File    string // "" = the value is not from a file
	Line    int    // from 1; 0 = none
	Key     string // dotted, such as "bans.max_for", or an item such as "allow[2]"; "" = none
	Problem string // what is wrong
	Remedy  string // what to write
}

// Error returns `file:line: key: what is wrong, what to write`, without the parts that are unknown.
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
