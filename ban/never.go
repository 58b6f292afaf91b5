package ban

import (
	"fmt"
	"net/netip"
)

// NeverEntry is a prefix that is never banned here, whatever anyone says.
type NeverEntry struct {
	Prefix netip.Prefix
	Why    string // for people: "own address", "gateway", "mesh member web2"
}

// describe returns why p, which lies inside the entry, is never banned.
func (e NeverEntry) describe(p netip.Prefix) string {
	if e.Prefix == p {
		return e.Why
	}
	return fmt.Sprintf("%s (%s)", e.Why, shortPrefix(e.Prefix))
}

// builtinNever is what no table ever bans.
var builtinNever = []NeverEntry{
	{netip.MustParsePrefix("0.0.0.0/8"), "unspecified"},
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},
	{netip.MustParsePrefix("255.255.255.255/32"), "broadcast"},
	{netip.MustParsePrefix("::/128"), "unspecified"},
	{netip.MustParsePrefix("::1/128"), "loopback"},
	{netip.MustParsePrefix("fe80::/10"), "link-local"},
	{netip.MustParsePrefix("ff00::/8"), "multicast"},
}

// A neverList is the never-ban list, built-in entries included.
type neverList struct {
	why   map[pkey]string
	order []netip.Prefix // built-in entries first, then the others as given
	forms formCount
	near4 [1 << 10]uint64 // a bit for each IPv4 /16 that an entry reaches into; nearly all are clear and need no lookup
}

// newNeverList adds the built-in entries to es and skips invalid prefixes. Of several entries for one prefix the first
// counts.
func newNeverList(es []NeverEntry) neverList {
	l := neverList{why: make(map[pkey]string)}
	for _, list := range [2][]NeverEntry{builtinNever, es} {
		for _, e := range list {
			p, err := Normalize(e.Prefix)
			if err != nil {
				continue
			}
			if k := keyOf(p); !l.has(k) {
				l.why[k] = e.Why
				l.order = append(l.order, p)
				l.forms.add(k)
				l.mark(k)
			}
		}
	}
	return l
}

// mark sets the bits of the IPv4 /16s that k reaches into.
func (l *neverList) mark(k pkey) {
	if !k.is4() {
		return
	}
	first := k.hi >> 48
	for i := first; i < first+1<<max(0, 16-k.len()); i++ {
		l.near4[i>>6] |= 1 << (i & 63)
	}
}

// far reports whether no entry can contain k. It may return false even if none does.
func (l *neverList) far(k pkey) bool {
	i := k.hi >> 48
	return k.is4() && k.len() >= 16 && l.near4[i>>6]>>(i&63)&1 == 0
}

func (l *neverList) has(k pkey) bool {
	_, ok := l.why[k]
	return ok
}

// covers reports whether an entry contains k.
func (l *neverList) covers(k pkey) bool {
	if l.far(k) {
		return false
	}
	for w := range l.forms.covering(k) {
		if l.has(w) {
			return true
		}
	}
	return false
}

// covering returns the narrowest entry that contains k, if there is one.
func (l *neverList) covering(k pkey) (NeverEntry, bool) {
	if l.far(k) {
		return NeverEntry{}, false
	}
	for w := range l.forms.covering(k) {
		if why, ok := l.why[w]; ok {
			return NeverEntry{w.prefix(), why}, true
		}
	}
	return NeverEntry{}, false
}

// Spares reports whether a narrower prefix inside p is allowed or on the never-ban list.
func (t *Table) Spares(p netip.Prefix) bool {
	k := keyOf(p)
	for w := range t.never.why {
		if w != k && k.contains(w) {
			return true
		}
	}
	for i := range t.allows.inside(k) {
		if e := t.allows.entries.at(i); e.key() != k && e.state == StateEnforced {
			return true
		}
	}
	return false
}
