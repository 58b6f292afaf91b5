package ban

import (
	"iter"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// anyPrefix draws prefixes of every length that share their first bits.
func anyPrefix(t *rapid.T) netip.Prefix {
	near := rapid.SampledFrom([]byte{0, 0, 1, 0x7f, 0x80, 0xff})
	if rapid.Bool().Draw(t, "is4") {
		var a [4]byte
		for i := range a {
			a[i] = near.Draw(t, "byte")
		}
		return netip.PrefixFrom(netip.AddrFrom4(a), rapid.IntRange(0, 32).Draw(t, "bits")).Masked()
	}
	var a [16]byte
	for _, i := range []int{0, 1, 2, 5, 6, 7, 8, 15} {
		a[i] = near.Draw(t, "byte")
	}
	return netip.PrefixFrom(netip.AddrFrom16(a), rapid.IntRange(0, 128).Draw(t, "bits")).Masked()
}

// The tree finds what a full search finds.
func TestTreeFindsWhatIsThere(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		tb := anyTable(t, 1)
		b := &tb.bans
		held := map[uint32]ruleKey{}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			k := ruleKey{anyPrefix(t), ports(rapid.SampledFrom(somePorts).Draw(t, "ports"))}
			i := tb.open(b, keyOf(k.prefix), k.ports)
			if old, ok := held[i]; ok && old != k {
				t.Fatalf("%v is found as %v", k, old)
			}
			held[i] = k
			if rapid.IntRange(0, 3).Draw(t, "close") == 0 {
				tb.close(b, i)
				delete(held, i)
			}
			if key := keyOf(k.prefix); key.prefix() != k.prefix {
				t.Fatalf("%v comes back as %v", k.prefix, key.prefix())
			}
		}
		for range 5 {
			p := anyPrefix(t)
			var inside, covering, exactly []uint32
			for i, k := range held {
				if contains(p, k.prefix) {
					inside = append(inside, i)
				}
				if contains(k.prefix, p) {
					covering = append(covering, i)
				}
				if k.prefix == p {
					exactly = append(exactly, i)
				}
				if keyOf(p).contains(keyOf(k.prefix)) != contains(p, k.prefix) {
					t.Fatalf("%v and %v", p, k.prefix)
				}
			}
			for name, x := range map[string]struct {
				want []uint32
				got  iter.Seq[uint32]
			}{
				"inside": {inside, b.inside(keyOf(p))}, "covering": {covering, b.covering(keyOf(p))}, "exactly": {exactly, b.exactly(keyOf(p))},
			} {
				got := slices.Sorted(x.got)
				slices.Sort(x.want)
				if !slices.Equal(got, x.want) {
					t.Fatalf("%s %v: %v, want %v of %v", name, p, got, x.want, held)
				}
				for range x.got { // and stops when told to
					break
				}
			}
		}
		for i, k := range held {
			tb.close(b, i)
			if b.find(keyOf(k.prefix), 0) == i {
				t.Fatalf("%v is still there", k)
			}
		}
		if b.tree.nodes.live != 0 || b.entries.live != 0 || len(tb.ports.ids) != 0 {
			t.Fatalf("left over: %d nodes, %d ports", b.tree.nodes.live, len(tb.ports.ids))
		}
	})
}

// Whatever the addresses, no search takes more steps than a path has bits.
func TestTreeDepthIsBounded(t *testing.T) {
	tb := newTable(t, Config{})
	for bits := range 129 { // each differs from the previous one in the next bit
		p := netip.PrefixFrom(netip.MustParseAddr("2001:db8:5555:5555:5555:5555:5555:5555"), bits).Masked()
		for _, s := range []string{"", "22", "1-7/udp"} {
			tb.open(&tb.bans, keyOf(p), ports(s))
		}
	}
	n := 0
	for range tb.bans.inside(keyOf(pfx("::/0"))) {
		n++
	}
	if n != 3*129 {
		t.Errorf("%d entries, want %d", n, 3*129)
	}
}
