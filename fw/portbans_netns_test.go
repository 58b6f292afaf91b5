//go:build linux && netns

package fw

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

// A set that grew for the port lists of one origin used to hold the lock of all sets for 40 ms, and no ban got in.
func TestSetsForPortsDoNotGrow(t *testing.T) {
	if !inside(t) {
		return
	}
	r := newRig(t)
	b := r.open(variant{"", NameIPSet, "iptables-nft"}, OutboundDrop)
	mustReplace(t, b, state())
	size := func(set string) string {
		for line := range strings.Lines(sh(t, "ipset list -t "+set)) {
			if at := strings.Index(line, "hashsize "); at >= 0 {
				return strings.Fields(line[at:])[1]
			}
		}
		t.Fatalf("%s has no hash size", set)
		return ""
	}
	for set, first := range map[string]netip.Addr{"meshban4p": netip.MustParseAddr("192.0.2.0"), "meshban6p": netip.MustParseAddr("2001:db8::")} {
		before := size(set)
		for a, i := first, 0; i < 1<<17/MaxPortElements; a, i = a.Next(), i+1 {
			e := Entry{Prefix: netip.PrefixFrom(a, a.BitLen()), Until: time.Now().Add(time.Hour), Ports: []PortRange{{ProtoTCP, 1, MaxPortElements}}}
			if err := b.Apply(ctx, time.Now(), []Update{{Entry: e}}); err != nil {
				t.Fatal(err)
			}
		}
		if after := size(set); after != before {
			t.Errorf("%s had %s buckets and has %s", set, before, after)
		}
	}
}
