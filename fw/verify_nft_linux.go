package fw

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// glance asks nf_tables for changes that are not ours and, if there were any, each set for its sentinel. Every change
// makes a new generation, also one of a set's elements.
func (b *nft) glance(context.Context) (problems []string, mark string, err error) {
	generation, err := b.sock.nftGeneration()
	if err != nil {
		return nil, "", err
	}
	mark = fmt.Sprint(generation - b.commits)
	if mark == b.glanced {
		return nil, mark, nil
	}
	for i := range sentinels {
		for kind := range nftKinds {
			if !b.loaded || excepting(kind) && !b.placed {
				continue
			}
			name := nftSetName(i == 1, kind, b.generation)
			there, err := b.sock.nftHas(name, sentinelKey(i, kind))
			if err != nil {
				return nil, "", err
			}
			if !there {
				problems = append(problems, fmt.Sprintf("nftables: the set %s was emptied, or is gone", name))
			}
		}
	}
	if len(problems) == 0 {
		b.glanced = mark
	}
	return problems, mark, nil
}

func sentinelKey(family, kind int) []byte {
	k := portKey{}
	if kind == kindPort || kind == kindPortNet {
		k = sentinelPort
	}
	return nftKey(sentinels[family].Addr(), k)
}

// nftHas reports whether a set of ours has a key, or an interval around it.
func (c *nfSocket) nftHas(set string, key []byte) (bool, error) {
	ae := netlink.NewAttributeEncoder()
	ae.String(unix.NFTA_SET_ELEM_LIST_TABLE, nftTable)
	ae.String(unix.NFTA_SET_ELEM_LIST_SET, set)
	ae.Nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(list *netlink.AttributeEncoder) error {
		list.Nested(unix.NFTA_LIST_ELEM, func(elem *netlink.AttributeEncoder) error {
			elem.Nested(unix.NFTA_SET_ELEM_KEY, func(k *netlink.AttributeEncoder) error {
				k.Bytes(unix.NFTA_DATA_VALUE, key)
				return nil
			})
			return nil
		})
		return nil
	})
	body, err := ae.Encode()
	if err != nil {
		return false, err
	}
	_, err = c.execute(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_GETSETELEM, 0, append([]byte{unix.NFPROTO_INET, 0, 0, 0}, body...))
	if errors.Is(err, syscall.ENOENT) {
		return false, nil
	}
	return err == nil, nftError("test an element of "+set, err)
}

// sampled is how many elements of a large set are looked up if the kernel does not say how many it holds. If half of
// the set is gone, one sample in 2^64 finds nothing; if a twentieth is, one in 27.
const sampled = 64

// verify reads back small sets. Of a large set of addresses it compares only the number of elements, which nf_tables
// reports since Linux 6.16; on older kernels it looks up a sample, a different one each time. Other large sets it reads
// back if their number is wrong; on older kernels it does not check them. Reading a large set back costs too much: for
// each page the kernel walks the set from its beginning, which took 1.8 s of CPU time for 100,000 elements and grows
// with the square, and new bans would wait behind it.
func (b *nft) verify(_ context.Context, now time.Time, held *tracker) (doubts []doubt, err error) {
	if !b.loaded {
		return nil, nil
	}
	exceptions := b.exceptions.byKind()
	for i := range sentinels {
		for kind := range nftKinds {
			set := nftSet(i == 1, kind, b.generation)
			if least, most, ok := b.size(i, kind, now, held, exceptions[kind]); !ok {
				continue
			} else if most > maxListed {
				if !b.counts {
					if kind == kindAddr {
						lacks, err := b.sample(set.Name, i == 1, held)
						if err != nil {
							return nil, err
						}
						doubts = append(doubts, lacks...)
					}
					continue
				}
				n, told, err := b.sock.nftCount(set.Name)
				if err != nil {
					return nil, err
				}
				wrong := fmt.Sprintf("the set %s holds %d elements, where %d should be", set.Name, n, most)
				switch {
				case !told || n >= least && n <= most+b.removed.lately(now):
					continue
				case kind == kindAddr && n > most:
					doubts = append(doubts, doubt{text: wrong})
					continue
				case kind == kindAddr:
					doubts = append(doubts, doubt{wrong, n - 1, func(e Entry) bool { return isPlain(e) && e.Prefix.Addr().Is6() == (i == 1) }})
					continue
				}
			}
			if kind == kindAddr {
				have, err := b.list(set)
				if err != nil {
					return nil, err
				}
				key := func(p netip.Prefix) string { return nftElementKey(set, nftables.SetElement{Key: p.Addr().AsSlice()}) }
				doubts = append(doubts, held.compareEntries(set.Name, have, i == 1, true, key)...)
				continue
			}
			must, may := b.contents(i, kind, now, exceptions[kind])
			have, err := b.list(set)
			if err != nil {
				return nil, err
			}
			doubts = append(doubts, compare(set.Name, have, must, may)...)
		}
	}
	return doubts, nil
}

// sample looks up some of the addresses that a set should hold.
func (b *nft) sample(set string, v6 bool, held *tracker) ([]doubt, error) {
	missing, looked := map[netip.Prefix]bool{}, 0
	for p := range func(yield func(netip.Prefix) bool) { held.of(v6, true, yield) } { // in random order, because it is a map
		if looked++; looked > sampled {
			break
		}
		there, err := b.sock.nftHas(set, nftKey(p.Addr(), portKey{}))
		if err != nil {
			return nil, err
		}
		if !there {
			missing[p] = true
		}
	}
	if len(missing) == 0 {
		return nil, nil
	}
	text := fmt.Sprintf("the set %s lacks %d of %d addresses looked up", set, len(missing), min(looked, sampled))
	return []doubt{{text, 0, func(e Entry) bool { return isPlain(e) && missing[e.Prefix.Masked()] }}}, nil
}

// size returns the least and the most elements that a set should hold, as nftCount counts them. It reports false if
// that is changing right now.
func (b *nft) size(family, kind int, now time.Time, held *tracker, exceptions prefixes) (least, most int, ok bool) {
	covers := func(cs ...*intervals) bool {
		for _, c := range cs {
			if c.changing(now) {
				return false
			}
			most += len(c.segments(now, c.sorted))
		}
		return true
	}
	switch ok = true; kind {
	case kindAddr:
		most = 1 + [2]int{len(held.v4), len(held.v6)}[family]
	case kindNever, kindAllow:
		ok = b.placed
		most = len(nftIntervals(time.Time{}, segmentsOf(exceptions)[family], portKey{})) / 2 // a start and an end count as one
	case kindNet:
		ok = covers(b.shape.nets[family])
	case kindPortNet:
		ok = covers(slices.Collect(maps.Values(b.shape.portNets[family]))...)
	case kindPort:
		least, most = 1, 1
		b.shape.ports.each(family, now, func(p netip.Prefix, _ portKey, lasts bool) {
			if p.IsSingleIP() {
				if most++; lasts {
					least++
				}
			}
		})
		return least, most, true
	}
	return most, most, ok
}

// contents returns what a set other than one of kindAddr must hold and what it may hold.
func (b *nft) contents(family, kind int, now time.Time, exceptions prefixes) (must, may contents) {
	must, may = contents{}, contents{}
	set := nftSet(family == 1, kind, b.generation)
	both := func(elements []nftables.SetElement) {
		for _, e := range elements {
			key := nftElementKey(set, e)
			must.add(key)
			may.add(key)
		}
	}
	switch kind {
	case kindNever, kindAllow:
		both(nftIntervals(now, segmentsOf(exceptions)[family], portKey{}))
	case kindNet:
		c := b.shape.nets[family]
		both(nftIntervals(now, c.segments(now, c.sorted), portKey{}))
	case kindPortNet:
		for k, c := range b.shape.portNets[family] {
			both(nftIntervals(now, c.segments(now, c.sorted), k))
		}
	case kindPort:
		both([]nftables.SetElement{{Key: sentinelKey(family, kindPort)}})
		b.shape.ports.each(family, now, func(p netip.Prefix, k portKey, lasts bool) {
			if !p.IsSingleIP() {
				return
			}
			key := nftElementKey(set, nftables.SetElement{Key: nftKey(p.Addr(), k)})
			if may.add(key); lasts {
				must.add(key)
			}
		})
	}
	return must, may
}

// changing reports whether one of the prefixes ends about now.
func (iv *intervals) changing(now time.Time) bool {
	for _, until := range iv.until {
		if until.After(now.Add(-endSlack)) && until.Before(now.Add(endSlack)) {
			return true
		}
	}
	return false
}

// list reads the elements of a set.
func (b *nft) list(set *nftables.Set) (contents, error) {
	elements, err := b.conn.GetSetElements(set)
	if err != nil {
		return nil, nftError("list the set "+set.Name, err)
	}
	have := contents{}
	for _, e := range elements {
		have.add(nftElementKey(set, e))
	}
	return have, nil
}

// nftElementKey names an element: the start or end of an interval, or a whole interval with ports.
func nftElementKey(set *nftables.Set, e nftables.SetElement) string {
	switch {
	case set.Concatenation:
		return nftKeyText(e.Key) + " to " + nftKeyText(e.KeyEnd)
	case e.IntervalEnd:
		return "the end before " + nftKeyText(e.Key)
	}
	return nftKeyText(e.Key)
}

func nftKeyText(key []byte) string {
	addr, k := nftKeyParts(key)
	if k == (portKey{}) {
		return addr.String()
	}
	return fmt.Sprintf("%v,%d:%d", addr, k.proto, k.port)
}

// nftKeyParts reads what nftKey wrote.
func nftKeyParts(key []byte) (addr netip.Addr, k portKey) {
	const ports = 8 // bytes of protocol and port
	n := len(key)
	if n == net.IPv4len+ports || n == net.IPv6len+ports {
		n -= ports
		k = portKey{key[n], binary.BigEndian.Uint16(key[n+4:])}
	}
	addr, _ = netip.AddrFromSlice(key[:n])
	return addr, k
}
