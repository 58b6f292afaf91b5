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

// Matcher finds the bans of a search. It remembers which texts fit, since many bans share a few.
type Matcher struct {
	Search
	address bool // Words may begin an address
	texts   map[string]bool
}

// maxTexts bounds the texts that a Matcher remembers.
const maxTexts = 4096

// Matcher returns a Matcher of s, for one goroutine.
func (s Search) Matcher() *Matcher {
	return &Matcher{s, beginsAddress(s.Words), make(map[string]bool)}
}

// Fits reports whether a ban is wanted, whatever its state.
func (m *Matcher) Fits(prefix netip.Prefix, reason, source string, origins []string) bool {
	switch {
	case m.Near.IsValid():
		return m.Near.Overlaps(prefix)
	case m.Words == "":
		return true
	}
	return m.has(reason) || m.has(source) || slices.ContainsFunc(origins, m.has) || m.address && strings.HasPrefix(prefix.String(), m.Words)
}

func (m *Matcher) has(text string) bool {
	fits, known := m.texts[text]
	if !known {
		if len(m.texts) >= maxTexts {
			clear(m.texts)
		}
		fits = has(text, m.Words)
		m.texts[text] = fits
	}
	return fits
}

// beginsAddress reports whether an address may begin with words.
func beginsAddress(words string) bool { return strings.Trim(words, "0123456789abcdef.:/") == "" }

// has reports whether s contains words, which are in lower case.
func has(s, words string) bool { return strings.Contains(strings.ToLower(s), words) }
