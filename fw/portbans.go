package fw

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// maxPortElements bounds what all entries with ports come to in the kernel: a range costs an element per port and
// protocol.
const (
	maxPortElements   = 1 << 20
	maxOthersElements = maxPortElements / 8 * 7 // the rest is kept for entries of this node's own
)

// portKey is one protocol and one port.
type portKey struct {
	proto uint8
	port  uint16
}

// compare orders by port, then by protocol, as expand does.
func (k portKey) compare(o portKey) int {
	return cmp.Or(cmp.Compare(k.port, o.port), cmp.Compare(k.proto, o.proto))
}

// portElement is a port of a prefix that the kernel should hold until a time; the zero time = not at all.
type portElement struct {
	portKey
	until time.Time
}

// portBan is one entry with ports.
type portBan struct {
	ports  string // as in Key
	ranges []PortRange
	until  time.Time
	gone   bool // removed; the kernel may not have been told yet
}

// portBans knows all entries with ports. The kernel holds one element per prefix, protocol and port, and two entries
// may share some: an element lives as long as any entry that has it.
type portBans struct {
	bans    map[netip.Prefix][]portBan
	size    int            // elements of all bans but those gone, shared ones counted twice
	leaving []netip.Prefix // of what is gone
}

func newPortBans() *portBans { return &portBans{bans: map[netip.Prefix][]portBan{}} }

// expand calls f for each protocol and port of the ranges, perhaps more than once for the same.
func expand(ranges []PortRange, f func(portKey)) {
	for _, r := range ranges {
		for port := int(r.First); port <= int(r.Last); port++ {
			if r.Proto != ProtoUDP {
				f(portKey{ProtoTCP, uint16(port)})
			}
			if r.Proto != ProtoTCP {
				f(portKey{ProtoUDP, uint16(port)})
			}
		}
	}
}

func elementsOf(ranges []PortRange) (n int) {
	for _, r := range ranges {
		ports := max(0, int(r.Last)-int(r.First)+1)
		if r.Proto == ProtoAny {
			ports *= 2
		}
		n += ports
	}
	return n
}

// keep notes an entry, in place of the one with its key. It says false if there is no room, or the entry has too many
// elements.
func (b *portBans) keep(e Entry) bool {
	n, room := elementsOf(e.Ports), maxPortElements
	if !e.Own {
		room = maxOthersElements
	}
	key := e.Key()
	ban := portBan{ports: key.Ports, ranges: e.Ports, until: e.Until}
	bans := b.bans[key.Prefix]
	i := slices.IndexFunc(bans, func(o portBan) bool { return o.ports == key.Ports })
	if i >= 0 && !bans[i].gone {
		bans[i] = ban
		return true
	}
	if n > MaxPortElements || b.size+n > room {
		return false
	}
	b.size += n
	if i >= 0 {
		bans[i] = ban
	} else {
		b.bans[key.Prefix] = append(bans, ban)
	}
	return true
}

// remove marks the bans of a prefix for which f is true as gone, and reports whether there are any. They are forgotten by
// settle, when the kernel has let go of them.
func (b *portBans) remove(prefix netip.Prefix, f func(portBan) bool) (known bool) {
	bans := b.bans[prefix]
	for i := range bans {
		if !f(bans[i]) {
			continue
		}
		known = true
		if !bans[i].gone {
			bans[i].gone = true
			b.size -= elementsOf(bans[i].ranges)
			b.leaving = append(b.leaving, prefix)
		}
	}
	return known
}

// settle forgets what is gone: the kernel has taken the changes.
func (b *portBans) settle() {
	for _, prefix := range b.leaving {
		bans := slices.DeleteFunc(b.bans[prefix], func(o portBan) bool { return o.gone })
		if len(bans) == 0 {
			delete(b.bans, prefix)
		} else {
			b.bans[prefix] = bans
		}
	}
	b.leaving = nil
}

// changes notes those updates of a batch that have ports, and then calls f once for each element of theirs: put in until a
// time, or with the zero time taken out. What is not kept, or removed and not known, has none. Until settle the batch may
// be tried again. It returns the entries without room.
func (b *portBans) changes(now time.Time, updates []Update, f func(netip.Prefix, portElement)) (refused []Refusal) {
	touched := map[netip.Prefix][]PortRange{}
	for _, u := range updates {
		if len(u.Ports) == 0 || !droppable(u.Prefix) {
			continue
		}
		key := u.Key()
		if u.Remove || !u.Until.After(now) {
			if !b.remove(key.Prefix, func(o portBan) bool { return o.ports == key.Ports }) {
				continue
			}
		} else if !b.keep(u.Entry) {
			refused = append(refused, Refusal{u.Entry, whyPorts})
			continue
		}
		touched[key.Prefix] = append(touched[key.Prefix], u.Ports...)
	}
	for prefix, ranges := range touched {
		live := b.elements(now, prefix)
		for _, e := range distinct(appendElements(nil, ranges, time.Time{})) {
			for len(live) > 0 && live[0].compare(e.portKey) < 0 {
				live = live[1:]
			}
			if len(live) > 0 && live[0].portKey == e.portKey {
				e.until = live[0].until
			}
			f(prefix, e)
		}
	}
	return refused
}

func appendElements(dst []portElement, ranges []PortRange, until time.Time) []portElement {
	dst = slices.Grow(dst, elementsOf(ranges))
	expand(ranges, func(k portKey) { dst = append(dst, portElement{k, until}) })
	return dst
}

// distinct sorts elements and leaves of each port the one that lasts longest. What comes from one list is sorted already.
func distinct(list []portElement) []portElement {
	slices.SortFunc(list, func(a, b portElement) int { return cmp.Or(a.compare(b.portKey), b.until.Compare(a.until)) })
	return slices.CompactFunc(list, func(a, b portElement) bool { return a.portKey == b.portKey })
}

// refuse forgets the bans of a prefix that have a port for which the kernel had no room, and returns them.
func (b *portBans) refuse(prefix netip.Prefix, k portKey) (refused []Refusal) {
	b.remove(prefix, func(o portBan) bool {
		has := !o.gone && slices.ContainsFunc(o.ranges, func(r PortRange) bool {
			return r.First <= k.port && k.port <= r.Last && (r.Proto == ProtoAny || r.Proto == k.proto)
		})
		if has {
			refused = append(refused, Refusal{Entry{Prefix: prefix, Ports: o.ranges}, whyFull})
		}
		return has
	})
	return refused
}

// elements are all that the kernel should hold of a prefix, sorted, each with the latest end. Entries that are over are
// forgotten.
func (b *portBans) elements(now time.Time, prefix netip.Prefix) (live []portElement) {
	b.remove(prefix, func(o portBan) bool { return !o.until.After(now) })
	for _, ban := range b.bans[prefix] {
		if !ban.gone {
			live = appendElements(live, ban.ranges, ban.until)
		}
	}
	return distinct(live)
}

// each calls f for every element of a family that the kernel may still hold. lasts reports whether the element must be
// there, because it is not about to end.
func (b *portBans) each(family int, now time.Time, f func(p netip.Prefix, k portKey, lasts bool)) {
	for prefix := range b.bans {
		if (family == 0) == prefix.Addr().Is4() {
			for _, e := range b.elements(now.Add(-endSlack), prefix) {
				f(prefix, e.portKey, e.until.After(now.Add(endSlack)))
			}
		}
	}
}

// span is the least and the most that each comes to.
func (b *portBans) span(family int, now time.Time) (least, most int) {
	b.each(family, now, func(_ netip.Prefix, _ portKey, lasts bool) {
		if most++; lasts {
			least++
		}
	})
	return least, most
}
