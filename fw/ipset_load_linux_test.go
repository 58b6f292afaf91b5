package fw

import (
	"context"
	"net/netip"
	"testing"
	"time"
)

// loadOnly is an ipset of which a full load fills sets and does no more.
type loadOnly struct{ *ipset }

func (b loadOnly) Replace(ctx context.Context, now time.Time, state State) error {
	return newIPSetLoad(b.ipset, now).entries(ctx, state)
}

// The elements of entries with ports came after all others in a load, and no fresh ban passed them: of 300,000 elements it
// waited for each.
func TestFreshEntriesPassThePortsOfALoad(t *testing.T) {
	const prefixes, ports = 300, 1000
	var n sent
	var s *Syncer
	end := time.Now().Add(time.Hour)
	fresh := []Entry{
		{Prefix: netip.MustParsePrefix("192.0.2.1/32"), Until: end},
		{Prefix: netip.MustParsePrefix("192.0.2.2/32"), Until: end, Ports: []PortRange{{ProtoTCP, 22, 22}}},
	}
	var told []int // how many elements had been sent by then
	submit := func(i int) {
		s.Submit([]Update{{Entry: fresh[i]}}, func(_ time.Time, err error) {
			if err != nil {
				t.Error(err)
			}
			told = append(told, n.adds)
			n.adds = 0
		})
	}
	cfg := SyncerConfig{Backend: loadOnly{fakeIPSet(&n)}, Snapshot: func() State {
		return State{Entries: func(yield func(Entry) bool) {
			for _, p := range numbered(10, prefixes) {
				if !yield(Entry{Prefix: p, Until: end, Ports: []PortRange{{ProtoTCP, 1, ports}}}) {
					return
				}
			}
			n = sent{}
			submit(0)
			submit(1)
		}}
	}}
	s, err := NewSyncer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Replace(t.Context()); err != nil {
		t.Fatal(err)
	}
	const most = maxSliceElements + maxElements
	if len(told) != 2 || told[0] > most || told[1] > most {
		t.Errorf("the fresh entries were told after %d elements, want at most %d", told, most)
	}
	if n.adds < prefixes*ports-2*most {
		t.Errorf("only %d elements came after them", n.adds)
	}
}

// What comes while ports are sent is in the new sets too, with the latest end where it shares elements.
func TestPortsThatComeDuringALoad(t *testing.T) {
	now := time.Now()
	host := netip.MustParsePrefix("192.0.2.1/32")
	entry := func(end time.Duration, first, last uint16) Entry {
		return Entry{Prefix: host, Until: now.Add(end), Ports: []PortRange{{ProtoTCP, first, last}}}
	}
	late := []Entry{entry(time.Hour, 5, 6), entry(time.Minute, 7, 8)}
	var n sent
	l := newIPSetLoad(fakeIPSet(&n), now)
	err := l.entries(t.Context(), State{
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
	live := l.ports.elements(now, host)
	for port, want := range map[uint16]time.Duration{5: time.Hour, 7: 10 * time.Minute, 9: 10 * time.Minute} {
		if got := live[portKey{ProtoTCP, port}].Sub(now); got != want {
			t.Errorf("port %d until %v, want %v", port, got, want)
		}
	}
	if n.adds != 2*2000+6 { // with sentinels; all were sent again, for an element sent before may have been one that changed
		t.Errorf("%d elements were sent", n.adds)
	}
}
