//go:build linux && netns

package fw

import (
	"strings"
	"testing"
	"time"
)

// `ipset flush` left every rule and set in its place and dropped nothing any more: the check saw nothing wrong, and
// status went on counting the bans as enforced.
func TestEmptiedSetsAreFilledAgain(t *testing.T) {
	scripts := map[string][]string{
		NameIPSet: {"ipset flush", "ipset del meshban4 192.0.2.1", "ipset flush meshban6"},
		NameNFTables: {
			"nft flush set inet meshban SET4", "nft delete element inet meshban SET4 '{ 192.0.2.1 }'", "nft flush set inet meshban SET6",
		},
	}
	eachVariant(t, func(t *testing.T, r *rig, v variant) {
		const tick = 100 * time.Millisecond
		b := r.open(v, OutboundDrop)
		s, repaired, stop := runSyncer(t, b, tick, func() State {
			return state(entry("192.0.2.1"), entry("192.0.2.2"), entry("2001:db8::1"))
		})
		for _, script := range scripts[v.backend] {
			r.want(false, "192.0.2.1")
			r.want(false, "2001:db8::1")
			if n, ok := b.(*nft); ok {
				script = nftNames(script, n.generation)
			}
			sh(t, script)
			select {
			case problems := <-repaired:
				t.Logf("%s: %q", script, problems)
			case <-time.After(patience):
				t.Fatalf("not mended after %q", script)
			}
		}
		r.want(false, "192.0.2.1")
		r.want(false, "2001:db8::1")
		stop()
		if st := s.Status(); int(st.Repairs) != len(scripts[v.backend]) {
			t.Errorf("%d repairs, want %d: a sound kernel was mended", st.Repairs, len(scripts[v.backend]))
		}
	})
}

// nftNames puts the names of the sets in use into a script.
func nftNames(script, generation string) string {
	return strings.NewReplacer("SET4", nftSetName(false, kindAddr, generation), "SET6", nftSetName(true, kindAddr, generation)).Replace(script)
}
