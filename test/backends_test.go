//go:build linux && netns

package test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/test/rig"
)

// backends are the firewall backends, one for each node.
var backends = []struct {
	name    string
	flag    string // of the agent; its status shows the same
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

// legacyScript switches a node to iptables-legacy.
const legacyScript = `for c in iptables ip6tables; do
for s in "" -save -restore; do ln -sf /usr/sbin/$c-legacy$s /etc/alternatives/$c$s; done; done
iptables -V | grep -q legacy
`

// foreignRules are an administrator's, in the tables that meshban touches and near them.
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

// seedTables creates the tables that any iptables program leaves behind when it
// reads them.
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

	// A repeated ban stays in force, and a restart leaves no gap, on any backend.
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
			if err := target.pairs[i : i+1].Silent(silent); err != nil {
				t.Errorf("%s: %v", b.name, err)
			}
		}
	}
	if e, ok := m.nodes[5].entry(t, src.String()); !ok || e.Until.Sub(until) < time.Hour {
		t.Errorf("none lists %+v, %v", e, ok)
	}

	// Unban, then a short ban that ends by itself.
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

	m.wideBans(t)

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

// wideBans checks on each node that a wide ban leaves out the networks that the machine is in, as they come and go, while
// a ban of a single address inside them counts.
func (m *mesh) wideBans(t *testing.T) {
	t.Helper()
	const wide, network, wide6 = "198.19.0.0/16", "198.19.250.0/24", "fd78::/32"
	one := netip.MustParseAddr("198.19.250.99")
	one6 := netip.MustParseAddr("fd78::fd")
	must(m.Attacker.Do("ip", "addr", "add", one6.String()+"/64", "dev", "probe0", "nodad"))(t)
	near, far := m.watch(t, one.Prev())[:5], m.watch(t, netip.MustParseAddr("198.19.251.1"))[:5]
	banned, near6 := m.watch(t, one)[:5], m.watch(t, one6)[:5]
	all := func(args ...string) (start time.Time) { // on each node, because peers accept nothing that wide
		start = time.Now()
		for _, n := range m.nodes {
			n.run(t, args...)
		}
		return start
	}
	enforced(t, far, all("ban", wide, wide6, "--for", "1h"))
	must(near.Enforced(banLimit))(t)
	answering(t, near6)

	start := time.Now()
	for i, n := range m.nodes {
		n.ip(t, fmt.Sprintf("addr add 198.19.250.%d/24 dev probe0", i+1))
	}
	open(t, near, start, banLimit)
	open(t, banned, start, banLimit)
	m.nodes[0].run(t, "ban", one.String(), one6.String(), "--for", "1h")
	enforced(t, banned, start)
	enforced(t, near6, start)
	answering(t, near)
	if err := far.Silent(start); err != nil {
		t.Error(err)
	}
	for i, b := range backends[:5] {
		n, says := m.nodes[i], "leaves out "+network
		if list, why := n.run(t, "list"), n.run(t, "why", wide); !contains(list, says) || !contains(why, says) {
			t.Errorf("%s: list and why do not say that %s %s:\n%s%s", b.name, wide, says, list, why)
		}
		if s := n.run(t, "status"); !contains(s, "2 bans leave out "+network+", fd78::/64") {
			t.Errorf("%s: status does not say what bans leave out:\n%s", b.name, s)
		}
	}
	start = time.Now()
	for i, n := range m.nodes {
		n.ip(t, fmt.Sprintf("addr del 198.19.250.%d/24 dev probe0", i+1))
	}
	enforced(t, near, start)
	start = all("unban", wide, wide6) // and the bans inside them
	for _, pairs := range []rig.Pairs{near, far, banned, near6} {
		open(t, pairs, start, banLimit)
		pairs.Stop()
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
