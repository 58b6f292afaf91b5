package fw

import (
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"time"
)

// A ban that contains a network that this machine is in would cut the machine off from its neighbours. So in place of
// such an entry every backend gets its parts: the prefixes around the network. An entry inside the network goes to the
// kernel unchanged.

// Bounds on splitting.
const (
	MaxNetworks = 64 // networks that entries leave out

	maxParts       = 1 << 16          // elements of all parts together
	maxOthersParts = maxParts / 8 * 7 // the rest is reserved for this node's own entries
)

const (
	whyParts   = "too many bans contain a network of this machine's own"
	whyNetwork = "it is a network of this machine's own: its neighbours would be cut off"
)

// networks is a list sorted by comparePrefix. One may lie inside another.
type networks []netip.Prefix

// fitNetworks masks and sorts the first MaxNetworks of the list, without single addresses.
func fitNetworks(list []netip.Prefix) networks {
	var ns networks
	for _, p := range list {
		p = p.Masked()
		if droppable(p) && !p.IsSingleIP() && !slices.Contains(ns, p) && len(ns) < MaxNetworks {
			ns = append(ns, p)
		}
	}
	slices.SortFunc(ns, comparePrefix)
	return ns
}

// inside returns the networks that p contains. If p is itself a network, it comes first.
func (ns networks) inside(p netip.Prefix) networks {
	i, _ := slices.BinarySearchFunc(ns, p, comparePrefix)
	n := i
	for n < len(ns) && p.Contains(ns[n].Addr()) {
		n++
	}
	return ns[i:n]
}

// parts appends to dst the prefixes that make up p without the networks inside it.
func (ns networks) parts(dst []netip.Prefix, p netip.Prefix) []netip.Prefix {
	switch in := ns.inside(p); {
	case len(in) == 0:
		return append(dst, p)
	case in[0] == p:
		return dst
	}
	low, high := halves(p)
	return ns.parts(ns.parts(dst, low), high)
}

// halves returns the two prefixes that make up p.
func halves(p netip.Prefix) (low, high netip.Prefix) {
	return netip.PrefixFrom(p.Addr(), p.Bits()+1), netip.PrefixFrom(lastAddr(p), p.Bits()+1).Masked()
}

// wider returns the next wider prefix.
func wider(p netip.Prefix) netip.Prefix { return netip.PrefixFrom(p.Addr(), p.Bits()-1).Masked() }

// split tracks the entries that contain a network, and what the kernel holds in their place. Parts of several entries
// may coincide with each other or with entries: the latest end counts.
type split struct {
	networks networks
	around   map[netip.Prefix]bool // prefixes that may be parts, and those that contain a network
	wide     map[Key]Entry         // entries that contain a network
	whole    map[Key]bool          // entries of which nothing is left without the networks
	plain    map[Key]Entry         // other entries whose prefix is in around
	parts    map[Key]bool          // parts in the kernel that are not entries
	size     int                   // elements of the parts of all entries in wide
	touched  map[Key][]PortRange   // what changed returns next
}

func newSplit(ns networks) *split {
	s := &split{
		networks: ns, around: map[netip.Prefix]bool{}, wide: map[Key]Entry{}, whole: map[Key]bool{}, plain: map[Key]Entry{},
		parts: map[Key]bool{}, touched: map[Key][]PortRange{},
	}
	for _, p := range ns {
		for ; p.Bits() > 0; p = wider(p) {
			low, high := halves(wider(p))
			s.around[low], s.around[high] = true, true
		}
	}
	return s
}

// concerns reports whether an entry of this prefix has to go through note.
func (s *split) concerns(p netip.Prefix) bool {
	return len(s.networks) > 0 && !p.IsSingleIP() && s.around[p.Masked()]
}

// surplus returns how many more entries the kernel holds than there are entries that they stand for.
func (s *split) surplus() int { return len(s.parts) - len(s.wide) }

// note records an update of an entry that concerns s. It reports false if there is no room for the parts.
func (s *split) note(now time.Time, u Update) bool {
	u.Prefix = u.Prefix.Masked()
	key, parts := u.Key(), s.networks.parts(nil, u.Prefix)
	gone := u.Remove || !u.Until.After(now)
	entries, cost, room := s.wide, len(parts)*max(1, elementsOf(u.Ports)), maxParts
	switch {
	case len(parts) == 0:
		if delete(s.whole, key); !gone {
			s.whole[key] = true
		}
		return true
	case parts[0] == u.Prefix:
		entries, cost = s.plain, 0
	case !u.Own:
		room = maxOthersParts
	}
	_, there := entries[key]
	if !gone && !there && s.size+cost > room {
		return false
	}
	if there {
		s.size -= cost
		delete(entries, key)
	}
	if !gone {
		s.size += cost
		entries[key] = u.Entry
	}
	for _, p := range parts {
		s.touched[Key{p, key.Ports}] = u.Ports
	}
	return true
}

// changed returns the updates for the kernel since it was last called.
func (s *split) changed() (updates []Update) {
	for key, ports := range s.touched {
		u := Update{Entry: Entry{Prefix: key.Prefix, Ports: ports}, Remove: true}
		take := func(e Entry) {
			u.Remove, u.Own = false, u.Own || e.Own
			if e.Until.After(u.Until) {
				u.Until = e.Until
			}
		}
		plain, isPlain := s.plain[key]
		if isPlain {
			take(plain)
		}
		for p := key.Prefix; p.Bits() > 1; {
			if p = wider(p); len(s.networks.inside(p)) > 0 && s.networks.inside(p)[0] == p {
				break // entries that contain this network leave it out
			}
			if e, ok := s.wide[Key{p, key.Ports}]; ok {
				take(e)
			}
		}
		if delete(s.parts, key); !u.Remove && !isPlain {
			s.parts[key] = true
		}
		updates = append(updates, u)
	}
	clear(s.touched)
	return updates
}

// updates returns the updates for the kernel in place of a batch, and the entries without room.
func (s *split) updates(now time.Time, batch []Update) (out []Update, refused []Refusal) {
	first := slices.IndexFunc(batch, func(u Update) bool { return s.concerns(u.Prefix) })
	if first < 0 {
		return batch, nil
	}
	out = slices.Clone(batch[:first])
	for _, u := range batch[first:] {
		if !s.concerns(u.Prefix) {
			out = append(out, u)
		} else if !s.note(now, u) {
			refused = append(refused, Refusal{u.Entry, whyParts})
		}
	}
	return append(out, s.changed()...), refused
}

// problem says how many entries consist only of this machine's own networks; "" = none.
func (s *split) problem() string {
	switch n := len(s.whole); n {
	case 0:
		return ""
	case 1:
		return "1 ban is not enforced: " + whyNetwork
	default:
		return fmt.Sprintf("%d bans are not enforced: each covers one of this machine's networks and would cut off its neighbours", n)
	}
}

// LeftOut returns this machine's own networks that the kernel leaves out of an entry of this prefix, because the prefix
// contains them. None lies inside another.
func (s *Syncer) LeftOut(p netip.Prefix) []netip.Prefix {
	s.books.RLock()
	defer s.books.RUnlock()
	return outermost(s.work.split.networks.inside(p.Masked()))
}

// Around returns how many entries the kernel enforces except for this machine's own networks, and which networks those
// are.
func (s *Syncer) Around() (entries int, left []netip.Prefix) {
	s.books.RLock()
	defer s.books.RUnlock()
	for key := range s.work.split.wide {
		left = append(left, s.work.split.networks.inside(key.Prefix)...)
		left = outermost(left)
	}
	return len(s.work.split.wide), sorted(left)
}

// carry returns the updates for the kernel in place of updates, how many of them are withheld, and which entries have
// no room.
func (s *Syncer) carry(updates []Update) (carried []Update, left int, refused []Refusal) {
	w := &s.work
	s.books.Lock()
	carried, refused = w.split.updates(time.Now(), updates)
	if len(w.refused) > 0 && len(w.split.networks) > 0 {
		for _, u := range updates {
			w.refused.remove(u.Entry) // note adds again what is still refused
		}
	}
	s.books.Unlock()
	carried, left = s.withhold(carried)
	return carried, left, refused
}

// alsoRefused adds entries without room to a backend's error.
func alsoRefused(err error, refused []Refusal) error {
	var partial *PartialError
	switch {
	case len(refused) == 0:
		return err
	case err == nil:
		return refusedError(refused)
	case errors.As(err, &partial):
		return &PartialError{Left: partial.Left + len(refused), Why: partial.Why, Refused: slices.Concat(partial.Refused, refused)}
	}
	return err
}

// kernel yields what the kernel holds in place of entries, each key once.
func (s *split) kernel(entries iter.Seq[Entry]) iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		seen := map[Key]bool{}
		for e := range entries {
			if !s.concerns(e.Prefix) {
				if !yield(e) {
					return
				}
				continue
			}
			for _, e.Prefix = range s.networks.parts(nil, e.Prefix.Masked()) {
				if key := e.Key(); !seen[key] && !yield(e) {
					return
				} else {
					seen[key] = true
				}
			}
		}
	}
}
