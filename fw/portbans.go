package fw

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// maxPortElements bounds the elements of all entries with ports in the kernel: a range costs one element per port and
// protocol.
const (
	maxPortElements   = 1 << 20
	maxOthersElements = maxPortElements / 8 * 7 // the rest is reserved for this node's own entries
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

// portElement is a port of a prefix that the kernel should hold until a time, or not at all if the time is zero.
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

// portBans holds all entries with ports. The kernel holds one element per prefix, protocol and port. Several entries
// may share an element; it lives as long as any of them.
type portBans struct {
	bans    map[netip.Prefix][]portBan
	size    int            // elements of all bans that are not gone, shared ones counted twice
	leaving []netip.Prefix // prefixes of gone bans
}

func newPortBans() *portBans { return &portBans{bans: map[netip.Prefix][]portBan{}} }

// expand calls f for each protocol and port of the ranges, possibly more than once for the same.
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

// keep records an entry, replacing the one with its key. It returns false if there is no room or if the entry has too
// many elements.
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

// remove marks the bans of a prefix for which f is true as gone, and reports whether there are any. settle forgets them
// once the kernel has let go of them.
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

// settle forgets gone bans, once the kernel has taken the changes.
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

// changes records the updates of a batch that have ports, and then calls f once for each of their elements: added until
// a time, or removed if the time is zero. An addition that is not kept, or a removal of an unknown entry, has no
// elements. The batch may be tried again until settle is called. changes returns the entries without room.
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

// distinct sorts elements and keeps the one that lasts longest for each port. Elements of one list come sorted already.
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

// elements returns everything that the kernel should hold of a prefix, sorted, each with the latest end. Ended entries
// are forgotten.
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

// span returns the least and the most elements that the kernel may hold, as each finds them.
func (b *portBans) span(family int, now time.Time) (least, most int) {
	b.each(family, now, func(_ netip.Prefix, _ portKey, lasts bool) {
		if most++; lasts {
			least++
		}
	})
	return least, most
}
