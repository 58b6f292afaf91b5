package fw

import (
	"net/netip"
	"time"
)

// Every set of ours holds a sentinel: testing for that one element shows whether somebody emptied the set. No packet
// comes from these addresses, and no count or list includes them.
var (
	sentinels    = [2]netip.Prefix{netip.MustParsePrefix("240.0.0.1/32"), netip.MustParsePrefix("100::f000:1/128")} // [v4, v6]
	sentinelPort = portKey{ProtoTCP, 9}
	// sentinelEnd stands for no end.
	sentinelEnd = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)
)

func isSentinel(p netip.Prefix) bool { return p == sentinels[0] || p == sentinels[1] }

// withSentinels adds each sentinel that no prefix contains.
func (ps prefixes) withSentinels() prefixes {
	return ps.union(sentinels[:])
}
