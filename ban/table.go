package ban

import (
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"time"
)

// MaxQuorum bounds Config.Quorum.
const MaxQuorum = 64

// ErrNotFound says that nothing live lies inside the prefix.
var ErrNotFound = errors.New("not found")

// Config is what a table needs to know.
type Config struct {
	Self   Origin       // this node; its own ban is enforced here whatever the quorum
	Limits Limits       // zero fields take their defaults
	Quorum int          // distinct origins that must ban before it is enforced; 0 means 1
	Never  []NeverEntry // what is never banned, beside what is built in
}

// Table holds what is banned. It is not safe for concurrent use.
type Table struct {
	self   Origin
	limits Limits
	quorum int
	never  []NeverEntry
	o      oracle
}

// New returns an empty table.
func New(cfg Config) (*Table, error) {
	limits, err := cfg.Limits.normal()
	if err != nil {
		return nil, fmt.Errorf("ban limits: %w", err)
	}
	if cfg.Quorum == 0 {
		cfg.Quorum = 1
	}
	if cfg.Quorum < 1 || cfg.Quorum > MaxQuorum {
		return nil, fmt.Errorf("quorum %d is not within 1-%d", cfg.Quorum, MaxQuorum)
	}
	for _, e := range cfg.Never {
		if !e.Prefix.IsValid() {
			return nil, fmt.Errorf("never-ban list: prefix %v (%s) is not valid", e.Prefix, e.Why)
		}
	}
	t := &Table{self: cfg.Self, limits: limits, quorum: cfg.Quorum}
	t.never = append(slices.Clone(builtinNever), cfg.Never...)
	t.o = oracle{self: cfg.Self, quorum: cfg.Quorum, groups: map[groupKey][]Record{}}
	t.setNever()
	return t, nil
}

func (t *Table) setNever() {
	t.o.never = nil
	for _, e := range t.never {
		t.o.never = append(t.o.never, e.Prefix)
	}
}

// SetNever replaces the never-ban list, beside what is built in. Invalid prefixes are left out.
func (t *Table) SetNever(now time.Time, es []NeverEntry) []Change {
	return t.diff(now, func() {
		t.never = slices.Clone(builtinNever)
		for _, e := range es {
			if e.Prefix.IsValid() {
				t.never = append(t.never, e)
			}
		}
		t.setNever()
	})
}

// Merge adds records.
func (t *Table) Merge(now time.Time, rs []Record) []Change {
	return t.diff(now, func() { t.o.merge(millis(now), rs) })
}

// Expire drops what has ended.
func (t *Table) Expire(now time.Time) []Change { return t.diff(now, func() {}) }

func (t *Table) diff(now time.Time, f func()) []Change {
	old := t.o.enforced()
	t.o.expire(millis(now))
	f()
	cur := t.o.enforced()
	var out []Change
	for k, until := range old {
		if _, ok := cur[k]; !ok {
			out = append(out, Change{Event: EventUnban, Prefix: k.prefix, Ports: k.ports, Until: fromMillis(until), Lift: true})
		}
	}
	for k, until := range cur {
		if o, ok := old[k]; !ok {
			out = append(out, Change{Event: EventBan, Prefix: k.prefix, Ports: k.ports, Until: fromMillis(until), Enforce: true})
		} else if o != until {
			out = append(out, Change{Event: EventRefresh, Prefix: k.prefix, Ports: k.ports, Until: fromMillis(until), Enforce: true})
		}
	}
	return out
}

// Next returns when Expire has something to do next.
func (t *Table) Next() (time.Time, bool) { return t.o.next() }

// UnbanOps returns the ops that lift every live ban inside prefix, or ErrNotFound.
func (t *Table) UnbanOps(now time.Time, prefix netip.Prefix, reason, source string) ([]Op, error) {
	return nil, ErrNotFound
}

// UnallowOps returns the ops that end every live allow inside prefix, or ErrNotFound.
func (t *Table) UnallowOps(now time.Time, prefix netip.Prefix, reason, source string) ([]Op, error) {
	return nil, ErrNotFound
}

// BanOps returns what this node must publish, in one frame, to say op: op itself, led by what takes
// back its earlier word where that would outlast op.
func (t *Table) BanOps(op Op) []Op { return []Op{op} }

// Lookup answers whether addr is dropped here, and by which entry.
func (t *Table) Lookup(addr netip.Prefix) (Verdict, bool) { return Verdict{}, false }

// Why returns everything that bears on p, what decides first. At most MaxFindings.
func (t *Table) Why(p netip.Prefix) []Finding { return nil }

// Entries yields every entry that a live ban asks for.
func (t *Table) Entries() iter.Seq[Entry] { return func(func(Entry) bool) {} }

// EntriesAfter returns a chunk of Entries: begin with cursor 0, go on with next, until that is 0.
func (t *Table) EntriesAfter(cursor uint32, n int) (es []Entry, next uint32) { return nil, 0 }

// Exceptions returns the prefixes that are never dropped, ascending, none inside another.
func (t *Table) Exceptions() []netip.Prefix { return nil }

// Enforced yields what the firewall should hold.
func (t *Table) Enforced() iter.Seq[Rule] {
	return func(yield func(Rule) bool) {
		for k, until := range t.o.enforced() {
			if !yield(Rule{k.prefix, k.ports, fromMillis(until)}) {
				return
			}
		}
	}
}

// Counts returns how much the table holds.
func (t *Table) Counts() Counts { return Counts{Active: len(t.o.enforced())} }

// OwnBan returns this node's own live ban of exactly this prefix and ports.
func (t *Table) OwnBan(prefix netip.Prefix, ports Ports) (Record, bool) { return Record{}, false }

// RemoteCovers reports whether a live ban of another origin covers addr and is enforced.
func (t *Table) RemoteCovers(now time.Time, addr netip.Addr) bool { return false }

func (t *Table) neverCovering(p netip.Prefix) (NeverEntry, bool) { return NeverEntry{}, false }
func (t *Table) allowCovering(p netip.Prefix) (Record, bool)     { return Record{}, false }
