package ban

import (
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// base is when the tests start.
var base = time.UnixMilli(1_800_000_000_000).UTC()

func tick(n int) time.Time { return base.Add(time.Duration(n) * time.Second) }

func pfx(s string) netip.Prefix {
	p, err := parsePrefix(s)
	if err != nil {
		panic(err)
	}
	return p
}

// parsePrefix reads an address or a prefix and normalizes it.
func parsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if a, errAddr := netip.ParseAddr(s); errAddr == nil && a.Zone() == "" {
		p, err = netip.PrefixFrom(a, a.BitLen()), nil
	}
	if err != nil {
		return p, err
	}
	return Normalize(p)
}

func ports(s string) Ports {
	p, err := ParsePorts(s)
	if err != nil {
		panic(err)
	}
	return p
}

var self, peerA, peerB, peerC = Origin{0x51}, Origin{0xa1}, Origin{0xb2}, Origin{0xc3}

func newTable(t testing.TB, cfg Config) *Table {
	t.Helper()
	cfg.Self = self
	tb, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return tb
}

// record returns the record that o says in its seq-th frame, issued at tick seq.
func record(o Origin, seq int, k Kind, prefix string, until int, more ...func(*Record)) Record {
	r := Record{
		Op:     Op{Kind: k, Prefix: pfx(prefix), Until: tick(until)},
		Origin: o, Version: Version{Epoch: 1, Seq: uint64(seq)}, Issued: tick(seq),
	}
	for _, m := range more {
		m(&r)
	}
	return r
}

func onPorts(s string) func(*Record) { return func(r *Record) { r.Ports = ports(s) } }
func because(s string) func(*Record) { return func(r *Record) { r.Reason = s } }
func atIndex(i uint16) func(*Record) { return func(r *Record) { r.Version.Index = i } }
func marks(ms ...Mark) func(*Record) { return func(r *Record) { r.Marks = ms } }
func upTo(o Origin, seq uint64) Mark { return Mark{Origin: o, Epoch: 1, Seq: seq} }
func single(r Record) []Record       { return []Record{r} }
func enforcedOf(t *Table) map[ruleKey]int64 {
	out := map[ruleKey]int64{}
	rules, _ := t.EnforcedAfter(0, math.MaxInt, nil)
	for _, r := range rules {
		out[ruleKey{r.Prefix, r.Ports}] = millis(r.Until)
	}
	return out
}

// fold applies the changes to kernel and returns an error for anything that a firewall would stumble over.
func fold(kernel map[ruleKey]int64, cs []Change) error {
	for _, c := range cs {
		k := ruleKey{c.Prefix, c.Ports}
		old, there := kernel[k]
		switch {
		case c.Enforce && c.Lift:
			return fmt.Errorf("%v of %v: both enforce and lift", c.Event, k)
		case c.Enforce && there && old == millis(c.Until):
			return fmt.Errorf("%v of %v: enforces an entry that is in force already", c.Event, k)
		case c.Enforce:
			kernel[k] = millis(c.Until)
		case c.Lift && !there:
			return fmt.Errorf("%v of %v: lifts an entry that is not in force", c.Event, k)
		case c.Lift && old != millis(c.Until):
			return fmt.Errorf("%v of %v: lifts until %v, was %v", c.Event, k, c.Until, fromMillis(old))
		case c.Lift:
			delete(kernel, k)
		}
	}
	return nil
}

// dump writes the whole state in a canonical form. Revokes and floors keep older versions out in the same way; if alike
// is set, they are written the same, without their version.
func dump(t *Table, alike bool) string {
	var lines []string
	say := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	for _, b := range []*recordSet{&t.bans, &t.allows} {
		tombs := map[string]int64{}
		for i := uint32(1); i < b.entries.end; i++ {
			e := b.entries.at(i)
			for j := e.claims; j != 0; j = b.claims.at(j).next {
				x, r := b.claims.at(j), t.recordOf(b, j)
				if alike && (x.kind == KindRevoke || x.kind == kindFloor) {
					k := fmt.Sprintf("tomb %v %q %v", r.Prefix, r.Ports, r.Origin.Short())
					tombs[k] = max(tombs[k], x.until)
					continue
				}
				span := x.span
				if alike || x.kind == kindFloor { // a node that heard less knows less
					span = 0
				}
				say("%v %v +%d %v %q %v %v until %d issued %d %q %q", x.kind, x.hold, span, r.Prefix, r.Ports, r.Origin.Short(), r.Version, x.until, x.issued, r.Reason, r.Source)
			}
			if e.state != stateNone {
				say("entry %v %q %v until %d", e.key().prefix(), t.ports.at(e.ports), e.state, e.until)
			}
		}
		for k, until := range tombs {
			say("%s until %d", k, until)
		}
		for i := uint32(1); i < b.cancels.marks.end; i++ {
			if b.cancels.marks.at(i).until != 0 {
				r := t.cancelMarkRecord(b, i)
				say("%v %v %v issued %d until %d marks %v %q %q", r.Kind, r.Prefix, r.Origin.Short(), millis(r.Issued), millis(r.Until), r.Marks, r.Reason, r.Source)
			}
		}
	}
	for _, i := range t.lifts.ids {
		r, b := *t.lifts.all.at(i), &t.bans
		if r.Kind == KindUnallow {
			b = &t.allows
		}
		if _, news, _ := t.wouldAdd(b, &r); news { // without news, whether it waits depends on the order of arrival
			say("%v %v %v %v %v until %d marks %v", r.Hold, r.Kind, r.Prefix, r.Origin.Short(), r.Version, millis(r.Until), r.Marks)
		}
	}
	for i := uint32(1); i < t.bans.entries.end; i++ {
		if e, ok := t.entryOf(i); ok {
			say("shown %+v", e)
		}
	}
	c := t.Counts()
	if alike {
		c.Records = 0
	}
	never, allow := t.Exceptions().Lists()
	if alike {
		slices.SortFunc(allow, netip.Prefix.Compare) // their order is that of their versions
	}
	say("counts %+v exceptions %v %v", c, never, allow)
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// sound returns an error if the table's invariants are broken.
func sound(t *Table) error {
	if len(t.touched) != 0 {
		return fmt.Errorf("%d entries still touched", len(t.touched))
	}
	if err := soundCancels(t); err != nil {
		return err
	}
	var states [StateAllowed + 1]int
	refs := map[uint32]uint32{}
	held, spoken, waiting, elements := 0, map[Origin]uint32{}, map[Origin]int{}, map[Origin]int{}
	for _, b := range []*recordSet{&t.bans, &t.allows} {
		live, claims, floors := 0, 0, 0
		roots := map[uint32]bool{}
		for i := uint32(1); i < b.entries.end; i++ {
			e := b.entries.at(i)
			if e.claims == 0 {
				continue
			}
			live++
			roots[rootOf(e.key())] = true
			if b == &t.bans {
				states[e.state]++
			}
			if got := b.find(e.key(), e.ports); got != i {
				return fmt.Errorf("entry %d of %v found as %d", i, e.key().prefix(), got)
			}
			seen := map[cancelID]bool{}
			for j := e.claims; j != 0; j = b.claims.at(j).next {
				x := b.claims.at(j)
				claims++
				refs[x.epoch]++
				spoken[t.epochs.at(x.epoch).origin]++
				if x.hold.Waits() {
					held++
					waiting[t.epochs.at(x.epoch).origin]++
					if at, ok := t.held.place[t.heldID(b, j)]; !ok || t.held.ids[at] != t.heldID(b, j) {
						return fmt.Errorf("claim %d waits and is not listed", j)
					}
				}
				id := cancelID{origin: t.epochs.at(x.epoch).origin}
				if n := t.ports.at(e.ports).Elements(); n > 0 && x.kind == KindBan {
					elements[t.epochs.at(x.epoch).origin] += n
				}
				if x.kind == kindFloor {
					floors++
					id.version.Index = 1
				}
				if seen[id] || x.entry != i {
					return fmt.Errorf("entry %d: origin %v twice, or a claim of entry %d", i, id.origin.Short(), x.entry)
				}
				seen[id] = true
			}
		}
		if live != b.entries.live || claims != b.claims.live || floors != b.floors {
			return fmt.Errorf("%d entries, %d claims, %d floors; counted %d, %d, %d", live, claims, floors, b.entries.live, b.claims.live, b.floors)
		}
		if b.tree.nodes.live != live-len(roots) {
			return fmt.Errorf("%d entries in %d nodes under %d roots", live, b.tree.nodes.live, len(roots))
		}
		for name, c := range map[string]struct {
			forms formCount
			want  int
		}{"entries": {b.forms, live}, "cancel marks": {b.cancels.forms, len(b.cancels.first)}} {
			n := 0
			for _, x := range c.forms.n {
				n += int(x)
			}
			if n != c.want {
				return fmt.Errorf("forms of %d %s, there are %d", n, name, c.want)
			}
		}
	}
	for _, i := range t.lifts.ids {
		if r := t.lifts.all.at(i); r.Hold.Waits() {
			held++
			waiting[r.Origin]++
		}
	}
	if held != len(t.held.ids) || held != len(t.held.place) {
		return fmt.Errorf("%d wait, %d are listed in %d places", held, len(t.held.ids), len(t.held.place))
	}
	if len(waiting) != len(t.held.of) {
		return fmt.Errorf("bans of %d origins wait, counted %d", len(waiting), len(t.held.of))
	}
	for o, n := range waiting {
		if got := t.WaitingOf(o); got != n {
			return fmt.Errorf("%d bans of %s wait, counted %d", n, o.Short(), got)
		}
	}
	for o, n := range spoken {
		if got := t.RecordsOf(o); got != int(n) {
			return fmt.Errorf("%d records of %s, counted %d", n, o.Short(), got)
		}
	}
	if !maps.Equal(tally(elements), t.elementsOf) {
		return fmt.Errorf("port elements %v, counted %v", elements, t.elementsOf)
	}
	if len(t.claimsOf) != len(spoken) {
		return fmt.Errorf("%d origins, %d speak", len(t.claimsOf), len(spoken))
	}
	states[stateNone] = t.states[stateNone]
	if states != t.states {
		return fmt.Errorf("states %v, counted %v", t.states, states)
	}
	for name, n := range map[string][2]int{
		"epochs": {len(t.epochs.ids), t.epochs.vals.live}, "words": {len(t.words.ids), t.words.vals.live},
		"ports": {len(t.ports.ids), t.ports.vals.live},
	} {
		if n[0] != n[1] {
			return fmt.Errorf("%d %s under %d numbers", n[0], name, n[1])
		}
	}
	if len(t.epochs.ids) != len(refs) {
		return fmt.Errorf("%d epochs, %d are in use", len(t.epochs.ids), len(refs))
	}
	inForce := map[Origin]int{}
	for i := uint32(1); i < t.allows.claims.end; i++ {
		if x := t.allows.claims.at(i); x.kind == KindAllow && x.hold == HoldNone && t.counts(&t.allows, t.allows.entries.at(x.entry), x) {
			inForce[t.epochs.at(x.epoch).origin]++
		}
	}
	if !t.chores.busy() && !maps.Equal(tally(inForce), t.allowsOf) {
		return fmt.Errorf("allows in force %v, counted %v", inForce, t.allowsOf)
	}
	for i, n := range refs {
		if got := t.epochs.vals.at(i).refs; got != n {
			return fmt.Errorf("epoch %d: %d references, %d are in use", i, got, n)
		}
	}
	return nil
}

// soundCancels returns an error if the invariants of the cancels are broken.
func soundCancels(t *Table) error {
	said, parties := map[uint32]uint32{}, map[uint32]bool{}
	room, all, kept := map[Origin]int{}, 0, 0
	for _, b := range []*recordSet{&t.bans, &t.allows} {
		c := &b.cancels
		chained := 0
		for k, i := range c.first {
			front := map[uint32]int{}
			for ; i != 0; i = c.marks.at(i).next {
				s := c.marks.at(i)
				if s.target != k || s.until == 0 {
					return fmt.Errorf("cancel mark %d hangs at a foreign target", i)
				}
				if front[s.by]++; front[s.by] > maxFront {
					return fmt.Errorf("%d cancel marks of one origin at one target", front[s.by])
				}
				if _, void := t.withdrawn[t.parties.at(s.by)]; void != t.parties.void[s.by] {
					return fmt.Errorf("cancel mark %d: void is %v", i, !void)
				}
				chained++
				said[s.by]++
				parties[s.by], parties[s.about] = true, true
			}
		}
		if chained != c.marks.live || len(c.ends) < chained || len(c.ends) > 2*chained+staleSlack {
			return fmt.Errorf("%d cancel marks, %d in chains, %d ends", c.marks.live, chained, len(c.ends))
		}
		for i := range b.wakes.at {
			if b.claims.at(i).kind == 0 {
				return fmt.Errorf("claim %d wakes and is gone", i)
			}
		}
	}
	for o, i := range t.parties.ids {
		if t.parties.said[i] != said[i] || !parties[i] {
			return fmt.Errorf("%d cancel marks of %s, counted %d", said[i], o.Short(), t.parties.said[i])
		}
	}
	for _, i := range t.lifts.ids {
		r := t.lifts.all.at(i)
		n := liftRoom + len(r.Marks)
		if kept += n; r.Hold.Waits() {
			room[r.Origin] += n
			all += n
		}
	}
	for _, b := range []*recordSet{&t.bans, &t.allows} {
		for i := uint32(1); i < b.claims.end; i++ {
			if x := b.claims.at(i); x.kind != 0 && x.hold.Waits() {
				room[t.epochs.at(x.epoch).origin]++
				all++
			}
		}
	}
	if !maps.Equal(tally(room), t.held.room) || all != t.held.all || kept != t.lifts.room || len(t.lifts.ids) != t.lifts.all.live {
		return fmt.Errorf("%d of %d lifts, which take %d, counted %d; what waits takes %v, counted %v, %d",
			len(t.lifts.ids), t.lifts.all.live, kept, t.lifts.room, room, t.held.room, t.held.all)
	}
	if q := &t.chores; len(q.queue) != len(q.waiting) {
		return fmt.Errorf("%d chores in order, %d wait", len(q.queue), len(q.waiting))
	}
	return nil
}

func diffMaps(got, want map[ruleKey]int64) string {
	var b strings.Builder
	for k, u := range want {
		if g, ok := got[k]; !ok || g != u {
			fmt.Fprintf(&b, "%v %q: got %d, want %d; ", k.prefix, k.ports, g, u)
		}
	}
	for k := range got {
		if _, ok := want[k]; !ok {
			fmt.Fprintf(&b, "%v %q: is enforced, should not be; ", k.prefix, k.ports)
		}
	}
	if maps.Equal(got, want) {
		return ""
	}
	return b.String()
}

func (t *Table) liftBans(now time.Time, prefix netip.Prefix, reason, source string) ([]Op, error) {
	return t.liftOps(now, Op{Kind: KindUnban, Prefix: prefix, Reason: reason, Source: source})
}

func (t *Table) liftAllows(now time.Time, prefix netip.Prefix, reason, source string) ([]Op, error) {
	return t.liftOps(now, Op{Kind: KindUnallow, Prefix: prefix, Reason: reason, Source: source})
}

// liftOps returns the ops that lift everything inside op's prefix, or ErrNotFound.
func (t *Table) liftOps(now time.Time, op Op) (ops []Op, err error) {
	l, err := t.Lift(op, 0, 0)
	for more := err == nil; more; {
		var some []Op
		some, more = l.Next(now, math.MaxInt)
		ops = append(ops, some...)
	}
	if err == nil && len(ops) == 0 {
		err = ErrNotFound
	}
	return ops, err
}
