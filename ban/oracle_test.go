package ban

import (
	"net/netip"
	"slices"
	"time"
)

// oracle keeps every record that was live when it was given, and works out from scratch each time, from the definition
// alone, what is enforced.
type oracle struct {
	self    Origin
	quorum  int
	skew    time.Duration
	never   []netip.Prefix
	groups  map[groupKey][]Record // bans and revokes, or allows, of one origin, prefix and ports
	cancels []Record              // unbans and unallows
}

type groupKey struct {
	allow  bool
	prefix netip.Prefix
	ports  Ports
	origin Origin
}

type ruleKey struct {
	prefix netip.Prefix
	ports  Ports
}

func (o *oracle) merge(now int64, rs []Record) {
	for _, r := range rs {
		if millis(r.Until) <= now {
			continue
		}
		if r.Kind == KindUnban || r.Kind == KindUnallow {
			if at := slices.IndexFunc(o.cancels, func(c Record) bool { return c.Origin == r.Origin && c.Version == r.Version }); at < 0 {
				o.cancels = append(o.cancels, r)
			} else {
				o.cancels[at].Hold = o.cancels[at].Hold.join(r.Hold)
			}
			continue
		}
		k := groupKey{r.Kind == KindAllow, r.Prefix, r.Ports, r.Origin}
		r.Hold = r.hold()
		at := slices.IndexFunc(o.groups[k], func(g Record) bool { return g.Version == r.Version })
		if at < 0 {
			o.groups[k] = append(o.groups[k], r)
		} else if top := o.winner(o.groups[k]); top.Version == r.Version { // nothing is left of what was superseded
			o.groups[k][at].Hold = o.groups[k][at].Hold.join(r.Hold)
		}
	}
}

// expire forgets what can no longer matter. The records of a group go together: a newer one that ended earlier still
// keeps an older one out.
func (o *oracle) expire(now int64) {
	dead := func(r Record) bool { return millis(r.Until) <= now }
	o.cancels = slices.DeleteFunc(o.cancels, dead)
	for k, g := range o.groups {
		if !slices.ContainsFunc(g, func(r Record) bool { return !dead(r) }) {
			delete(o.groups, k)
			continue
		}
		for i, r := range g { // what has ended asks for nothing, but keeps its place
			if dead(r) && r.Kind != KindRevoke {
				g[i].Kind = KindRevoke
			}
		}
	}
}

func (o *oracle) winner(g []Record) Record {
	return slices.MaxFunc(g, func(a, b Record) int { return a.Version.Compare(b.Version) })
}

func contains(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}

func (o *oracle) cancelled(r Record, by Kind) bool {
	return slices.ContainsFunc(o.cancels, func(c Record) bool {
		return c.Kind == by && c.Hold == HoldNone && !r.Issued.After(c.Issued.Add(o.skew)) && contains(c.Prefix, r.Prefix) && slices.ContainsFunc(c.Marks, func(m Mark) bool {
			return m.Origin == r.Origin && m.covers(r.Version)
		})
	})
}

func (o *oracle) allowed(p netip.Prefix) bool {
	if slices.ContainsFunc(o.never, func(n netip.Prefix) bool { return contains(n, p) }) {
		return true
	}
	for k, g := range o.groups {
		if w := o.winner(g); k.allow && contains(k.prefix, p) && w.Kind == KindAllow && w.Hold == HoldNone && !o.cancelled(w, KindUnallow) {
			return true
		}
	}
	return false
}

// enforced returns the ends of everything that should be enforced, in Unix milliseconds.
func (o *oracle) enforced() map[ruleKey]int64 {
	ends := map[ruleKey][]int64{}
	for k, g := range o.groups {
		w := o.winner(g)
		if w.Kind != KindBan || k.allow || w.Hold != HoldNone || o.cancelled(w, KindUnban) {
			continue
		}
		n := 1
		if k.origin == o.self {
			n = o.quorum
		}
		rk := ruleKey{k.prefix, k.ports}
		ends[rk] = append(ends[rk], slices.Repeat([]int64{millis(w.Until)}, n)...)
	}
	out := map[ruleKey]int64{}
	for k, us := range ends {
		if slices.Sort(us); len(us) >= o.quorum && !o.allowed(k.prefix) {
			out[k] = us[len(us)-o.quorum]
		}
	}
	return out
}
