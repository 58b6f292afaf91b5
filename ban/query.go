package ban

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// Entry is what the table holds about one prefix and ports that a live ban asks for.
type Entry struct {
	Prefix  netip.Prefix
	Ports   Ports
	Until   time.Time // the enforced end; if the entry is not enforced, its latest end
	Issued  time.Time // Issued, Reason and Source come from the ban that lasts longest
	Origins []Origin  // of live bans that nothing cancels, first to ban first
	Reason  string
	Source  string
	State   State
}

// entryOf returns entry i; ok is false if no live ban asks for it.
func (t *Table) entryOf(i uint32) (Entry, bool) {
	b := &t.bans
	e := b.entries.at(i)
	if e.state == stateNone {
		return Entry{}, false
	}
	var buf [4]*claim
	claims := buf[:0]
	for _, x := range b.of(e) {
		if t.counts(b, e, x) && (e.state != StateEnforced || !x.hold.Waits()) {
			claims = append(claims, x)
		}
	}
	lead := claims[0]
	if len(claims) > 1 {
		slices.SortFunc(claims, func(x, y *claim) int {
			if t.sooner(x, y) {
				return -1
			}
			return +1
		})
		lead = b.claims.at(t.leading(b, e))
	}
	w := t.words.at(lead.words)
	until := cmp.Or(e.until, lead.until)
	out := Entry{
		Prefix: e.key().prefix(), Ports: t.ports.at(e.ports), State: e.state,
		Until: fromMillis(until), Issued: fromMillis(lead.issued), Reason: w.reason, Source: w.source,
		Origins: make([]Origin, len(claims)),
	}
	for j, x := range claims {
		out.Origins[j] = t.epochs.at(x.epoch).origin
	}
	return out, true
}

// EntriesAfter appends some of the entries to dst. Begin with cursor 0 and continue with next until it is 0. A call looks at n
// places, at least 1, some of which may be empty. The table may change between calls: an entry that stays is returned
// exactly once, one that comes or goes at most once.
func (t *Table) EntriesAfter(cursor uint32, n int, dst []Entry) (es []Entry, next uint32) {
	from, to, next := places(t.bans.entries.end, cursor, n)
	for i := from; i < to; i++ {
		if e, ok := t.entryOf(i); ok {
			dst = append(dst, e)
		}
	}
	return dst, next
}

// places returns the next n places, at least 1, from a cursor on, and the cursor to continue with, 0 at the end.
func places(end, cursor uint32, n int) (from, to, next uint32) {
	from = max(cursor, 1)
	if n = max(n, 1); n < int(end)-int(from) {
		return from, from + uint32(n), from + uint32(n)
	}
	return from, end, 0
}

// EnforcedAfter appends what the firewall should hold to dst, with cursors like those of EntriesAfter.
func (t *Table) EnforcedAfter(cursor uint32, n int, dst []Rule) (rules []Rule, next uint32) {
	from, to, next := places(t.bans.entries.end, cursor, n)
	for i := from; i < to; i++ {
		if e := t.bans.entries.at(i); e.state == StateEnforced {
			dst = append(dst, t.ruleOf(i))
		}
	}
	return dst, next
}

// ruleOf returns enforced entry i as the firewall should hold it.
func (t *Table) ruleOf(i uint32) Rule {
	e := t.bans.entries.at(i)
	r := Rule{Prefix: e.key().prefix(), Ports: t.ports.at(e.ports), Until: fromMillis(e.until)}
	if e.ports != 0 {
		_, r.Own = t.OwnBan(r.Prefix, r.Ports)
	}
	return r
}

// Counts says how much the table holds.
type Counts struct {
	Active  int    // entries enforced
	Pending int    // entries that wait for more origins
	Held    int    // entries that wait for the operator
	Allowed int    // entries suppressed by the never-ban list or an allow
	Records int    // live records of every kind
	Dropped uint64 // records left out since the start for lack of room
}

// Counts returns how much the table holds, at the cost of a few additions.
func (t *Table) Counts() Counts {
	return Counts{
		Active:  t.states[StateEnforced],
		Pending: t.states[StatePending],
		Held:    t.states[StateHeld],
		Allowed: t.states[StateAllowed],
		Records: t.records(),
		Dropped: t.dropped,
	}
}

// Verdict says whether an address is dropped here, and why.
type Verdict struct {
	Entry                // the entry that drops it; zero if none does
	Exception NeverEntry // what lets it through, if something does; else zero
}

// Lookup reports whether packets from addr, or from all of a prefix, are dropped here, and by which entry. It prefers
// entries for all ports to those for some, then the narrowest.
func (t *Table) Lookup(addr netip.Prefix) (Verdict, bool) {
	p, err := Normalize(addr)
	if err != nil {
		return Verdict{}, false
	}
	k := keyOf(p)
	if e, ok := t.exception(k); ok {
		return Verdict{Exception: e}, false
	}
	var best uint32
	for i := range t.bans.covering(k) {
		e := t.bans.entries.at(i)
		if e.state == StateEnforced && (best == 0 || e.ports == 0) {
			if best = i; e.ports == 0 {
				break
			}
		}
	}
	if best == 0 {
		return Verdict{}, false
	}
	e, ok := t.entryOf(best)
	return Verdict{Entry: e}, ok
}

// Enforced returns the entry of exactly p for all ports; ok is false if it is not enforced.
func (t *Table) Enforced(p netip.Prefix) (e Entry, ok bool) {
	if p, err := Normalize(p); err == nil {
		if i := t.bans.find(keyOf(p), 0); i != 0 && t.bans.entries.at(i).state == StateEnforced {
			return t.entryOf(i)
		}
	}
	return Entry{}, false
}

// EnforcedCovering returns the enforced entries for all ports that contain p, narrowest first.
func (t *Table) EnforcedCovering(p netip.Prefix) (es []Entry) {
	p, err := Normalize(p)
	if err != nil {
		return nil
	}
	for i := range t.bans.covering(keyOf(p)) {
		if e := t.bans.entries.at(i); e.state == StateEnforced && e.ports == 0 {
			if e, ok := t.entryOf(i); ok {
				es = append(es, e)
			}
		}
	}
	return es
}

// EnforcedInside returns how many entries inside p, without those of p itself, are enforced. It counts no further than
// most.
func (t *Table) EnforcedInside(p netip.Prefix, most int) (n int) {
	p, err := Normalize(p)
	if err != nil {
		return 0
	}
	k := keyOf(p)
	for i := range t.bans.inside(k) {
		if e := t.bans.entries.at(i); e.state == StateEnforced && e.key() != k {
			if n++; n == most {
				break
			}
		}
	}
	return n
}

// exception returns the never-ban entry or the allow that keeps k from being banned, if there is one.
func (t *Table) exception(k pkey) (NeverEntry, bool) {
	if e, ok := t.never.covering(k); ok {
		return e, true
	}
	if i := t.allowing(k); i != 0 {
		e, _ := t.allowEntry(i)
		return e, true
	}
	return NeverEntry{}, false
}

// allowEntry describes allow entry i, which is in force, and returns who issued it.
func (t *Table) allowEntry(i uint32) (NeverEntry, Origin) {
	e := t.allows.entries.at(i)
	c := t.causeOfClaim(t.allows.claims.at(t.leading(&t.allows, e)))
	return NeverEntry{e.key().prefix(), cmp.Or(c.words.reason, "allowed by "+c.origin.Short())}, c.origin
}

// OwnBan returns this node's own live ban of exactly this prefix and ports, if nothing cancels it.
// A log line must not shorten it.
func (t *Table) OwnBan(prefix netip.Prefix, ports Ports) (Record, bool) {
	return t.own(&t.bans, prefix, ports)
}

func (t *Table) own(b *recordSet, prefix netip.Prefix, ports Ports) (Record, bool) {
	e, last := t.ownLast(b, prefix, ports)
	if last == 0 || !t.counts(b, e, b.claims.at(last)) {
		return Record{}, false
	}
	return t.recordOf(b, last), true
}

// ownLast returns this node's own live ban or allow of exactly this prefix and ports, cancelled or not, and its entry.
// last is 0 if there is none.
func (t *Table) ownLast(b *recordSet, prefix netip.Prefix, ports Ports) (e *entry, last uint32) {
	id, ok := t.ports.find(ports)
	if !ok || checkPrefix(prefix) != nil {
		return nil, 0
	}
	i := b.find(keyOf(prefix), id)
	if i == 0 {
		return nil, 0
	}
	last, _ = t.said(b, i, t.self)
	if last == 0 || b.claims.at(last).kind == KindRevoke {
		return nil, 0
	}
	return b.entries.at(i), last
}

// recordOf returns claim i as it was merged.
func (t *Table) recordOf(b *recordSet, i uint32) Record {
	x := b.claims.at(i)
	e := b.entries.at(x.entry)
	w := t.words.at(x.words)
	return Record{
		Op: Op{
			Kind: x.kind, Prefix: e.key().prefix(), Ports: t.ports.at(e.ports), Until: fromMillis(x.until),
			Reason: w.reason, Source: w.source,
		},
		Origin: t.epochs.at(x.epoch).origin, Version: t.version(x), Issued: fromMillis(x.issued),
		Arrived: fromMillis(x.arrived), Hold: x.hold,
	}
}
