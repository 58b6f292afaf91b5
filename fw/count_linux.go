package fw

import (
	"fmt"

	"github.com/mdlayher/netlink"
)

const (
	cmdList = 7 // IPSET_CMD_LIST

	attrFlags  = 6      // IPSET_ATTR_FLAGS
	listHeader = 1 << 2 // IPSET_FLAG_LIST_HEADER: describe the set without its elements
	// In the data of a set's header.
	dataElements = 24 // IPSET_ATTR_ELEMENTS
)

// elements returns the number of elements of a set.
func (c *ipsetConn) elements(set string) (int, error) {
	m := newMessage(c.buf, set)
	m.header(attrFlags|networkOrder, 4)
	m = append(m, 0, 0, 0, listHeader)
	answers, err := c.do(cmdList, netlink.Dump, m)
	if err != nil {
		return 0, ipsetError("count", set, err)
	}
	for _, answer := range answers {
		if n, ok := countIn(answer.Data); ok {
			return n, nil
		}
	}
	return 0, fmt.Errorf("count %q: the kernel returned no count", set)
}

// countIn reads the number of elements from an answer to cmdList, nfgenmsg included.
func countIn(b []byte) (n int, ok bool) {
	if len(b) < 4 {
		return 0, false
	}
	ad, err := netlink.NewAttributeDecoder(b[4:])
	if err != nil {
		return 0, false
	}
	for ad.Next() {
		if ad.Type() != attrData {
			continue
		}
		ad.Nested(func(data *netlink.AttributeDecoder) error {
			for data.Next() {
				if v := data.Bytes(); data.Type() == dataElements && len(v) == 4 {
					n, ok = int(v[0])<<24|int(v[1])<<16|int(v[2])<<8|int(v[3]), true
				}
			}
			return nil
		})
	}
	return n, ok && ad.Err() == nil
}
