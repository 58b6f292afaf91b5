package feed

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func prefixes(text string) (all []netip.Prefix) {
	for _, s := range strings.Fields(text) {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}

func TestWithout(t *testing.T) {
	for _, c := range []struct{ name, prefix, except, want string }{
		{"nothing to leave out", "192.0.2.0/24", "", "192.0.2.0/24"},
		{"exceptions elsewhere", "192.0.2.0/24", "192.0.1.255/32 192.0.3.0/32 2001:db8::/32", "192.0.2.0/24"},
		{"one address", "192.0.2.0/30", "192.0.2.1/32", "192.0.2.0/32 192.0.2.2/31"},
		{"both ends", "192.0.2.0/30", "192.0.2.0/32 192.0.2.3/32", "192.0.2.1/32 192.0.2.2/32"},
		{"all of it", "192.0.2.0/30", "192.0.2.0/24", ""},
		{"itself", "192.0.2.0/30", "192.0.2.0/30", ""},
		{"its halves", "192.0.2.0/30", "192.0.2.0/31 192.0.2.2/31", ""},
		{"nested exceptions", "192.0.2.0/30", "192.0.2.0/31 192.0.2.1/32", "192.0.2.2/31"},
		{"a single address", "192.0.2.1/32", "192.0.2.0/32 192.0.2.2/32", "192.0.2.1/32"},
		{"a single address that is one", "192.0.2.1/32", "192.0.2.1/32", ""},
		{"everything", "0.0.0.0/0", "128.0.0.0/1", "0.0.0.0/1"},
		{"IPv6", "2001:db8::/126", "2001:db8::2/128", "2001:db8::/127 2001:db8::3/128"},
	} {
		got := slices.Collect(NewExceptions(prefixes(c.except)).Without(netip.MustParsePrefix(c.prefix)))
		if !slices.Equal(got, prefixes(c.want)) {
			t.Errorf("%s: %v, want %s", c.name, got, c.want)
		}
	}
}

// Every address of a /24 is in exactly one piece, or in none if it is an exception.
func TestWithoutCoversTheRest(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	random := func(least int) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(r.IntN(256))}), least+r.IntN(33-least)).Masked()
	}
	for range 2000 {
		var except []netip.Prefix
		for range r.IntN(8) {
			except = append(except, random(23))
		}
		p := random(22)
		pieces := slices.Collect(NewExceptions(except).Without(p))
		for i := range 256 {
			a := netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})
			in := func(q netip.Prefix) bool { return q.Contains(a) }
			n := 0
			for _, q := range pieces {
				if in(q) {
					n++
				}
			}
			want := 0
			if in(p) && !slices.ContainsFunc(except, in) {
				want = 1
			}
			if n != want {
				t.Fatalf("%v without %v: %v has %v %d times, want %d", p, except, pieces, a, n, want)
			}
		}
	}
}

func TestWithoutStops(t *testing.T) {
	for range NewExceptions(prefixes("192.0.2.1/32")).Without(netip.MustParsePrefix("192.0.2.0/24")) {
		break
	}
}
