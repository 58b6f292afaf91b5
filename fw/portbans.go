package fw

import (
	"net/netip"
	"slices"
	"time"
)

// maxPortElements bounds what all entries with ports come to in the kernel: a range costs an element per port and
// protocol.
const maxPortElements = 1 << 20

// portKey is one protocol and one port.
type portKey struct {
	proto uint8
	port  uint16
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
}

// portBans knows all entries with ports. The kernel holds one element per prefix, protocol and port, and two entries
// may share some: an element lives as long as any entry that has it.
type portBans struct {
	bans map[netip.Prefix][]portBan
	size int // elements of all bans, shared ones counted twice
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

// keep notes an entry, in place of the one with its key. It says false if there is no room.
func (b *portBans) keep(e Entry) bool {
	key := e.Key()
	ban := portBan{ports: key.Ports, ranges: e.Ports, until: e.Until}
	bans := b.bans[key.Prefix]
	if i := slices.IndexFunc(bans, func(o portBan) bool { return o.ports == key.Ports }); i >= 0 {
		bans[i] = ban
		return true
	}
	n := elementsOf(e.Ports)
	if b.size+n > maxPortElements {
		return false
	}
	b.size += n
	b.bans[key.Prefix] = append(bans, ban)
	return true
}

// drop forgets the bans of a prefix for which f is true.
func (b *portBans) drop(prefix netip.Prefix, f func(portBan) bool) {
	bans := slices.DeleteFunc(b.bans[prefix], func(o portBan) bool {
		gone := f(o)
		if gone {
			b.size -= elementsOf(o.ranges)
		}
		return gone
	})
	if len(bans) == 0 {
		delete(b.bans, prefix)
	} else {
		b.bans[prefix] = bans
	}
}

// changes notes those updates of a batch that have ports, and then calls f once for each element of theirs: put in until a
// time, or with the zero time taken out. It does so whether or not the kernel is thought to have it, so that a batch may be
// tried again. left is the number of entries without room.
func (b *portBans) changes(now time.Time, updates []Update, f func(netip.Prefix, portElement)) (left int) {
	touched := map[netip.Prefix][]PortRange{}
	for _, u := range updates {
		if len(u.Ports) == 0 || !droppable(u.Prefix) {
			continue
		}
		key := u.Key()
		touched[key.Prefix] = append(touched[key.Prefix], u.Ports...)
		if u.Remove || !u.Until.After(now) {
			b.drop(key.Prefix, func(o portBan) bool { return o.ports == key.Ports })
		} else if !b.keep(u.Entry) {
			left++
		}
	}
	for prefix, ranges := range touched {
		live := b.elements(now, prefix)
		done := make(map[portKey]bool, len(live))
		expand(ranges, func(k portKey) {
			if !done[k] {
				done[k] = true
				f(prefix, portElement{k, live[k]})
			}
		})
	}
	return left
}

// elements are all that the kernel should hold of a prefix, each with the latest end. Entries that are over are
// forgotten.
func (b *portBans) elements(now time.Time, prefix netip.Prefix) map[portKey]time.Time {
	b.drop(prefix, func(o portBan) bool { return !o.until.After(now) })
	live := map[portKey]time.Time{}
	for _, ban := range b.bans[prefix] {
		expand(ban.ranges, func(k portKey) {
			if ban.until.After(live[k]) {
				live[k] = ban.until
			}
		})
	}
	return live
}
