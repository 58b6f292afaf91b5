//go:build linux && netns

package test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/test/rig"
)

// backends are the ways into the kernel, one for each node.
var backends = []struct {
	name    string
	flag    string // of the agent, and what its status says
	prepare string // script before the agent starts
	drops   bool
}{
	{"ipset with iptables-nft", "ipset", "", true},
	{"ipset with iptables-legacy", "ipset", legacyScript, true},
	{"nftables", "nftables", "", true},
	{"iptables", "iptables", "", true},
	{"iptables-legacy", "iptables", legacyScript, true},
	{"none", "none", "", false},
}

// legacyScript switches a node to the older iptables.
const legacyScript = `for c in iptables ip6tables; do
for s in "" -save -restore; do ln -sf /usr/sbin/$c-legacy$s /etc/alternatives/$c$s; done; done
iptables -V | grep -q legacy
`

// foreignRules are an administrator's, in all that we touch, and near it.
const foreignRules = `iptables -w -t raw -A PREROUTING -s 192.0.2.250 -j ACCEPT
iptables -w -A INPUT -p tcp --dport 12345 -j DROP
iptables -w -t mangle -A PREROUTING -s 192.0.2.251 -j MARK --set-mark 7
ip6tables -w -t raw -A PREROUTING -s 2001:db8:fa::/64 -j ACCEPT
ipset create theirs hash:ip
ipset add theirs 192.0.2.252
iptables -w -A INPUT -m set --match-set theirs src -j DROP
nft add table inet theirs
nft add chain inet theirs input '{ type filter hook input priority 5; }'
nft add rule inet theirs input ip saddr 192.0.2.253 drop
`

// rulesOf prints everything in the kernel's packet filters, without counters
// and dates.
const rulesOf = `for p in iptables ip6tables; do $p-save; $p-legacy-save; done 2>/dev/null | grep -v '^#' | sed 's/ \[[0-9:]*\]//'
ipset save
nft list ruleset 2>/dev/null | sed 's/counter packets [0-9]* bytes [0-9]*/counter/'
`

// seedTables makes the tables that any iptables program leaves behind when it
// looks at them.
const seedTables = `for p in iptables ip6tables; do for t in raw mangle filter; do $p -w -t $t -S >/dev/null; done; done
`

func TestBackends(t *testing.T) {
	t.Parallel()
	m := newFleet(t, len(backends))
	rules := make([]string, len(backends))
	for i, b := range backends {
		n := m.nodes[i]
		must(n.Shell(b.prepare + seedTables + foreignRules))(t)
		rules[i] = must(n.Shell(rulesOf))(t)
		n.args = []string{"--firewall", b.flag}
	}
	m.join(t, setup{nodes: len(backends)})
	src, src6, wide, wide6, port := fresh(), fresh6(), freshNet(), fresh6(), fresh()
	targets := []struct {
		pairs rig.Pairs
		args  []string
	}{
		{m.watch(t, src), []string{src.String()}},
		{m.watch(t, src6), []string{src6.String()}},
		{m.watch(t, wide.Addr().Next()), []string{wide.String()}},
		{m.watch(t, wide6), []string{netip.PrefixFrom(wide6, 64).Masked().String()}},
		{nil, []string{port.String(), "--port", "22/tcp,8000-8010/udp"}},
	}
	for _, n := range m.nodes {
		targets[4].pairs = append(targets[4].pairs, m.watchNode(t, port, n, 22)...)
	}
	beside := m.watch(t, port)
	check(t, beside.Control())

	for i, b := range backends {
		if got := m.nodes[i].status(t).Firewall.Backend; got != b.flag {
			t.Errorf("%s: status says %q", b.name, got)
		}
	}
	for _, target := range targets {
		start := time.Now()
		m.nodes[0].run(t, append(append([]string{"ban"}, target.args...), "--for", "1h")...)
		for i, b := range backends {
			pair := target.pairs[i : i+1]
			if b.drops {
				enforced(t, pair, start)
			} else {
				answering(t, pair)
			}
		}
	}
	answering(t, beside)
	silent := time.Now()

	// What is said again stays, and a restart leaves no gap, on any of them.
	m.nodes[1].run(t, "ban", src.String(), "--for", "2h")
	for _, n := range m.nodes {
		n.kill(t)
		n.start(t)
	}
	m.inSync(t, syncLimit)
	until := time.Now()
	for _, target := range targets {
		for i, b := range backends {
			if !b.drops {
				continue
			}
			if err := target.pairs[i:i+1].Silent(silent, until); err != nil {
				t.Errorf("%s: %v", b.name, err)
			}
		}
	}
	if e, ok := m.nodes[5].entry(t, src.String()); !ok || e.Until.Sub(until) < time.Hour {
		t.Errorf("none lists %+v, %v", e, ok)
	}

	// Unban, and a short ban that the kernel lets go.
	for _, target := range targets {
		start := time.Now()
		m.nodes[2].run(t, "unban", target.args[0])
		open(t, target.pairs, start, banLimit)
	}
	started := time.Now()
	const length = 8 * time.Second
	m.nodes[2].run(t, "ban", src.String(), "--for", length.String())
	ended := time.Now()
	silent = started.Add(enforced(t, targets[0].pairs[:5], started))
	letGo(t, targets[0].pairs[:5], silent, started, ended, length)

	// Teardown leaves the machine as it was, with a ban in the kernel.
	m.nodes[0].run(t, "ban", src.String(), wide.String(), src6.String())
	must(targets[0].pairs[:5].Enforced(banLimit))(t)
	for i, b := range backends {
		n := m.nodes[i]
		n.stop(t)
		n.run(t, "teardown")
		if after := must(n.Shell(rulesOf))(t); after != rules[i] {
			t.Errorf("%s: teardown leaves\n%s\nwhere there was\n%s", b.name, differing(after, rules[i]), differing(rules[i], after))
		}
	}
}

// differing returns the lines of a that b does not have.
func differing(a, b string) string {
	has := map[string]bool{}
	for line := range strings.Lines(b) {
		has[line] = true
	}
	var out strings.Builder
	for line := range strings.Lines(a) {
		if !has[line] {
			out.WriteString(line)
		}
	}
	return out.String()
}
