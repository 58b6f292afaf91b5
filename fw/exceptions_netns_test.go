//go:build linux && netns

package fw

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// Both lists used to be one, sorted and truncated. A member that allowed 70,000 addresses from 1.0.0.0 up, then banned the
// LAN, cut off the gateway and the machine's own address.
func TestNeverBanListHoldsWhateverIsAllowed(t *testing.T) {
	eachVariant(t, func(t *testing.T, r *rig, v variant) {
		want := Exceptions{
			Never: []netip.Prefix{prefix("192.0.2.1"), prefix("198.51.100.7"), prefix("2001:db8::1")},
			Allow: append([]netip.Prefix{prefix("203.0.113.5")}, numbered(1, 70_000)...),
		}
		want.Allow = append(want.Allow, prefix("198.18.7.7"))
		s, err := NewSyncer(SyncerConfig{
			Backend:    r.open(v, OutboundDrop),
			Exceptions: func() Exceptions { return want },
			Snapshot: func() State {
				return state(entry("192.0.2.0/24"), entry("198.51.100.0/24"), entry("2001:db8::/48"), entry("203.0.113.0/24"),
					entry("198.18.7.0/24"), entry("198.18.8.1"))
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if err := s.Replace(ctx); err != nil {
			t.Fatal(err)
		}
		t.Logf("a load with %d allowed prefixes took %v", MaxAllow, time.Since(start))
		for _, src := range []string{"192.0.2.1", "198.51.100.7", "2001:db8::1", "203.0.113.5"} {
			r.want(true, src)
		}
		for _, src := range []string{"192.0.2.2", "198.51.100.8", "2001:db8::2", "203.0.113.6", "198.18.8.1"} {
			r.want(false, src)
		}
		r.want(true, "198.18.7.7") // it has no room, so nothing that contains it is dropped
		r.want(true, "198.18.7.8")
		if st := s.Status(); st.Withheld != 1 || !strings.Contains(st.LastError, "1 bans that contain one are not enforced") {
			t.Errorf("status %+v", st)
		}
		if problems, err := s.cfg.Backend.Check(ctx); err != nil || len(problems) > 0 {
			t.Errorf("problems %q, %v", problems, err)
		}
		want.Allow = want.Allow[40_000:]
		start = time.Now()
		if err := s.Replace(ctx); err != nil {
			t.Fatal(err)
		}
		t.Logf("with %d: %v", len(want.Allow), time.Since(start))
		r.want(true, "198.18.7.7")
		r.want(false, "198.18.7.8")
		r.want(false, "203.0.113.5")
	})
}

// If someone empties or changes the sets of exceptions and nothing else, it is noticed and repaired.
func TestEmptiedExceptionsAreMended(t *testing.T) {
	scripts := map[string][]string{
		NameIPSet: {
			"ipset flush meshban4v", "ipset flush meshban6v", "ipset flush meshban4a", "ipset del meshban4v 192.0.2.1",
			"ipset create other hash:net; ipset swap other meshban4v; ipset destroy other",
		},
		NameNFTables: {
			"nft flush set inet meshban meshban4v", "nft flush set inet meshban meshban6v", "nft flush set inet meshban meshban4a",
			"nft delete table inet meshban; nft add table inet meshban",
		},
		NameIPTables: {"IPT -w -t raw -D MESHBAN-HIT 1", "printf '*raw\\n-F MESHBAN-HIT\\n-A MESHBAN-HIT -j DROP\\nCOMMIT\\n' | IPT-restore -w --noflush"},
	}
	eachVariant(t, func(t *testing.T, r *rig, v variant) {
		const tick = 100 * time.Millisecond
		want := Exceptions{Never: []netip.Prefix{prefix("192.0.2.1"), prefix("2001:db8::1")}, Allow: []netip.Prefix{prefix("192.0.2.2")}}
		repaired := make(chan []string, 10)
		s, err := NewSyncer(SyncerConfig{
			Backend: r.open(v, OutboundDrop), CheckEvery: tick, OnRepair: func(problems []string) { repaired <- problems },
			Exceptions: func() Exceptions { return want },
			Snapshot:   func() State { return state(entry("192.0.2.0/24"), entry("2001:db8::/64")) },
		})
		if err != nil {
			t.Fatal(err)
		}
		stop := start(t, s)
		for _, script := range scripts[v.backend] {
			script = strings.ReplaceAll(script, "IPT", v.iptables)
			sh(t, script)
			select {
			case problems := <-repaired:
				t.Logf("%s: %q", script, problems)
			case <-time.After(patience):
				t.Fatalf("not mended after %q", script)
			}
			for _, src := range []string{"192.0.2.1", "192.0.2.2", "2001:db8::1"} {
				r.want(true, src)
			}
			for _, src := range []string{"192.0.2.3", "2001:db8::2"} {
				r.want(false, src)
			}
		}
		stop()
		if st := s.Status(); int(st.Repairs) != len(scripts[v.backend]) {
			t.Errorf("%d repairs, want %d: a sound kernel was mended", st.Repairs, len(scripts[v.backend]))
		}
	})
}

// If the kernel refuses exceptions, no prefix that contains one of them is dropped, and everything else is.
func TestRefusedExceptionsLetThrough(t *testing.T) {
	eachVariant(t, func(t *testing.T, r *rig, v variant) {
		want := Exceptions{Never: []netip.Prefix{prefix("192.0.2.1")}}
		b := &refusing{Backend: r.open(v, OutboundDrop)}
		s, err := NewSyncer(SyncerConfig{
			Backend: b, Exceptions: func() Exceptions { return want },
			Snapshot: func() State { return state(entry("192.0.2.0/24"), entry("198.51.100.0/24"), entry("203.0.113.1")) },
		})
		if err != nil {
			t.Fatal(err)
		}
		stop := start(t, s)
		r.want(false, "198.51.100.7")
		r.want(false, "192.0.2.2")
		b.refuse.Store(true)
		want.Never = append(slices.Clone(want.Never), prefix("198.51.100.7"))
		s.ExceptionsChanged()
		eventually(t, patience, "the ban that contains the exception is lifted", func() bool { return s.Status().Withheld == 1 })
		r.want(true, "198.51.100.7", 22, 80)
		r.want(true, "198.51.100.8")
		r.want(true, "192.0.2.1")
		r.want(false, "192.0.2.2") // its exceptions are still in the kernel
		r.want(false, "203.0.113.1")
		done := make(chan error, 1)
		s.Submit([]Update{{Entry: entry("198.51.100.0/25")}}, func(_ time.Time, err error) { done <- err })
		if err := <-done; fmt.Sprint(err) != "1 not enforced: an exception inside is not in the kernel" {
			t.Errorf("told %v", err)
		}
		b.refuse.Store(false)
		eventually(t, 2*replaceDelayMax, "the bans are back", func() bool { return s.Status().NotEnforced == 0 })
		r.want(false, "198.51.100.8")
		r.want(true, "198.51.100.7")
		stop()
	})
}
