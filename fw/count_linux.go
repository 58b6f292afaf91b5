package fw

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/mdlayher/netlink"
)

const (
	cmdList = 7 // IPSET_CMD_LIST

	attrFlags    = 6      // IPSET_ATTR_FLAGS
	listHeader   = 1 << 2 // IPSET_FLAG_LIST_HEADER: what the set is, without its elements
	dataElements = 24     // IPSET_ATTR_ELEMENTS
)

// count reads the heads of the sets of single addresses. The kernel counts what has not ended yet.
func (b *ipset) count(context.Context, int) (n int, ok bool, err error) {
	for i := range ipsetSpecs {
		name := ipsetSpecs[i][kindAddr].name
		elements, err := b.conn.elements(name)
		if errors.Is(err, syscall.ENOENT) {
			continue // no IPv6 here
		}
		if err != nil {
			return 0, false, err
		}
		n += elements
	}
	return n, true, nil
}

// elements is the number of elements of a set.
func (c *ipsetConn) elements(set string) (int, error) {
	m := newMessage(c.buf, set)
	m.header(attrFlags|networkOrder, 4)
	m = append(m, 0, 0, 0, listHeader)
	answers, err := c.do(cmdList, netlink.Dump, m)
	if err != nil {
		return 0, ipsetError("count", set, err)
	}
	for _, answer := range answers {
		if n, ok := elementCount(answer.Data); ok {
			return n, nil
		}
	}
	return 0, fmt.Errorf("count %q: the kernel does not say", set)
}

// elementCount reads the answer to cmdList, nfgenmsg included.
func elementCount(b []byte) (n int, ok bool) {
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

// maxNFTCount bounds the addresses that are read back to count them: nftables has no cheaper way before Linux 6.16.
const maxNFTCount = 4096

// count reads small sets back.
func (b *nft) count(_ context.Context, expected int) (n int, ok bool, err error) {
	if expected > maxNFTCount {
		return 0, false, nil
	}
	for _, v6 := range []bool{false, true} {
		elements, err := b.conn.GetSetElements(nftSet(v6, kindAddr, b.generation))
		if err != nil {
			return 0, false, nftError("count elements", err)
		}
		n += len(elements)
	}
	return n, true, nil
}
