package mesh_test

import (
	"errors"
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/mesh"
	"github.com/meshban/meshban/mesh/frame"
)

// The simulated nodes enforce real bans. Package mesh does not know package ban, so these external tests supply it.
func init() {
	mesh.NewSimBans = newSimBans
	mesh.NewSimAttack = newSimAttack
}

var simNever = []ban.NeverEntry{{Prefix: netip.MustParsePrefix("203.0.113.0/28"), Why: "gateway"}}

type simBans struct {
	self  ban.Origin
	table *ban.Table
}

func newSimBans(self frame.ID) mesh.SimBans { return &simBans{ban.Origin(self), newTable(self)} }

func newTable(self frame.ID) *ban.Table {
	t, err := ban.New(ban.Config{Self: ban.Origin(self), Never: simNever})
	if err != nil {
		panic(err)
	}
	return t
}

// recordsOf decodes a frame. A payload that cannot be decoded yields no records.
func recordsOf(f frame.Frame) []ban.Record {
	ops, err := ban.DecodeOps(f.Payload)
	if err != nil {
		return nil
	}
	records := make([]ban.Record, len(ops))
	for i, op := range ops {
		records[i] = ban.Record{Op: op, Origin: ban.Origin(f.Origin), Issued: f.Issued,
			Version: ban.Version{Epoch: f.Epoch, Seq: f.Seq, Index: uint16(i)}}
	}
	return records
}

// lawful keeps the records that policy lets in.
func (b *simBans) lawful(now time.Time, records []ban.Record) []ban.Record {
	return slices.DeleteFunc(records, func(r ban.Record) bool {
		return r.Origin != b.self && b.table.CheckRemote(now, r) != nil
	})
}

// Take does what the daemon does with frames.
func (b *simBans) Take(now time.Time, frames []frame.Frame) {
	for _, f := range frames {
		b.table.Merge(now, b.lawful(now, recordsOf(f)))
	}
}

func (b *simBans) Rewound(now time.Time, live iter.Seq[frame.Frame]) {
	b.table.Merge(now, b.table.Ended())
	for _, bans := range []bool{false, true} {
		for f := range live {
			records := slices.DeleteFunc(recordsOf(f), func(r ban.Record) bool { return (r.Kind == ban.KindBan) != bans })
			at := now
			if f.Issued.After(now) { // accepted while the clock was ahead
				at = f.Issued
			}
			b.table.Merge(now, b.lawful(at, records))
		}
	}
}

func (b *simBans) Amend(now time.Time, frames []frame.Frame, epoch uint64, publish func([]byte, time.Time)) {
	var ops []ban.Op
	for _, f := range frames {
		for _, r := range recordsOf(f) {
			if f.Epoch < epoch {
				ops = append(ops, b.table.Amend(r)...)
			}
		}
	}
	b.publish(now, ops, publish)
}

func (b *simBans) Expire(now time.Time) { b.table.Expire(now) }

func (b *simBans) Trust(now time.Time, origin frame.ID, trusted bool) {
	b.table.Expire(now)
	for cursor, more := uint32(0), true; more; more = cursor != 0 {
		if trusted {
			_, cursor = b.table.Readmit(ban.Origin(origin), cursor, 16)
		} else {
			_, cursor = b.table.Withdraw(ban.Origin(origin), ban.Withdrawal{Reason: "revoked", At: now}, cursor, 16)
		}
	}
}

// lift returns the ops that lift everything inside a prefix.
func (b *simBans) lift(now time.Time, kind ban.Kind, prefix netip.Prefix) (ops []ban.Op) {
	l, err := b.table.Lift(ban.Op{Kind: kind, Prefix: prefix, Source: "sim"}, 0, 0)
	for more := err == nil; more; {
		var some []ban.Op
		some, more = l.Next(now, math.MaxInt)
		ops = append(ops, some...)
	}
	return ops
}

// Say bans, bans again, revokes, unbans, allows or ends an allow, over so few addresses that they collide.
func (b *simBans) Say(now time.Time, rng *rand.Rand, publish func([]byte, time.Time)) {
	b.table.Expire(now)
	prefix := simPrefix(rng)
	until := now.Add(time.Duration(10+rng.IntN(7200)) * time.Second)
	var ports ban.Ports
	if rng.IntN(3) == 0 {
		ports, _ = ban.ParsePorts("22/tcp")
	}
	var ops []ban.Op
	switch rng.IntN(10) {
	case 0:
		ops = b.lift(now, ban.KindUnallow, prefix)
	case 1:
		ops = b.table.OwnOps(ban.Op{Kind: ban.KindAllow, Prefix: prefix, Until: until, Source: "sim"})
	case 2, 3, 4:
		ops = b.lift(now, ban.KindUnban, simPrefix(rng))
	case 5:
		if r, ok := b.table.OwnBan(prefix, ports); ok {
			ops = []ban.Op{{Kind: ban.KindRevoke, Prefix: prefix, Ports: ports, Until: r.Until.Add(ban.ClockSkew)}}
		}
	default:
		for range 1 + rng.IntN(4) {
			ops = append(ops, b.table.OwnOps(ban.Op{Kind: ban.KindBan, Prefix: prefix, Ports: ports, Until: until, Source: "sim"})...)
			prefix, until = simPrefix(rng), until.Add(time.Duration(rng.IntN(600))*time.Second)
		}
	}
	b.publish(now, ops, publish)
}

// publish publishes the ops that policy allows.
func (b *simBans) publish(now time.Time, ops []ban.Op, publish func([]byte, time.Time)) {
	kept := ops[:0]
	for _, op := range ops {
		if b.table.CheckLocal(now, op) == nil {
			kept = append(kept, op)
		}
	}
	for _, part := range ban.SplitOps(kept, frame.MaxPayload) {
		if payload, err := ban.AppendOps(nil, part); err == nil {
			publish(payload, ban.Expires(part))
		}
	}
}

func simPrefix(rng *rand.Rand) netip.Prefix {
	last := byte(rng.IntN(12))
	switch rng.IntN(8) {
	case 0:
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{203, 0, 113, last * 2}), 32) // partly on the never-ban list
	case 1:
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, last &^ 3}), 30)
	case 2:
		return netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: last}), 128)
	}
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, last}), 32)
}

func newSimAttack(kind mesh.SimAttack, now time.Time) ([]byte, time.Time) {
	until := now.Add(time.Hour)
	op := ban.Op{Kind: ban.KindBan, Until: until, Source: "harm"}
	switch kind {
	case mesh.SimNever:
		op.Prefix = netip.MustParsePrefix("203.0.113.1/32")
	case mesh.SimWide:
		op.Prefix = netip.MustParsePrefix("192.0.0.0/16")
	default:
		return []byte("no ops at all"), until
	}
	payload, err := ban.AppendOps(nil, []ban.Op{op})
	if err != nil {
		panic(err)
	}
	return payload, until
}

// Judge merges all live frames into a new table and requires the same rules. It leaves out prefixes named by two frames of
// one name, because a node that saw the loser first acts on it until it ends; bans that were shortened unknowingly; and, if
// clocks were set, prefixes lifted by a record that nobody holds any more.
func (b *simBans) Judge(now time.Time, live, said, doubt []frame.Frame, stepped bool) error {
	want := &simBans{b.self, newTable(frame.ID(b.self))}
	want.Take(now, live)
	var records []ban.Record
	for _, f := range live {
		records = append(records, recordsOf(f)...)
	}
	var unsure []netip.Prefix
	for _, f := range doubt {
		for _, r := range recordsOf(f) {
			unsure = append(unsure, r.Prefix)
		}
	}
	unsure = append(unsure, shortened(now, said, records)...)
	if stepped {
		unsure = append(unsure, lost(now, said, records)...)
	}
	left, right := enforced(b.table, unsure), enforced(want.table, unsure)
	for rule := range right {
		if !left[rule] {
			return fmt.Errorf("not enforced: %v%s", rule, about(rule, records, b.table))
		}
	}
	for rule := range left {
		if !right[rule] {
			return fmt.Errorf("enforced, and should not be: %v%s", rule, about(rule, records, b.table))
		}
		if err := lawful(now, rule, records); err != nil {
			return fmt.Errorf("enforced %v: %w", rule, err)
		}
	}
	return nil
}

// shortened returns the prefixes that an origin banned again for a shorter time without revoking the longer ban, which it
// did not know of: its disk had lost it, or its clock was ahead. Nodes that heard of both end the ban with the shorter one;
// nodes that heard of the shorter one too late end it with the longer one.
func shortened(now time.Time, said []frame.Frame, live []ban.Record) (prefixes []netip.Prefix) {
	var all []ban.Record
	for _, f := range said {
		all = append(all, recordsOf(f)...)
	}
	for _, long := range all {
		for _, short := range all {
			if !long.Until.After(now) || !alike(long, short) || long.Version.Compare(short.Version) >= 0 || !short.Until.Before(long.Until) {
				continue
			}
			if !slices.ContainsFunc(live, func(r ban.Record) bool {
				return r.Kind == ban.KindRevoke && alike(r, long) && long.Version.Compare(r.Version) < 0 && !r.Until.Before(long.Until)
			}) {
				prefixes = append(prefixes, long.Prefix)
			}
		}
	}
	return prefixes
}

// lost returns the prefixes lifted by an unban or unallow that the whole fleet has lost; some nodes may remember it.
func lost(now time.Time, said []frame.Frame, live []ban.Record) (prefixes []netip.Prefix) {
	for _, f := range said {
		for _, u := range recordsOf(f) {
			if u.Kind != ban.KindUnban && u.Kind != ban.KindUnallow || !u.Until.After(now) {
				continue
			}
			if !slices.ContainsFunc(live, func(r ban.Record) bool { return r.Origin == u.Origin && r.Version == u.Version }) {
				prefixes = append(prefixes, u.Prefix)
			}
		}
	}
	return prefixes
}

// alike reports whether two records come from one origin and concern the same prefix and ports.
func alike(a, b ban.Record) bool {
	return a.Origin == b.Origin && a.Prefix == b.Prefix && a.Ports == b.Ports
}

// about lists what the frames and the table say about a prefix, for debugging a seed.
func about(rule ban.Rule, records []ban.Record, t *ban.Table) string {
	text := ""
	for _, r := range records {
		if r.Prefix.Overlaps(rule.Prefix) {
			text += fmt.Sprintf("\n\tframes: %v", r)
		}
	}
	for _, f := range t.Why(rule.Prefix) {
		text += fmt.Sprintf("\n\ttable: %v %v %v from %v until %v: %s", f.Kind, f.Prefix, f.Ports, f.Origin, f.Until, f.Status)
	}
	return text
}

func enforced(t *ban.Table, unsure []netip.Prefix) map[ban.Rule]bool {
	rules := make(map[ban.Rule]bool)
	all, _ := t.EnforcedAfter(0, math.MaxInt, nil)
	for _, rule := range all {
		sure := true
		for _, p := range unsure {
			sure = sure && !p.Overlaps(rule.Prefix)
		}
		if sure {
			rules[rule] = true
		}
	}
	return rules
}

// lawful checks, without a table, that a rule may be enforced: it is live, not on the never-ban list, not too wide, and
// some ban of it was not lifted.
func lawful(now time.Time, rule ban.Rule, records []ban.Record) error {
	switch {
	case !rule.Until.After(now):
		return errors.New("it has expired")
	case simNever[0].Prefix.Contains(rule.Prefix.Addr()):
		return errors.New("it is on the never-ban list")
	case rule.Prefix.Addr().Is4() && rule.Prefix.Bits() < 24:
		return errors.New("it is too wide")
	}
	for _, r := range records {
		if r.Kind == ban.KindBan && r.Prefix == rule.Prefix && r.Ports == rule.Ports && !cancelled(r, records) {
			return nil
		}
	}
	return errors.New("every ban of it was lifted")
}

func cancelled(r ban.Record, records []ban.Record) bool {
	for _, u := range records {
		if r.Issued.After(u.Issued.Add(ban.DefaultLimits().FutureSkew)) {
			continue // an unban covers only earlier bans
		}
		if u.Kind != ban.KindUnban || u.Prefix.Bits() > r.Prefix.Bits() || !u.Prefix.Contains(r.Prefix.Addr()) {
			continue
		}
		for _, m := range u.Marks {
			if m.Origin == r.Origin && (m.Epoch > r.Version.Epoch || m.Epoch == r.Version.Epoch && m.Seq >= r.Version.Seq) {
				return true
			}
		}
	}
	return false
}
