package ui

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
)

// Search says which bans are wanted. The zero value is all.
type Search struct {
	Near  netip.Prefix // those that lie in it or contain it; zero = any
	Words string       // in lower case: part of a reason, a source or a node's name, or the beginning of an address
	State string       // such as control.StateEnforced; "" = any
}

// newSearch returns what somebody who typed q looks for.
func newSearch(q, state string) Search {
	if near, err := config.ParsePrefix(q); err == nil {
		return Search{Near: near, State: state}
	}
	return Search{Words: strings.ToLower(q), State: state}
}

// Fits reports whether a ban is wanted, whatever its state.
func (s Search) Fits(prefix netip.Prefix, reason, source string, origins []string) bool {
	switch {
	case s.Near.IsValid():
		return s.Near.Overlaps(prefix)
	case s.Words == "":
		return true
	}
	return has(reason, s.Words) || has(source, s.Words) || slices.ContainsFunc(origins, func(name string) bool { return has(name, s.Words) }) ||
		beginsAddress(s.Words) && strings.HasPrefix(prefix.String(), s.Words)
}

// beginsAddress reports whether an address may begin with words.
func beginsAddress(words string) bool { return strings.Trim(words, "0123456789abcdef.:/") == "" }

// has reports whether s contains words, which are in lower case.
func has(s, words string) bool { return strings.Contains(strings.ToLower(s), words) }
