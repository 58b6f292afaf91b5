package fw

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

// expand8 returns until when the segments drop each of the 256 addresses of 10.0.0.0/24, and fails if two overlap.
func expand8(t *testing.T, segments []segment) (until [256]time.Time) {
	t.Helper()
	for _, s := range segments {
		for a := s.first; a.IsValid() && a.Compare(s.last) <= 0; a = a.Next() {
			i := a.As4()[3]
			if !until[i].IsZero() {
				t.Fatalf("%v is in two segments", a)
			}
			until[i] = s.until
		}
	}
	return until
}

func TestIntervalsEndEachAddressAtTheLatestEnd(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 1))
		iv := newIntervals()
		want := map[netip.Prefix]time.Time{}
		kernel := map[segment]bool{}
		for step := range 40 {
			var updates []netUpdate
			for range 1 + rng.IntN(3) {
				u := netUpdate{prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(rng.IntN(256))}), 24+rng.IntN(9)).Masked()}
				if rng.IntN(3) > 0 {
					u.until = now.Add(time.Duration(1+rng.IntN(5)) * time.Minute)
				}
				if len(updates) > 0 && updates[0].prefix == u.prefix {
					continue // a batch holds each key once
				}
				if len(updates) > 1 && updates[1].prefix == u.prefix {
					continue
				}
				updates = append(updates, u)
				if u.until.IsZero() {
					delete(want, u.prefix)
				} else {
					want[u.prefix] = u.until
				}
			}
			del, add := iv.apply(now, updates)
			for _, s := range del {
				if !kernel[s] {
					t.Fatalf("seed %d step %d: %v goes but was never there", seed, step, s)
				}
				delete(kernel, s)
			}
			for _, s := range add {
				if kernel[s] {
					t.Fatalf("seed %d step %d: %v comes twice", seed, step, s)
				}
				kernel[s] = true
			}
			var held []segment
			for s := range kernel {
				held = append(held, s)
			}
			got := expand8(t, held)
			for i := range 256 {
				var latest time.Time
				for p, until := range want {
					if p.Contains(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})) && until.After(latest) {
						latest = until
					}
				}
				if !got[i].Equal(latest) {
					t.Fatalf("seed %d step %d: 10.0.0.%d ends at %v, want %v", seed, step, i, got[i], latest)
				}
			}
			if all := expand8(t, iv.all(now)); all != got {
				t.Fatalf("seed %d step %d: a fresh load differs from the updates", seed, step)
			}
		}
	}
}

func TestIntervalsAtTheEdges(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	later := func(minutes int) time.Time { return now.Add(time.Duration(minutes) * time.Minute) }
	for name, c := range map[string]struct {
		load []netUpdate
		want string
	}{
		"ok: up to the last address":    {[]netUpdate{{netip.MustParsePrefix("240.0.0.0/4"), later(1)}, {netip.MustParsePrefix("255.255.255.255/32"), later(2)}}, "[240.0.0.0-255.255.255.254 255.255.255.255-255.255.255.255]"},
		"ok: inner ends sooner":         {[]netUpdate{{netip.MustParsePrefix("10.0.0.0/8"), later(2)}, {netip.MustParsePrefix("10.1.0.0/16"), later(1)}}, "[10.0.0.0-10.255.255.255]"},
		"ok: inner at the start":        {[]netUpdate{{netip.MustParsePrefix("10.0.0.0/8"), later(1)}, {netip.MustParsePrefix("10.0.0.0/16"), later(2)}}, "[10.0.0.0-10.0.255.255 10.1.0.0-10.255.255.255]"},
		"ok: three deep":                {[]netUpdate{{netip.MustParsePrefix("2001:db8::/32"), later(1)}, {netip.MustParsePrefix("2001:db8:1::/48"), later(2)}, {netip.MustParsePrefix("2001:db8:1:1::/64"), later(3)}}, "[2001:db8::-2001:db8:0:ffff:ffff:ffff:ffff:ffff 2001:db8:1::-2001:db8:1:0:ffff:ffff:ffff:ffff 2001:db8:1:1::-2001:db8:1:1:ffff:ffff:ffff:ffff 2001:db8:1:2::-2001:db8:1:ffff:ffff:ffff:ffff:ffff 2001:db8:2::-2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]"},
		"bad: an ended one is left out": {[]netUpdate{{netip.MustParsePrefix("10.0.0.0/8"), now}}, "[]"},
	} {
		t.Run(name, func(t *testing.T) {
			iv := newIntervals()
			for _, u := range c.load {
				iv.load(u.prefix, u.until)
			}
			var got []string
			for _, s := range iv.all(now) {
				got = append(got, s.first.String()+"-"+s.last.String())
			}
			if fmt.Sprint(got) != c.want {
				t.Errorf("got  %v\nwant %s", got, c.want)
			}
		})
	}
}
