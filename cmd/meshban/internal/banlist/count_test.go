package banlist

import (
	"bufio"
	"bytes"
	"fmt"
	"math/big"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// addresses counts the addresses of a list with package net instead of netip.
func addresses(t *testing.T, texts []string) string {
	t.Helper()
	seen, sum := map[string]bool{}, new(big.Int)
	for _, s := range texts {
		if !strings.Contains(s, "/") {
			s += map[bool]string{true: "/128", false: "/32"}[strings.Contains(s, ":")]
		}
		_, n, err := net.ParseCIDR(s)
		if err != nil {
			t.Fatal(err)
		}
		if !seen[n.String()] {
			seen[n.String()] = true
			ones, bits := n.Mask.Size()
			sum.Add(sum, new(big.Int).Lsh(big.NewInt(1), uint(bits-ones)))
		}
	}
	return sum.String()
}

func texts(list *List) []string {
	var out []string
	for _, e := range list.Entries {
		out = append(out, e.Prefix.String())
	}
	return out
}

// networks returns n disjoint /24 to /32.
func networks(n int) []netip.Prefix {
	rng := rand.New(rand.NewPCG(7, 7))
	out := make([]netip.Prefix, n)
	for i := range out {
		a := netip.AddrFrom4([4]byte{byte(11 + i>>16), byte(i >> 8), byte(i), byte(rng.Uint32())})
		out[i] = netip.PrefixFrom(a, 24+rng.IntN(9)).Masked()
	}
	return out
}

// last returns the last address of an IPv4 prefix.
func last(p netip.Prefix) netip.Addr {
	a := p.Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		a[i/8] |= 1 << (7 - i%8)
	}
	return netip.AddrFrom4(a)
}

// Read finds as many addresses as an independent count, in every format.
func TestCounts(t *testing.T) {
	t.Parallel()
	all := networks(2000)
	var plain []string
	for _, p := range all {
		plain = append(plain, p.String())
	}
	want := addresses(t, plain)
	for _, f := range []struct {
		name, head, tail string
		entry            func(i int, p netip.Prefix) string
	}{
		{"CIDR", "# head\n", "", func(_ int, p netip.Prefix) string { return p.String() + "\n" }},
		{"CRLF", "", "", func(_ int, p netip.Prefix) string { return p.String() + "\r\n" }},
		{"CR", "", "", func(_ int, p netip.Prefix) string { return p.String() + "\r" }},
		{"several on a line", "", "", func(i int, p netip.Prefix) string { return p.String() + []string{" ", " ", "\n"}[i%3] }},
		{"all on one line", "", "", func(i int, p netip.Prefix) string { return p.String() + " " }},
		{"ranges", "", "", func(_ int, p netip.Prefix) string { return fmt.Sprintf("%s-%s\n", p.Addr(), last(p)) }},
		{"ranges, blanks", "", "", func(_ int, p netip.Prefix) string { return fmt.Sprintf("%s - %s\n", p.Addr(), last(p)) }},
		{"ranges, TAB", "", "", func(_ int, p netip.Prefix) string { return fmt.Sprintf("%s\t%s\n", p.Addr(), last(p)) }},
		{"p2p", "", "", func(i int, p netip.Prefix) string { return fmt.Sprintf("Org %d, Inc:%s-%s\n", i, p.Addr(), last(p)) }},
		{"netmask", "", "", func(_ int, p netip.Prefix) string {
			return fmt.Sprintf("%s/%s\n", p.Addr(), net.IP(net.CIDRMask(p.Bits(), 32)))
		}},
		{"host bits", "", "", func(_ int, p netip.Prefix) string { return fmt.Sprintf("%s/%d\n", last(p), p.Bits()) }},
		{"hosts.deny", "", "", func(_ int, p netip.Prefix) string { return "ALL: " + p.String() + "\n" }},
		{"CSV", "cidr,country\n", "", func(_ int, p netip.Prefix) string { return p.String() + ",US\n" }},
		{"CSV, quoted", "\"country\",\"cidr\"\n", "", func(_ int, p netip.Prefix) string { return fmt.Sprintf("\"a, b\",%q\n", p) }},
		{"CSV of ranges", "first,last\n", "", func(_ int, p netip.Prefix) string { return fmt.Sprintf("%s,%s\n", p.Addr(), last(p)) }},
		{"Spamhaus", "", `{"type":"metadata","timestamp":1,"size":2,"records":3}`, func(_ int, p netip.Prefix) string {
			return fmt.Sprintf("{\"cidr\":%q,\"sblid\":\"SBL1\",\"rir\":\"arin\"}\n", p)
		}},
		{"AbuseIPDB", `{"meta":{"generatedAt":"2026"},"data":[`, `null]}`, func(_ int, p netip.Prefix) string {
			return fmt.Sprintf(`{"ipAddress":%q,"abuseConfidenceScore":100},`, p)
		}},
		{"CrowdSec", "[", `{"decisions":null}]`, func(_ int, p netip.Prefix) string {
			return fmt.Sprintf(`{"decisions":[{"value":%q,"type":"ban","scope":"Range","duration":"3h"}]},`, p)
		}},
		{"array", "[", `null]`, func(_ int, p netip.Prefix) string { return fmt.Sprintf("%q,\n", p) }},
	} {
		var b strings.Builder
		b.WriteString(f.head)
		for i, p := range all {
			b.WriteString(f.entry(i, p))
		}
		b.WriteString(f.tail)
		for _, text := range []string{b.String(), zip(t, b.String())} {
			list, err := Read(strings.NewReader(text), nil)
			if err != nil {
				t.Errorf("%s: %v", f.name, err)
			} else if got := addresses(t, texts(list)); got != want {
				t.Errorf("%s: %s addresses, want %s", f.name, got, want)
			}
		}
	}
}

// Every line of a published list is read.
func TestCountsOfRealLists(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../../../../shared/data/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]bool{}
		for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
			if f := strings.Fields(lines.Text()); len(f) > 0 && f[0][0] != '#' {
				want[f[0]] = true
			}
		}
		list, err := Read(bytes.NewReader(data), nil)
		if err != nil || len(list.Entries) != len(want) {
			t.Errorf("%s: %d entries, want %d, %v", file, len(list.Entries), len(want), err)
		}
	}
}

// FuzzRead checks that Read returns only masked, sorted prefixes, and that its entries, written as plain lines, are
// read as the same list.
func FuzzRead(f *testing.F) {
	for _, s := range []string{
		"192.0.2.1\n", "192.0.2.0/24 ; x", "192.0.2.1 - 192.0.2.9\r", "a,ip\nb,192.0.2.1\n", `[{"ip":"192.0.2.1"}]`, "ALL: 192.0.2.1 EXCEPT 192.0.2.2",
		"add element inet meshban-export {}", "add meshban-export-4p 192.0.2.1,tcp:22-25 timeout 5", "add element inet meshban-export v4 { 192.0.2.1 timeout 5s, 192.0.2.2 timeout 5s }",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := Read(bytes.NewReader(data), nil)
		if err != nil {
			return
		}
		var plain strings.Builder
		for i, e := range list.Entries {
			if e.Prefix != e.Prefix.Masked() || e.Prefix.Addr().Is4In6() || i > 0 && list.Entries[i-1].Compare(e) >= 0 {
				t.Fatalf("%q gives %+v", data, list.Entries)
			}
			fmt.Fprintln(&plain, e.Prefix)
		}
		again, err := Read(strings.NewReader(plain.String()), nil)
		if err != nil || len(again.Entries) > len(list.Entries) || len(list.Entries) > 0 && len(again.Entries) == 0 {
			t.Fatalf("%q: %v, %v", data, again, err)
		}
	})
}

func TestEntriesAreInTheOrderOfTheirPrefixes(t *testing.T) {
	var all []netip.Prefix
	for _, s := range []string{"0.0.0.0/8", "10.0.0.0/8", "10.0.0.0/24", "10.0.0.0/32", "10.0.1.0/24", "255.255.255.255/32", "::/19", "::/128", "2001:db8::/32", "2001:db8::/64"} {
		all = append(all, netip.MustParsePrefix(s))
	}
	for _, a := range all {
		for _, b := range all {
			if got, want := (Entry{a, ""}).Compare(Entry{b, ""}), a.Compare(b); got != want {
				t.Errorf("%v to %v: %d, netip says %d", a, b, got, want)
			}
		}
	}
}
