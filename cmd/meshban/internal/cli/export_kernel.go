package cli

import (
	"bufio"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

const (
	ipsetMaxTimeout = 2_147_482 // seconds; ipset takes one more, and 0 means for ever
	ipsetMinSize    = 65_536    // maxelem of a set, also its default
	nftBatch        = 500       // elements of one nft statement
	exportName      = "meshban-export"
)

// family returns "4" or "6".
func family(p netip.Prefix) string {
	if p.Addr().Is4() {
		return "4"
	}
	return "6"
}

// secondsLeft rounds up and stays within what both ipset and nft take.
func secondsLeft(until, now time.Time) int64 {
	left := int64((until.Sub(now) + time.Second - 1) / time.Second)
	return min(max(left, 1), ipsetMaxTimeout)
}

// ipsetExport writes the input of `ipset -exist restore`.
type ipsetExport struct {
	out   *bufio.Writer
	now   time.Time
	ports portBans
}

func newIpsetExport(out *bufio.Writer, now time.Time, most int) exporter {
	size := max(2*most, ipsetMinSize)
	fmt.Fprintln(out, "# load with: ipset -exist restore < FILE")
	for _, f := range []struct{ name, inet string }{{"4", "inet"}, {"6", "inet6"}} {
		fmt.Fprintf(out, "create %s-%s hash:net family %s maxelem %d timeout 0\n", exportName, f.name, f.inet, size)
		fmt.Fprintf(out, "create %s-%sp hash:net,port family %s maxelem %d timeout 0\n", exportName, f.name, f.inet, size)
	}
	return &ipsetExport{out, now, portBans{}}
}

func (x *ipsetExport) entry(e control.ListEntry) error {
	if e.Ports != "" {
		x.ports.add(e)
		return nil
	}
	_, err := fmt.Fprintf(x.out, "add %s-%s %s timeout %d\n",
		exportName, family(e.Prefix.Prefix), e.Prefix.String(), secondsLeft(e.Until.Time, x.now))
	return err
}

func (x *ipsetExport) end() error {
	return x.ports.each(func(k portKey, s portSpan) error {
		_, err := fmt.Fprintf(x.out, "add %s-%sp %s,%s:%s timeout %d\n",
			exportName, family(k.prefix), control.FormatPrefix(k.prefix), k.proto, s, secondsLeft(s.until, x.now))
		return err
	})
}

// nftExport writes the input of `nft -f`. Each prefix length has its own set, so that no two elements of a set overlap,
// which nft refuses; the set of single addresses is a hash and takes millions.
type nftExport struct {
	out   *bufio.Writer
	now   time.Time
	held  map[string][]string // set -> elements not yet written
	sets  []string            // declared, in this order
	ports portBans
}

func newNftExport(out *bufio.Writer, now time.Time, _ int) exporter {
	fmt.Fprintf(out, "# load with: nft -f FILE\n# take away with: nft delete table inet %s\nadd table inet %[1]s\n", exportName)
	return &nftExport{out: out, now: now, held: map[string][]string{}, ports: portBans{}}
}

// set returns the name of the set for p, and declares the set on first use.
func (x *nftExport) set(p netip.Prefix, ports bool) string {
	name, kind, flags := "v"+family(p), "ipv"+family(p)+"_addr", "timeout"
	if ports {
		name, kind, flags = name+"-ports", kind+" . inet_proto . inet_service", "interval, timeout"
	}
	if !p.IsSingleIP() {
		name, flags = fmt.Sprintf("%s-%d", name, p.Bits()), "interval, timeout"
	}
	if _, ok := x.held[name]; !ok {
		x.held[name] = make([]string, 0, nftBatch)
		x.sets = append(x.sets, name)
		fmt.Fprintf(x.out, "add set inet %s %s { type %s; flags %s; }\n", exportName, name, kind, flags)
	}
	return name
}

func (x *nftExport) entry(e control.ListEntry) error {
	if e.Ports != "" {
		x.ports.add(e)
		return nil
	}
	return x.add(x.set(e.Prefix.Prefix, false), e.Prefix.String(), e.Until.Time)
}

func (x *nftExport) add(set, element string, until time.Time) error {
	x.held[set] = append(x.held[set], fmt.Sprintf("%s timeout %ds", element, secondsLeft(until, x.now)))
	if len(x.held[set]) < nftBatch {
		return nil
	}
	return x.flush(set)
}

func (x *nftExport) flush(set string) error {
	if len(x.held[set]) == 0 {
		return nil
	}
	_, err := fmt.Fprintf(x.out, "add element inet %s %s { %s }\n", exportName, set, strings.Join(x.held[set], ", "))
	x.held[set] = x.held[set][:0]
	return err
}

func (x *nftExport) end() error {
	err := x.ports.each(func(k portKey, s portSpan) error {
		return x.add(x.set(k.prefix, true), fmt.Sprintf("%s . %s . %s", control.FormatPrefix(k.prefix), k.proto, s), s.until)
	})
	if err != nil {
		return err
	}
	for _, set := range x.sets {
		if err := x.flush(set); err != nil {
			return err
		}
	}
	return nil
}
