//go:build linux && netns

package test

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/test/rig"
)

const (
	// checkEvery is the interval of the firewall check in these tests.
	checkEvery = time.Second
	// repairLimit is ten times the sum of one interval and the time of a repair, 1 s.
	repairLimit = 10 * (checkEvery + time.Second)

	flushRaw = "iptables -w -t raw -F && ip6tables -w -t raw -F"
)

// A ban for which the kernel's set has no room is reported as not enforced by every command, and packets pass.
func TestFullSet(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 1, config: "firewall:\n  backends: [ipset]\n  check: 10m"})
	n, src := m.nodes[0], fresh()
	pairs := m.watch(t, src)
	must(n.Shell("ipset create small hash:ip maxelem 3 timeout 0 && ipset swap small meshban4 && " +
		"for a in 240.0.0.1 192.0.2.1 192.0.2.2; do ipset add meshban4 $a; done"))(t)
	r := n.exit(t, exitFailed, "ban", src.String(), "--for", "1h")
	const why = "the kernel's set is full"
	if !contains(r.Stderr, "not enforced") || !contains(r.Stderr, why) {
		t.Errorf("ban says %q", r.Stderr)
	}
	answering(t, pairs)
	for _, c := range []struct{ verb, says string }{
		{"list", "not enforced: " + why}, {"why " + src.String(), "does not enforce it: " + why}, {"status", "1 ban is not enforced: " + why},
	} {
		if text := n.run(t, strings.Fields(c.verb)...); !contains(text, c.says) {
			t.Errorf("%s does not say %q:\n%s", c.verb, c.says, text)
		}
	}
	if s := n.status(t); s.Firewall.Enforced != 0 {
		t.Errorf("%d enforced", s.Firewall.Enforced)
	}
}

// The next check repairs what others do to the firewall.
func TestDrift(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 2, config: "firewall:\n  check: " + checkEvery.String()})
	m.nodes[1].stop(t)
	m.nodes[1].args = []string{"--firewall", "nftables"}
	m.nodes[1].start(t)
	m.inSync(t, syncLimit)
	src, src6 := fresh(), fresh6()
	inside := netip.MustParseAddr("203.0.113.77")
	pairs, pairs6, wide := m.watch(t, src), m.watch(t, src6), m.watch(t, inside)
	start := time.Now()
	m.nodes[0].run(t, "ban", src.String(), src6.String(), "203.0.113.64/27", "--for", "1h")
	for _, p := range []rig.Pairs{pairs, pairs6, wide} {
		enforced(t, p, start)
	}
	for _, c := range []struct {
		name   string
		node   int
		script string
	}{
		{"ok: iptables -F of the raw tables", 0, flushRaw},
		// The loop is needed because a repair may come between two commands.
		{"ok: our chain is gone", 0, "until " + flushRaw + " && iptables -w -t raw -X && ip6tables -w -t raw -X; do :; done"},
		{"ok: nft flush ruleset under iptables-nft", 0, "nft flush ruleset"},
		{"ok: ipset destroy", 0, "until " + flushRaw + " && ipset destroy; do :; done"},
		{"ok: a rule in front of ours", 0, "iptables -w -t raw -I PREROUTING -j ACCEPT && ip6tables -w -t raw -I PREROUTING -j ACCEPT"},
		{"ok: nft flush ruleset", 1, "nft flush ruleset"},
		{"ok: nft delete table", 1, "nft delete table inet meshban"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := m.nodes[c.node]
			repairs := n.status(t).Firewall.Repairs
			mine := rig.Pairs{pairs[c.node], pairs6[c.node], wide[c.node]}
			start := time.Now()
			must(n.Shell(c.script))(t)
			done := time.Now()
			must(mine.Open(start, banLimit))(t) // positive control: the hole is real
			at := rig.Last(must(mine.Enforced(2 * repairLimit))(t))
			if took := at.Sub(done); took > repairLimit {
				t.Errorf("repaired after %v", took)
			}
			t.Logf("repaired after %.0f ms", ms(at.Sub(done)))
			if s := n.status(t).Firewall; s.Repairs <= repairs || s.LastError != "" && s.Enforced == 0 {
				t.Errorf("status %+v, %d repairs before", s, repairs)
			}
		})
	}

	// The repairs changed no foreign rule.
	n := m.nodes[0]
	out := must(n.Do("iptables", "-w", "-t", "raw", "-S", "PREROUTING"))(t)
	if !contains(out, "-A PREROUTING -j ACCEPT") {
		t.Errorf("the repair removed a foreign rule:\n%s", out)
	}
	start = time.Now()
	m.nodes[1].run(t, "unban", src.String())
	open(t, pairs, start, banLimit)
	eventually(t, banLimit, func() error {
		if s := fmt.Sprint(n.status(t).Problems); contains(s, "firewall") {
			return fmt.Errorf("after the repairs, %s complains: %s", n.Name, s)
		}
		return nil
	})
}

// The administrator saves the rules with `nft list ruleset`. nft cannot load them again if they have meshban's iptables-nft
// rules; status says so, and with its remedy nft can.
func TestSavedRulesetLoadsAgain(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 1})
	n := m.nodes[0]
	const save, load = "nft list ruleset >/etc/nftables.conf", "nft flush ruleset && nft -f /etc/nftables.conf"
	must(n.Shell(save))(t)
	if _, err := n.Shell("nft -c -f /etc/nftables.conf"); err == nil {
		t.Fatal("it can be loaded again")
	}
	told := regexp.MustCompile("reminder +/etc/nftables.conf .* write `(.+)` into meshban.yaml").FindStringSubmatch(n.run(t, "status"))
	if told == nil {
		t.Fatalf("status says nothing: %s", n.run(t, "status"))
	}
	n.configure(t, told[1])
	n.stop(t)
	n.start(t)
	must(n.Shell(save + " && " + load))(t)
	if s := n.run(t, "status"); contains(s, "nftables.conf") || !contains(s, "nftables, ") {
		t.Errorf("with the remedy: %s", s)
	}
}
