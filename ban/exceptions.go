package ban

import (
	"cmp"
	"net/netip"
	"slices"
)

// MaxAllows is how many allows of one origin may be in force.
const MaxAllows = 1024

// Exceptions is a snapshot of what a table never drops, taken by [Table.Exceptions].
type Exceptions struct {
	never  []netip.Prefix
	allows []allowing
}

// An allowing is one origin's allow of a prefix.
type allowing struct {
	prefix  netip.Prefix
	origin  Origin
	version Version
	own     bool
}

// Exceptions returns what is never dropped: the never-ban list and the allows in force. It only copies;
// [Exceptions.Lists] does the work and needs no table.
func (t *Table) Exceptions() Exceptions {
	x := Exceptions{never: t.never.order}
	b := &t.allows
	for i := uint32(1); i < b.entries.end; i++ {
		e := b.entries.at(i)
		if e.state != StateEnforced {
			continue
		}
		for _, r := range b.of(e) {
			if r.hold == HoldNone && t.counts(b, e, r) {
				o := t.epochs.at(r.epoch).origin
				x.allows = append(x.allows, allowing{e.key().prefix(), o, t.version(r), o == t.self})
			}
		}
	}
	return x
}

// Lists returns the never-ban list, built-in entries first and the others in the order given, and the allowed prefixes
// by priority, in case there is no room for all: this node's own, then the oldest of each other origin, then the second
// oldest of each, and so on, so that no origin crowds out another.
func (x Exceptions) Lists() (never, allow []netip.Prefix) {
	slices.SortFunc(x.allows, func(a, b allowing) int {
		return cmp.Or(slices.Compare(a.origin[:], b.origin[:]), a.version.Compare(b.version))
	})
	type turn struct {
		prefix netip.Prefix
		round  int // 0 = own
	}
	turns := make([]turn, len(x.allows))
	round := 0
	for i, a := range x.allows {
		if round++; i == 0 || a.origin != x.allows[i-1].origin {
			round = 1
		}
		turns[i] = turn{a.prefix, round}
		if a.own {
			turns[i].round = 0
		}
	}
	slices.SortStableFunc(turns, func(a, b turn) int { return a.round - b.round })
	seen := make(map[netip.Prefix]bool, len(turns))
	for _, t := range turns {
		if !seen[t.prefix] {
			seen[t.prefix] = true
			allow = append(allow, t.prefix)
		}
	}
	return slices.Clone(x.never), allow
}
