package fw

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// sentinelOf returns the sentinel of a set.
func sentinelOf(family, kind int) element {
	e := element{prefix: sentinels[family]}
	if kind == kindPort {
		e.proto, e.port = sentinelPort.proto, sentinelPort.port
	}
	return e
}

// glance asks each set for its sentinel, and takes the mark of the tables that hold our rules.
func (b *ipset) glance(context.Context) (problems []string, mark string, err error) {
	var sets []setElement
	for i := range b.xt.families {
		for kind, spec := range ipsetSpecs[i] {
			if b.loaded && (kind < entryKinds || b.placed) {
				sets = append(sets, setElement{spec.name, sentinelOf(i, kind)})
			}
		}
	}
	all, err := b.conn.haveAll(sets)
	if err != nil {
		return nil, "", err
	}
	for _, s := range sets {
		if all {
			break
		}
		there, err := b.conn.has(s.set, s.element)
		switch {
		case errors.Is(err, syscall.ENOENT):
			problems = append(problems, fmt.Sprintf("the set %s is missing", s.set))
		case err != nil:
			return nil, "", err
		case !there:
			problems = append(problems, fmt.Sprintf("the set %s was emptied", s.set))
		}
	}
	mark, err = b.xt.mark()
	return problems, mark, err
}

// verify counts each set, and compares the elements of small ones.
func (b *ipset) verify(_ context.Context, now time.Time, held *tracker) (doubts []doubt, err error) {
	if !b.loaded {
		return nil, nil
	}
	var nets [2]int
	for key := range held.other {
		if key.Ports == "" {
			nets[familyOf(key.Prefix)]++
		}
	}
	exceptions := b.exceptions.byKind()
	for i := range b.xt.families {
		for kind, spec := range ipsetSpecs[i] {
			if kind >= entryKinds && !b.placed {
				continue
			}
			n, err := b.conn.elements(spec.name)
			if err != nil {
				return nil, err
			}
			var more []doubt
			switch kind {
			case kindAddr:
				more, err = b.verifyEntries(i, kind, n, [2]int{len(held.v4), len(held.v6)}[i], held)
			case kindNet:
				more, err = b.verifyEntries(i, kind, n, nets[i], held)
			case kindPort:
				more, err = b.verifyPorts(i, n, now)
			default:
				want := contents{}
				for _, p := range exceptions[kind] {
					if familyOf(p) == i {
						want.add(element{prefix: p}.key())
					}
				}
				if more = counted(spec.name, n, len(want), len(want)); more == nil {
					more, err = b.compare(spec.name, n, want, want)
				}
			}
			if err != nil {
				return nil, err
			}
			doubts = append(doubts, more...)
		}
	}
	return doubts, nil
}

// verifyEntries checks a set of addresses or prefixes without ports, which should hold want of them besides the
// sentinel.
func (b *ipset) verifyEntries(family, kind, n, want int, held *tracker) ([]doubt, error) {
	name, v6, single := ipsetSpecs[family][kind].name, family == 1, kind == kindAddr
	text := fmt.Sprintf("the set %s holds %d entries, where %d should be", name, n-1, want)
	switch {
	case n > want+1:
		return []doubt{{text: text}}, nil
	case want <= maxListed:
		have, err := b.conn.list(name)
		return held.compareEntries(name, have, v6, single, func(p netip.Prefix) string { return element{prefix: p}.key() }), err
	case n < want+1:
		return []doubt{{text, n - 1, func(e Entry) bool {
			return len(e.Ports) == 0 && e.Prefix.Addr().Is6() == v6 && e.Prefix.IsSingleIP() == single
		}}}, nil
	}
	return nil, nil
}

// verifyPorts checks a set of elements with ports.
func (b *ipset) verifyPorts(family, n int, now time.Time) ([]doubt, error) {
	name := ipsetSpecs[family][kindPort].name
	least, most := b.ports.span(family, now)
	if doubts := counted(name, n, least+1, most+1); doubts != nil || n > maxListed {
		return doubts, nil
	}
	must, may := contents{}, contents{}
	must.add(sentinelOf(family, kindPort).key())
	may.add(sentinelOf(family, kindPort).key())
	b.ports.each(family, now, func(p netip.Prefix, k portKey, lasts bool) {
		key := element{prefix: p, proto: k.proto, port: k.port}.key()
		if may.add(key); lasts {
			must.add(key)
		}
	})
	return b.compare(name, n, must, may)
}

// compare compares a set of n elements with what it must and may hold, unless it is large.
func (b *ipset) compare(name string, n int, must, may contents) ([]doubt, error) {
	if n > maxListed {
		return nil, nil
	}
	have, err := b.conn.list(name)
	if err != nil {
		return nil, err
	}
	return compare(name, have, must, may), nil
}

func (e element) key() string {
	if e.proto == 0 {
		return e.prefix.String()
	}
	return fmt.Sprintf("%v,%d:%d", e.prefix, e.proto, e.port)
}

// list reads the elements of a set.
func (c *ipsetConn) list(set string) (contents, error) {
	out := contents{}
	err := c.each(set, func(e element) error {
		out.add(e.key())
		return nil
	})
	return out, err
}

// each calls f for the elements of a set, as the kernel sends them, until f returns an error.
func (c *ipsetConn) each(set string, f func(element) error) error {
	if err := c.open(); err != nil {
		return err
	}
	c.buf = newMessage(c.buf, set)
	_, err := c.sock.Send(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_IPSET<<8 | cmdList, Flags: netlink.Request | netlink.Dump}, Data: c.buf,
	})
	if err == nil {
		for answer, failed := range c.sock.ReceiveIter() {
			if failed == nil {
				failed = listedElements(answer.Data, f)
			}
			if err = failed; err != nil {
				break
			}
		}
	}
	if err != nil {
		_ = c.close() // answers may wait
	}
	return ipsetError("list", set, err)
}

// listedElements reads one answer to cmdList, nfgenmsg included.
func listedElements(b []byte, f func(element) error) error {
	if len(b) < 4 {
		return nil
	}
	ad, err := netlink.NewAttributeDecoder(b[4:])
	if err != nil {
		return err
	}
	for ad.Next() {
		if ad.Type() != attrADT {
			continue
		}
		ad.Nested(func(list *netlink.AttributeDecoder) error {
			for list.Next() {
				if list.Type() == attrData {
					list.Nested(func(data *netlink.AttributeDecoder) error {
						if e, ok := decodeElement(data); ok {
							return f(e)
						}
						return nil
					})
				}
			}
			return nil
		})
	}
	return ad.Err()
}

func decodeElement(data *netlink.AttributeDecoder) (e element, ok bool) {
	var addr netip.Addr
	var hits Dropped
	bits := -1
	for data.Next() {
		switch v := data.Bytes(); data.Type() {
		case dataIP:
			data.Nested(func(ip *netlink.AttributeDecoder) error {
				for ip.Next() {
					addr, _ = netip.AddrFromSlice(ip.Bytes())
				}
				return nil
			})
		case dataCIDR:
			if len(v) == 1 {
				bits = int(v[0])
			}
		case dataProto:
			if len(v) == 1 {
				e.proto = v[0]
			}
		case dataPort:
			if len(v) == 2 {
				e.port = binary.BigEndian.Uint16(v)
			}
		case dataPackets:
			if len(v) == 8 {
				hits.Packets = binary.BigEndian.Uint64(v)
			}
		case dataBytes:
			if len(v) == 8 {
				hits.Bytes = binary.BigEndian.Uint64(v)
			}
		}
	}
	if !addr.IsValid() {
		return e, false
	}
	if bits < 0 {
		bits = addr.BitLen()
	}
	if e.prefix = netip.PrefixFrom(addr, bits); hits.Packets > 0 {
		e.hits = &hits
	}
	return e, e.prefix.IsValid()
}
