package fw

import (
	"fmt"
	"net/netip"
)

// tracker records which keys the kernel holds, to count them. A plain address costs about 8 bytes (v4) or 26 (v6), so
// that a million remain affordable.
type tracker struct {
	v4    map[[4]byte]struct{}
	v6    map[[16]byte]struct{}
	other map[Key][]PortRange
}

func (t *tracker) len() int { return len(t.v4) + len(t.v6) + len(t.other) }

func (t *tracker) add(e Entry) {
	switch addr := e.Prefix.Addr(); {
	case len(e.Ports) > 0 || !e.Prefix.IsSingleIP():
		if t.other == nil {
			t.other = map[Key][]PortRange{}
		}
		t.other[e.Key()] = e.Ports
	case addr.Is4():
		if t.v4 == nil {
			t.v4 = map[[4]byte]struct{}{}
		}
		t.v4[addr.As4()] = struct{}{}
	default:
		if t.v6 == nil {
			t.v6 = map[[16]byte]struct{}{}
		}
		t.v6[addr.As16()] = struct{}{}
	}
}

func (t *tracker) remove(e Entry) {
	switch addr := e.Prefix.Addr(); {
	case len(e.Ports) > 0 || !e.Prefix.IsSingleIP():
		delete(t.other, e.Key())
	case addr.Is4():
		delete(t.v4, addr.As4())
	default:
		delete(t.v6, addr.As16())
	}
}

// all yields the entries, without their ends.
func (t *tracker) all(yield func(Entry) bool) {
	for key, ports := range t.other {
		if !yield(Entry{Prefix: key.Prefix, Ports: ports}) {
			return
		}
	}
	for a := range t.v4 {
		if !yield(Entry{Prefix: netip.PrefixFrom(netip.AddrFrom4(a), 32)}) {
			return
		}
	}
	for a := range t.v6 {
		if !yield(Entry{Prefix: netip.PrefixFrom(netip.AddrFrom16(a), 128)}) {
			return
		}
	}
}

// overlapping returns updates that remove the entries that overlap one of the prefixes.
func (t *tracker) overlapping(ps prefixes) (out []Update) {
	if len(ps) == 0 {
		return nil
	}
	for e := range t.all {
		if _, ok := ps.overlap(e.Prefix); ok {
			out = append(out, Update{Entry: e, Remove: true})
		}
	}
	return out
}

// refused holds the entries that the backend did not take, by reason.
type refused map[string]*tracker

func (r refused) add(x Refusal) {
	t := r[x.Why]
	if t == nil {
		t = new(tracker)
		r[x.Why] = t
	}
	t.add(x.Entry)
}

func (r refused) remove(e Entry) {
	for why, t := range r {
		if t.remove(e); t.len() == 0 {
			delete(r, why)
		}
	}
}

func (r refused) len() (n int) {
	for _, t := range r {
		n += t.len()
	}
	return n
}

// why returns why e was not taken; "" if it was not refused.
func (r refused) why(e Entry) string {
	for why, t := range r {
		if t.has(e) {
			return why
		}
	}
	return ""
}

// problem says how many entries were not taken, and why; "" if none.
func (r refused) problem() string {
	var most string
	for why, t := range r {
		if n := r[most]; n == nil || t.len() > n.len() || t.len() == n.len() && why < most {
			most = why
		}
	}
	if most == "" {
		return ""
	}
	if r.len() == 1 {
		return "1 ban is not enforced: " + most
	}
	return fmt.Sprintf("%d bans are not enforced: %s", r.len(), most)
}
