package fw

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// loadOnly is a backend whose full load fills sets and does nothing else.
type loadOnly struct {
	Backend
	load func(time.Time, State) (*portBans, error) // returns the port bans that its sets then hold
}

func (b loadOnly) Replace(_ context.Context, now time.Time, state State) error {
	_, err := b.load(now, state)
	return err
}

func (loadOnly) Traits() Traits { return Traits{DuringLoad: true} }

// eachLoader runs f for the backends that take fresh entries during a load.
func eachLoader(t *testing.T, f func(t *testing.T, n *sent, b loadOnly)) {
	t.Run(NameIPSet, func(t *testing.T) {
		var n sent
		b := fakeIPSet(&n)
		f(t, &n, loadOnly{b, func(now time.Time, state State) (*portBans, error) {
			l := newIPSetLoad(b, now)
			err := l.entries(t.Context(), state)
			return l.ports, err
		}})
	})
	t.Run(NameNFTables, func(t *testing.T) {
		var n sent
		b := fakeNFT(t, &n)
		b.refreshes = true
		f(t, &n, loadOnly{b, func(now time.Time, state State) (*portBans, error) {
			l := newNFTLoad(b, fakeNFT(t, &n).conn, now, "x")
			err := l.entries(t.Context(), state)
			return l.shape.ports, err
		}})
	})
}

// Fresh bans pass a load after one slice of its elements. The elements of entries with ports, and with nftables those of
// prefixes, are sent after the last entry; fresh bans used to wait for all of these, and with nftables for the whole load.
func TestFreshEntriesPassALoad(t *testing.T) {
	var halves []netip.Prefix // no two are adjacent, or they would be one element
	for i := range 60_000 {
		halves = append(halves, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i)}), 25))
	}
	for _, c := range []struct {
		name  string
		list  []netip.Prefix
		ports []PortRange
		after int // after how many entries of the list the fresh ones come
		rest  int // elements that are sent after them
	}{
		{"ok: ports", numbered(10, 60), []PortRange{{ProtoTCP, 1, 1000}}, 60, 60_000},
		{"ok: addresses", numbered(10, 60_000), nil, 20_000, 40_000},
		{"ok: prefixes", halves, nil, 60_000, 60_000},
	} {
		t.Run(c.name, func(t *testing.T) {
			eachLoader(t, func(t *testing.T, n *sent, b loadOnly) {
				after, rest := c.after, c.rest
				if b.Name() == NameIPSet && c.ports == nil {
					after, rest = 20_000, 40_000 // it sends prefixes as they come
				}
				freshDuring(t, n, b, c.list, c.ports, after, rest)
			})
		})
	}
}

func freshDuring(t *testing.T, n *sent, b loadOnly, list []netip.Prefix, ports []PortRange, after, rest int) {
	var s *Syncer
	end := time.Now().Add(time.Hour)
	fresh := []Entry{
		{Prefix: netip.MustParsePrefix("192.0.2.1/32"), Until: end},
		{Prefix: netip.MustParsePrefix("192.0.2.2/32"), Until: end, Ports: []PortRange{{ProtoTCP, 22, 22}}},
		{Prefix: netip.MustParsePrefix("198.51.100.0/24"), Until: end},
	}
	var told []int // elements sent before each answer
	cfg := SyncerConfig{Backend: b, Snapshot: func() State {
		return State{Entries: func(yield func(Entry) bool) {
			for i, p := range list {
				if !yield(Entry{Prefix: p, Until: end, Ports: ports}) {
					return
				}
				if i+1 != after {
					continue
				}
				*n = sent{}
				for _, e := range fresh {
					s.Submit([]Update{{Entry: e}}, func(_ time.Time, err error) {
						if err != nil {
							t.Error(err)
						}
						told = append(told, n.adds)
						n.adds = 0
					})
				}
			}
		}}
	}}
	s, err := NewSyncer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Replace(t.Context()); err != nil {
		t.Fatal(err)
	}
	most := maxSliceElements + max(maxElements, nftPending+nftMessage)
	if len(told) != len(fresh) || slices.Max(told) > most {
		t.Errorf("the fresh entries were sent after %d elements, want at most %d", told, most)
	}
	if n.adds < rest-2*most {
		t.Errorf("only %d elements came after them", n.adds)
	}
}

// An entry that comes while ports are sent is in the new sets too; an element it shares gets the latest end.
func TestPortsThatComeDuringALoad(t *testing.T) {
	now := time.Now()
	host := netip.MustParsePrefix("192.0.2.1/32")
	entry := func(end time.Duration, first, last uint16) Entry {
		return Entry{Prefix: host, Until: now.Add(end), Ports: []PortRange{{ProtoTCP, first, last}}}
	}
	eachLoader(t, func(t *testing.T, n *sent, b loadOnly) {
		late := []Entry{entry(time.Hour, 5, 6), entry(time.Minute, 7, 8)}
		ports, err := b.load(now, State{
			Entries: func(yield func(Entry) bool) {
				_ = yield(entry(10*time.Minute, 1, 1000)) && yield(entry(10*time.Minute, 2001, 3000))
			},
			Meanwhile: func(yield func(Entry) bool) {
				for _, e := range late {
					yield(e)
				}
				late = nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		live := map[portKey]time.Time{}
		for _, p := range ports.elements(now, host) {
			live[p.portKey] = p.until
		}
		for port, want := range map[uint16]time.Duration{5: time.Hour, 7: 10 * time.Minute, 9: 10 * time.Minute} {
			if got := live[portKey{ProtoTCP, port}].Sub(now); got != want {
				t.Errorf("port %d until %v, want %v", port, got, want)
			}
		}
		want := map[string]int{
			NameIPSet:    2*2000 + 6, // with sentinels; all are sent twice, because an element sent before may have changed
			NameNFTables: 2000 + 4 + 8,
		}[b.Name()]
		if n.adds != want {
			t.Errorf("%d elements were sent, want %d", n.adds, want)
		}
	})
}
