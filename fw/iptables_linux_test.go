package fw

import (
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestRulesOfAnEntry(t *testing.T) {
	host, long := netip.MustParsePrefix("192.0.2.1/32"), []PortRange(nil)
	for i := range 16 {
		long = append(long, PortRange{ProtoTCP, uint16(100 * i), uint16(100*i + 1)})
	}
	for name, c := range map[string]struct {
		e    Entry
		want []string
	}{
		"ok: an address": {Entry{Prefix: host}, []string{"-s 192.0.2.1/32 -g MESHBAN-HIT"}},
		"ok: both protocols": {Entry{Prefix: host, Ports: []PortRange{{ProtoAny, 80, 80}, {ProtoUDP, 90, 95}}}, []string{
			"-s 192.0.2.1/32 -p tcp -m multiport --dports 80 -g MESHBAN-HIT",
			"-s 192.0.2.1/32 -p udp -m multiport --dports 80,90:95 -g MESHBAN-HIT",
		}},
		"ok: more than one match takes": {Entry{Prefix: host, Ports: long}, []string{
			"-s 192.0.2.1/32 -p tcp -m multiport --dports 0:1,100:101,200:201,300:301,400:401,500:501,600:601 -g MESHBAN-HIT",
			"-s 192.0.2.1/32 -p tcp -m multiport --dports 700:701,800:801,900:901,1000:1001,1100:1101,1200:1201,1300:1301 -g MESHBAN-HIT",
			"-s 192.0.2.1/32 -p tcp -m multiport --dports 1400:1401,1500:1501 -g MESHBAN-HIT",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := entryRules(c.e); strings.Join(got, "\n") != strings.Join(c.want, "\n") {
				t.Errorf("got\n%s", strings.Join(got, "\n"))
			}
		})
	}
}

func TestLatestEntriesAreKept(t *testing.T) {
	var list []Entry
	now := time.Unix(1_000_000, 0)
	for i := range 3 * maxRuleEntries {
		n := (i * 7919) % (3 * maxRuleEntries)
		list = append(list, Entry{Prefix: netip.MustParsePrefix("192.0.2." + strconv.Itoa(n%256) + "/32"), Until: now.Add(time.Duration(n) * time.Second)})
	}
	kept, over := latest(list)
	if len(kept) != maxRuleEntries || len(over) != 2*maxRuleEntries {
		t.Fatalf("%d entries, %d over", len(kept), len(over))
	}
	for _, e := range kept {
		if e.Until.Before(now.Add(2 * maxRuleEntries * time.Second)) {
			t.Errorf("%v is not among the latest", e.Until)
		}
	}
}

func TestCommandNames(t *testing.T) {
	for name, c := range map[string]struct {
		v4          string
		v6, restore bool
		want        string
	}{
		"ok: plain":            {"iptables", false, false, "iptables"},
		"ok: IPv6":             {"iptables-legacy", true, false, "ip6tables-legacy"},
		"ok: restore":          {"iptables-nft", true, true, "ip6tables-nft-restore"},
		"ok: a path keeps its": {"/opt/iptables/bin/iptables", true, true, "/opt/iptables/bin/ip6tables-restore"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := commandName(c.v4, c.v6, c.restore); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}
