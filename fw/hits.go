package fw

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// Hits returns how many packets of an entry have been dropped since the kernel took it. See [Options.Counters].
type Hits func(Entry) Dropped

// ErrNotCounted is what Hits returns without [Options.Counters].
var ErrNotCounted = errors.New("packets are not counted for each ban")

// Hits reads the counters of all bans in one go. A packet counts for the ban that it met first, and for those that
// contain that one. What an exception or a pause lets through counts too, because the bans are looked up before those.
func (s *Syncer) Hits(ctx context.Context) (Hits, error) {
	if most, n := s.traits.CountsUpTo, s.Status().Enforced; most > 0 && n > most {
		return nil, fmt.Errorf("%s reads the counters of up to %d bans, and %d are in force: use ipset", s.cfg.Backend.Name(), most, n)
	}
	s.counting.Lock()
	of, err := s.cfg.Backend.Hits(ctx)
	s.counting.Unlock()
	if err != nil {
		return nil, err
	}
	return func(e Entry) (sum Dropped) {
		s.books.RLock()
		ns := s.work.split.networks
		s.books.RUnlock()
		for _, e.Prefix = range ns.parts(nil, e.Prefix.Masked()) {
			sum = sum.plus(of(e))
		}
		return sum
	}, nil
}

func (d Dropped) plus(o Dropped) Dropped { return Dropped{d.Packets + o.Packets, d.Bytes + o.Bytes} }

// hit is the counter of an element.
type hit struct {
	first, last netip.Addr
	Dropped
}

// elementHits holds the counters of elements that have dropped something, each list sorted by first.
type elementHits map[portKey][]hit

func (h elementHits) add(k portKey, x hit) {
	if x.Packets > 0 {
		h[k] = append(h[k], x)
	}
}

// hits sorts what was added.
func (h elementHits) hits() Hits {
	for _, list := range h {
		slices.SortFunc(list, func(a, b hit) int { return a.first.Compare(b.first) })
	}
	return func(e Entry) (sum Dropped) {
		p := e.Prefix.Masked()
		if len(e.Ports) == 0 {
			return h.inside(portKey{}, p)
		}
		for _, port := range distinct(appendElements(nil, e.Ports, sentinelEnd)) {
			sum = sum.plus(h.inside(port.portKey, p))
		}
		return sum
	}
}

// inside adds up the elements that lie in p.
func (h elementHits) inside(k portKey, p netip.Prefix) (sum Dropped) {
	list, last := h[k], lastAddr(p)
	i, _ := slices.BinarySearchFunc(list, p.Addr(), func(x hit, a netip.Addr) int { return x.first.Compare(a) })
	for ; i < len(list) && list[i].first.Compare(last) <= 0; i++ {
		if list[i].last.Compare(last) <= 0 {
			sum = sum.plus(list[i].Dropped)
		}
	}
	return sum
}

// counting is a backend that wants to know what the kernel has taken, to tell new elements from renewed ones.
type counting interface{ counts(held *tracker) }
