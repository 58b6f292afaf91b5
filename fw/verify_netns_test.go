//go:build linux && netns

package fw

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

// `ipset flush` and the like leave every rule and set in place. For up to half a minute, and with some sets forever,
// nothing was dropped any more, or allowed addresses were. A glance notices the cases in emptied, only a check those in
// taken.
func TestEmptiedSetsAreFilledAgain(t *testing.T) {
	var emptied, taken = map[string][]string{}, map[string][]string{
		NameIPSet: {
			"ipset del meshban4 192.0.2.1", "ipset add meshban4 192.0.2.200", "ipset del meshban6 2001:db8::1", "ipset del meshban4n 198.18.0.0/16",
			"ipset del meshban4p 192.0.2.3,tcp:22", "ipset del meshban4v 198.18.1.1", "ipset add meshban4a 192.0.2.1",
		},
		NameNFTables: {
			"nft delete element inet meshban SET4 '{ 192.0.2.1 }'", "nft add element inet meshban SET4 '{ 192.0.2.200 }'",
			"nft delete element inet meshban SET6 '{ 2001:db8::1 }'", "nft delete element inet meshban NET4 '{ 198.18.0.0/16 }'",
			"nft delete element inet meshban PORT4 '{ 192.0.2.3 . tcp . 22 }'", "nft delete element inet meshban meshban4v '{ 198.18.1.1 }'",
			"nft delete element inet meshban PNET4 '{ 198.19.0.0/16 . tcp . 22 }'", "nft add element inet meshban meshban4a '{ 192.0.2.1 }'",
		},
		NameIPTables: {"IPT -w -t raw -R MESHBAN-HIT 1 -s 192.0.2.77 -j RETURN"}, // a rule of the same size
	}
	for _, set := range []string{"4", "4n", "4p", "4v", "4a", "6", "6v"} {
		emptied[NameIPSet] = append(emptied[NameIPSet], "ipset flush meshban"+set)
	}
	emptied[NameIPSet] = append(emptied[NameIPSet], "IPT -w -t raw -F")
	for _, set := range []string{"SET4", "SET6", "NET4", "PORT4", "PNET4", "meshban4v", "meshban6v", "meshban4a"} {
		emptied[NameNFTables] = append(emptied[NameNFTables], "nft flush set inet meshban "+set)
	}
	emptied[NameNFTables] = append(emptied[NameNFTables], "nft flush ruleset", "nft insert rule inet meshban hit-v4 return")
	emptied[NameIPTables] = []string{"IPT -w -t raw -F", "IPT -w -t raw -D MESHBAN 1", "IPT -w -t raw -I PREROUTING -s 192.0.2.1 -j ACCEPT"}
	eachVariant(t, func(t *testing.T, r *rig, v variant) {
		port := []PortRange{{ProtoTCP, 22, 22}}
		b := r.open(v, OutboundDrop)
		for _, c := range []struct {
			scripts []string
			every   time.Duration // between checks
		}{{emptied[v.backend], time.Hour}, {taken[v.backend], 200 * time.Millisecond}} {
			repaired := make(chan []string, 10)
			s, err := NewSyncer(SyncerConfig{
				Backend: b, CheckEvery: c.every, GlanceEvery: 50 * time.Millisecond, OnRepair: func(problems []string) { repaired <- problems },
				Exceptions: func() Exceptions {
					return Exceptions{Never: []netip.Prefix{prefix("198.18.1.1")}, Allow: []netip.Prefix{prefix("198.18.1.2"), prefix("2001:db8:1::1")}}
				},
				Snapshot: func() State {
					until := time.Now().Add(time.Hour)
					return state(entry("192.0.2.1"), entry("192.0.2.2"), entry("2001:db8::1"), entry("198.18.0.0/16"), entry("2001:db8:1::/64"),
						Entry{Prefix: prefix("192.0.2.3"), Ports: port, Until: until}, Entry{Prefix: prefix("198.19.0.0/16"), Ports: port, Until: until})
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			stop := start(t, s)
			for _, script := range c.scripts {
				if n, ok := b.(*nft); ok {
					script = nftNames(script, n.generation)
				}
				sh(t, strings.ReplaceAll(script, "IPT", v.iptables))
				select {
				case problems := <-repaired:
					t.Logf("%s: %q", script, problems)
				case <-time.After(patience):
					t.Fatalf("not mended after %q", script)
				}
			}
			r.want(false, "192.0.2.1")
			r.want(false, "2001:db8::1")
			r.want(false, "198.18.1.3")
			r.want(true, "198.18.1.1")
			r.want(true, "198.18.1.2")
			stop()
			if st := s.Status(); int(st.Repairs) != len(c.scripts) {
				t.Errorf("%d repairs, want %d: a sound kernel was mended", st.Repairs, len(c.scripts))
			}
		}
	})
}

// nftNames replaces the placeholders in a script with the names of the sets in use.
func nftNames(script, generation string) string {
	return strings.NewReplacer(
		"SET4", nftSetName(false, kindAddr, generation), "SET6", nftSetName(true, kindAddr, generation),
		"PNET4", nftSetName(false, kindPortNet, generation), "NET4", nftSetName(false, kindNet, generation),
		"PORT4", nftSetName(false, kindPort, generation),
	).Replace(script)
}
