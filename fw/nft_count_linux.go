package fw

import (
	"encoding/binary"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// setCount is NFTA_SET_COUNT, which the kernel sends since Linux 6.16.
const setCount = 20

// nftCount returns how many elements a set of ours holds. Ended elements count until the kernel cleans up, once a
// second. It reports false if the kernel does not say.
func (c *nfSocket) nftCount(set string) (n int, ok bool, err error) {
	ae := netlink.NewAttributeEncoder()
	ae.String(unix.NFTA_SET_TABLE, nftTable)
	ae.String(unix.NFTA_SET_NAME, set)
	body, err := ae.Encode()
	if err != nil {
		return 0, false, err
	}
	answers, err := c.execute(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_GETSET, 0, append([]byte{unix.NFPROTO_INET, 0, 0, 0}, body...))
	if err != nil {
		return 0, false, nftError("count the set "+set, err)
	}
	for _, answer := range answers {
		if len(answer.Data) < 4 {
			continue
		}
		ad, err := netlink.NewAttributeDecoder(answer.Data[4:])
		if err != nil {
			return 0, false, nftError("count the set "+set, err)
		}
		for ad.Next() {
			if v := ad.Bytes(); ad.Type() == setCount && len(v) == 4 {
				return int(binary.BigEndian.Uint32(v)), true, nil
			}
		}
	}
	return 0, false, nil
}

// removalsKept is the least time for which removals counts a removal: longer than the kernel takes to clean up.
const removalsKept = 5 * time.Second

// removals counts elements removed lately. They may have ended just before, in which case the kernel still counts them.
type removals struct {
	since     time.Time
	last, now int // before since, and after it
}

func (r *removals) add(now time.Time, n int) {
	r.turn(now)
	r.now += n
}

func (r *removals) lately(now time.Time) int {
	r.turn(now)
	return r.last + r.now
}

func (r *removals) turn(now time.Time) {
	switch age := now.Sub(r.since); {
	case age >= 2*removalsKept:
		r.since, r.last, r.now = now, 0, 0
	case age >= removalsKept:
		r.since, r.last, r.now = now, r.now, 0
	}
}
