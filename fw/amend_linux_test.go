package fw

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"github.com/mdlayher/netlink/nltest"
	"golang.org/x/sys/unix"
)

// sent counts what a fake kernel receives.
type sent struct{ adds, dels, others int }

// fakeIPSet answers as ip_set does, and counts elements.
func fakeIPSet(n *sent) *ipset {
	b := &ipset{xt: &xtables{families: make([]*xtFamily, 2)}, ports: newPortBans()}
	b.conn.sock = nltest.Dial(func(req []netlink.Message) ([]netlink.Message, error) {
		for _, m := range req {
			switch int(m.Header.Type) &^ (unix.NFNL_SUBSYS_IPSET << 8) {
			case cmdAdd:
				n.adds += elementsIn(m.Data)
			case cmdDel:
				n.dels += elementsIn(m.Data)
			case cmdHeader:
				m.Data = headOf(m.Data)
				return []netlink.Message{m}, nil
			default:
				n.others++
			}
		}
		return nltest.Error(0, req)
	})
	return b
}

// headOf answers a cmdHeader: the set is as it should be.
func headOf(b []byte) []byte {
	ad, _ := netlink.NewAttributeDecoder(b[4:])
	head := message{unix.AF_INET, 0, 0, 0}
	for ad.Next() {
		for _, family := range ipsetSpecs {
			for _, spec := range family {
				if ad.Type() == attrSetName && ad.String() == spec.name {
					head.string(attrTypeName, spec.typeName)
					head.uint8(attrFamily, spec.family())
				}
			}
		}
	}
	return head
}

// elementsIn counts the elements of a cmdAdd or cmdDel.
func elementsIn(b []byte) (n int) {
	ad, _ := netlink.NewAttributeDecoder(b[4:])
	for ad.Next() {
		switch ad.Type() {
		case attrData:
			n++
		case attrADT:
			ad.Nested(func(list *netlink.AttributeDecoder) error {
				for list.Next() {
					n++
				}
				return nil
			})
		}
	}
	return n
}

// fakeNFT accepts what nf_tables would, and counts intervals by their starts, not their ends.
func fakeNFT(t *testing.T, n *sent) *nft {
	conn, err := nftables.New(nftables.WithTestDial(func(req []netlink.Message) ([]netlink.Message, error) {
		var acks []netlink.Message
		for _, m := range req {
			kind := int(m.Header.Type) &^ (unix.NFNL_SUBSYS_NFTABLES << 8)
			switch kind {
			case unix.NFT_MSG_NEWSETELEM:
				n.adds += intervalsIn(m.Data)
			case unix.NFT_MSG_DELSETELEM:
				d := intervalsIn(m.Data)
				n.dels += d
				if d == 0 {
					n.others++ // a set is flushed
				}
			}
			if m.Header.Flags&netlink.Acknowledge != 0 {
				ack, _ := nltest.Error(0, []netlink.Message{m})
				acks = append(acks, ack...)
			}
		}
		return acks, nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	return &nft{conn: &nftConn{Conn: conn}, shape: newNFTShape()}
}

func intervalsIn(b []byte) (n int) {
	ad, _ := netlink.NewAttributeDecoder(b[4:])
	for ad.Next() {
		if ad.Type() != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			continue
		}
		ad.Nested(func(list *netlink.AttributeDecoder) error {
			for list.Next() {
				end := false
				list.Nested(func(e *netlink.AttributeDecoder) error {
					for e.Next() {
						end = end || e.Type() == unix.NFTA_SET_ELEM_FLAGS
					}
					return nil
				})
				if !end {
					n++
				}
			}
			return nil
		})
	}
	return n
}

// fakeIPTables saves the input of iptables-restore in a file.
type fakeIPTables struct {
	*iptablesBackend
	input string
}

func newFakeIPTables(t *testing.T) fakeIPTables {
	dir := t.TempDir()
	b := fakeIPTables{&iptablesBackend{}, filepath.Join(dir, "input")}
	path := filepath.Join(dir, "iptables")
	script := "#!/bin/sh\nexec cat >" + b.input + "\n"
	if err := os.WriteFile(path+"-restore", []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	b.xt = &xtables{table: tableRaw, families: []*xtFamily{{path: path, name: "iptables", wait: "1"}}}
	return b
}

// lines returns the rules that were written last, and whether the chain was rebuilt.
func (b fakeIPTables) lines(t *testing.T) (rules []string, anew bool) {
	out, err := os.ReadFile(b.input)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		switch line[0] {
		case '-':
			rules = append(rules, strings.TrimSpace(line))
		case ':':
			anew = true
		}
	}
	return rules, anew
}

// One more allowed prefix among 30,000 used to refill both sets of each family; with iptables, it rebuilt the whole chain.
func TestExceptionsAreSentByTheirDifference(t *testing.T) {
	all, _ := Exceptions{Never: numbered(9, 2000), Allow: numbered(1, 30_000)}.fit()
	changed := Exceptions{
		Never: slices.Concat(numbered(9, 1999), parsePrefixes("2001:db8::1/128")),
		Allow: slices.Concat(numbered(1, 29_998), parsePrefixes("192.0.2.0/24")),
	}
	changed.Never, changed.Allow = sorted(changed.Never), sorted(changed.Allow)
	for _, tt := range []struct {
		name   string
		fake   func(*testing.T, *sent) Backend
		others int // messages without elements in a full load
	}{
		{NameIPSet, func(_ *testing.T, n *sent) Backend { return fakeIPSet(n) }, 16},
		{NameNFTables, func(t *testing.T, n *sent) Backend { return fakeNFT(t, n) }, 4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var n sent
			b := tt.fake(t, &n)
			if err := b.SetExceptions(t.Context(), all, nil); err != nil {
				t.Fatal(err)
			}
			if want := (sent{adds: 32_004, others: tt.others}); n != want {
				t.Errorf("a full load sent %+v, want %+v", n, want)
			}
			n = sent{}
			if err := b.SetExceptions(t.Context(), changed, &all); err != nil {
				t.Fatal(err)
			}
			if n != (sent{adds: 2, dels: 3}) {
				t.Errorf("a change sent %+v", n)
			}
		})
	}
	t.Run(NameIPTables, func(t *testing.T) {
		b := newFakeIPTables(t)
		if err := b.SetExceptions(t.Context(), all, nil); err != nil {
			t.Fatal(err)
		}
		if rules, anew := b.lines(t); !anew || len(rules) != 32_001 {
			t.Errorf("a full load sent %d rules; anew: %v", len(rules), anew)
		}
		if err := b.SetExceptions(t.Context(), changed, &all); err != nil {
			t.Fatal(err)
		}
		rules, anew := b.lines(t)
		want := []string{
			"-D MESHBAN-HIT -s 9.0.7.207/32 -j RETURN", "-D MESHBAN-HIT -s 1.0.117.46/32 -j RETURN", "-D MESHBAN-HIT -s 1.0.117.47/32 -j RETURN",
			"-I MESHBAN-HIT 31998 -s 192.0.2.0/24 -j RETURN",
		}
		if anew || !slices.Equal(rules, want) {
			t.Errorf("a change sent %q; anew: %v", rules, anew)
		}
		// 2,767 deletions of 32,768 rules kept iptables-nft busy for more than a minute.
		for _, gone := range []int{maxRuleDeletes, maxRuleDeletes + 1} {
			if err := b.SetExceptions(t.Context(), Exceptions{Allow: all.Allow[gone:]}, &Exceptions{Allow: all.Allow}); err != nil {
				t.Fatal(err)
			}
			if rules, anew := b.lines(t); anew != (gone > maxRuleDeletes) {
				t.Errorf("where %d rules go, it sent %d lines; anew: %v", gone, len(rules), anew)
			}
		}
	})
}

// Amendment lines, applied one after the other, give the chain that want describes.
func TestAmendmentsKeepTheChainInOrder(t *testing.T) {
	b := newFakeIPTables(t)
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 5))
		random := func() (x Exceptions) {
			for _, list := range []*[]netip.Prefix{&x.Never, &x.Allow} {
				for range rng.IntN(12) {
					p, _ := netip.AddrFrom4([4]byte{10, 0, 0, byte(rng.IntN(64))}).Prefix(28 + rng.IntN(5))
					if rng.IntN(4) == 0 {
						p = netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 15: byte(rng.IntN(32))}), 128)
					}
					*list = append(*list, p)
				}
			}
			x, _ = x.fit()
			return x
		}
		for _, v6 := range []bool{false, true} {
			f := &xtFamily{v6: v6}
			from, to := random(), random()
			b.exceptions = from
			chain := b.want(v6).hit
			b.exceptions = to
			lines, ok := b.amendment(f, to, &from)
			if !ok {
				continue
			}
			for _, line := range lines {
				if rule, gone := strings.CutPrefix(line, "-D "+chainHit+" "); gone {
					i := slices.Index(chain, rule)
					chain = slices.Delete(chain, i, i+1)
					continue
				}
				var at int
				if _, err := fmt.Sscanf(line, "-I "+chainHit+" %d", &at); err != nil {
					t.Fatal(err)
				}
				chain = slices.Insert(chain, at-1, line[strings.Index(line, "-s"):])
			}
			if want := b.want(v6).hit; !slices.Equal(chain, want) {
				t.Fatalf("seed %d: got\n%q, want\n%q", seed, chain, want)
			}
		}
	}
}

// A change that fails halfway is followed by a full load; until then, exceptions that are not certain count as missing.
func TestAfterAFailedAmendmentAllIsSent(t *testing.T) {
	withSyncer(t, nil, func(b *bench) {
		except := func(list ...string) {
			b.mu.Lock()
			b.never = parsePrefixes(list...)
			b.mu.Unlock()
			b.ExceptionsChanged()
			b.pass(replaceDelayMin / 2)
		}
		refills := func() int { return get(b.fake, func(f *fake) int { return f.refills }) }
		except("192.0.2.1/32")
		b.expect("full loads", refills(), 1)
		except("192.0.2.1/32", "192.0.2.2/32")
		b.expect("full loads", refills(), 1)
		b.fake.set(func(f *fake) { f.onExcept = func() error { return syscall.ENOMEM } })
		except("192.0.2.1/32", "198.51.100.1/32")
		_, ok := b.Withheld(netip.MustParsePrefix("198.51.100.0/24"))
		b.expect("withheld", ok, true)
		_, ok = b.Withheld(netip.MustParsePrefix("192.0.2.0/24"))
		b.expect("withheld", ok, false)
		b.fake.set(func(f *fake) { f.onExcept = nil })
		b.pass(replaceDelayMax)
		b.expect("full loads", refills(), 2)
		_, ok = b.Withheld(netip.MustParsePrefix("198.51.100.0/24"))
		b.expect("withheld", ok, false)
	})
}
