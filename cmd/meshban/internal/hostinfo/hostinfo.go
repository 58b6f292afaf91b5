// Package hostinfo returns the addresses that this machine cannot do without: its own, its gateways and its resolvers.
// The daemon puts them on the never-ban list. It also returns the networks that the machine is in.
package hostinfo

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"
)

// Entry is one address or network of the machine and what it is: "own address", "gateway", "resolver" or OwnNetwork.
type Entry struct {
	Prefix netip.Prefix
	Why    string
}

// OwnNetwork is the Why of a network that the machine is in.
const OwnNetwork = "own network"

// carrierNAT is the shared address space of RFC 6598, and future what is reserved: neither is a public address.
var carrierNAT, future = netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("240.0.0.0/4")

// IsPublic reports whether an address can be another machine's on the Internet.
func IsPublic(a netip.Addr) bool {
	return a.IsGlobalUnicast() && !a.IsPrivate() && !carrierNAT.Contains(a) && !future.Contains(a)
}

// RefreshEvery bounds the age of the entries if the kernel does not announce changes.
const RefreshEvery = 30 * time.Second

// MaxEntries bounds the list on a machine with very many addresses.
const MaxEntries = 4096

// maxResolvConf bounds how much of resolv.conf is read, in bytes.
const maxResolvConf = 64 << 10

// resolvConf lists the resolvers.
const resolvConf = "/etc/resolv.conf"

// Read returns the current entries: addresses first, sorted and without duplicates, then networks. It leaves out a part
// that it cannot read and returns an error along with the rest.
func Read() ([]Entry, error) {
	var out []Entry
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		err = fmt.Errorf("read own addresses: %w", err)
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			if addr, ok := netip.AddrFromSlice(n.IP); ok {
				out = add(out, addr, "own address")
			}
		}
	}
	gateways, gerr := readGateways()
	for _, g := range gateways {
		out = add(out, g, "gateway")
	}
	// A missing resolv.conf is no error: there is no resolver to protect.
	if text, rerr := readBounded(resolvConf); rerr == nil {
		for _, r := range parseResolvers(text) {
			out = add(out, r, "resolver")
		}
	}
	slices.SortStableFunc(out, func(a, b Entry) int { return a.Prefix.Addr().Compare(b.Prefix.Addr()) })
	out = slices.CompactFunc(out, func(a, b Entry) bool { return a.Prefix == b.Prefix })
	if len(out) > MaxEntries {
		out = out[:MaxEntries]
	}
	networks, nerr := readNetworks()
	return append(out, networks...), cmp.Or(err, gerr, nerr)
}

// readNetworks returns the networks of all interfaces that are up, except loopback, link-local networks and single
// addresses. Interfaces that came with the machine tend to precede bridges made later.
func readNetworks() ([]Entry, error) {
	links, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("read own networks: %w", err)
	}
	var out []Entry
	for _, link := range links {
		if link.Flags&net.FlagUp == 0 || link.Flags&net.FlagLoopback != 0 {
			continue
		}
		addrs, err := link.Addrs()
		if err != nil {
			continue // the interface has gone in the meantime
		}
		for _, a := range addrs {
			n, ok := a.(*net.IPNet)
			if !ok {
				continue
			}
			addr, _ := netip.AddrFromSlice(n.IP)
			bits, _ := n.Mask.Size()
			p := netip.PrefixFrom(addr.Unmap(), bits).Masked()
			if e := (Entry{p, OwnNetwork}); p.IsValid() && !p.IsSingleIP() && !p.Addr().IsLinkLocalUnicast() && !slices.Contains(out, e) {
				out = append(out, e)
			}
		}
	}
	return out, nil
}

// Watch calls changed whenever the addresses or routes may have changed, and at least every RefreshEvery, until ctx
// ends.
func Watch(ctx context.Context, changed func()) error {
	events, err := subscribe(ctx)
	if err != nil {
		events = nil // the ticker alone must do
	}
	tick := time.NewTicker(RefreshEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-events:
			if !ok {
				events = nil
				continue
			}
		case <-tick.C:
		}
		changed()
	}
}

func add(out []Entry, addr netip.Addr, why string) []Entry {
	addr = addr.Unmap().WithZone("")
	if !addr.IsValid() || addr.IsUnspecified() {
		return out
	}
	return append(out, Entry{netip.PrefixFrom(addr, addr.BitLen()), why})
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	buf := make([]byte, maxResolvConf)
	n, err := f.Read(buf)
	return buf[:n], err
}

func parseResolvers(text []byte) []netip.Addr {
	var out []netip.Addr
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) < 2 || words[0] != "nameserver" {
			continue
		}
		if addr, err := netip.ParseAddr(words[1]); err == nil {
			out = append(out, addr)
		}
	}
	return out
}
