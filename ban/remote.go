package ban

import (
	"iter"
	"net/netip"
	"time"
)

// RemoteBans yields the live bans of other origins for which exactly addr is dropped here. Bans of wider prefixes do
// not count.
func (t *Table) RemoteBans(now time.Time, addr netip.Addr) iter.Seq[Record] {
	return func(yield func(Record) bool) {
		addr = addr.Unmap().WithZone("")
		if !addr.IsValid() {
			return
		}
		k := keyOf(netip.PrefixFrom(addr, addr.BitLen()))
		if t.allowed(k) {
			return
		}
		for i := range t.bans.covering(k) {
			e := t.bans.entries.at(i)
			if e.key() != k || e.state != StateEnforced {
				continue
			}
			for j, x := range t.bans.of(e) {
				remote := x.until > millis(now) && t.epochs.at(x.epoch).origin != t.self
				if remote && !x.hold.Waits() && t.counts(&t.bans, e, x) && !yield(t.recordOf(&t.bans, j)) {
					return
				}
			}
		}
	}
}
