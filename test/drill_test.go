//go:build linux && netns

package test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// drilled is what `meshban drill --json` prints.
type drilled struct {
	Addr    netip.Addr    `json:"addr"`
	Nodes   []drilledNode `json:"nodes"`
	Dropped int           `json:"dropped"`
	Failed  int           `json:"failed"`
	P50MS   *float64      `json:"p50_ms"`
	MaxMS   *float64      `json:"max_ms"`
}

type drilledNode struct {
	Name      string   `json:"name"`
	Verdict   string   `json:"verdict"`
	Why       string   `json:"why"`
	LatencyMS *float64 `json:"latency_ms"`
}

// drillBackends are those of the nodes of TestDrill.
var drillBackends = []string{"ipset", "nftables", "iptables", "none"}

// A drill shows with real packets which nodes drop, on every backend, and leaves nothing behind.
func TestDrill(t *testing.T) {
	t.Parallel()
	m := newFleet(t, len(drillBackends))
	for i, n := range m.nodes {
		n.args = []string{"--firewall", drillBackends[i]}
	}
	m.join(t, setup{nodes: len(drillBackends), invite: []string{"--no-drill"}})
	// rp_filter in its strict form does not hide the packets, because of a route of the drill's own.
	must(m.nodes[0].Shell("sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.default.rp_filter=1"))(t)
	d := m.drill(t, exitDone)
	if d.Dropped != 3 || d.Failed != 0 || d.P50MS == nil || *d.P50MS > *d.MaxMS {
		t.Errorf("drill: %+v", d)
	}
	for i, want := range []string{"dropped", "dropped", "dropped", "no firewall"} {
		at := slices.IndexFunc(d.Nodes, func(n drilledNode) bool { return n.Name == m.nodes[i].Name })
		if at < 0 || d.Nodes[at].Verdict != want || d.Nodes[at].Why != "" || (d.Nodes[at].LatencyMS != nil) != (want == "dropped") {
			t.Errorf("%s: %+v, want %q", drillBackends[i], d.Nodes, want)
		}
	}
	if r := m.nodes[0].exit(t, exitPolicy, "drill"); !contains(r.Stderr, "one drill a minute") {
		t.Errorf("a second drill: %s", r.Stderr)
	}
	if r := m.nodes[1].exit(t, exitPolicy, "drill"); !contains(r.Stderr, "certificate does not allow drills") {
		t.Errorf("a drill that the certificate forbids: %s", r.Stderr)
	}
	m.leftNothing(t, d.Addr)

	// A rule of somebody else's that comes before ours makes the packets pass.
	must(m.nodes[1].Shell(`nft add table ip theirs
nft add chain ip theirs early '{ type filter hook prerouting priority -400; }'
nft add rule ip theirs early ip saddr 192.0.2.0/24 ip saddr set 203.0.113.99`))(t)
	for _, n := range m.nodes { // so that they take part at once
		n.stop(t)
		n.start(t)
	}
	m.inSync(t, syncLimit)
	d = m.drill(t, exitFailed)
	if d.Dropped != 2 || d.Failed != 1 {
		t.Errorf("a node that lets the packets pass: %+v", d)
	}
	for _, n := range d.Nodes {
		if (n.Name == m.nodes[1].Name) != (n.Verdict == "not dropped" && n.Why == "3 of 3 packets got through") {
			t.Errorf("%+v", n)
		}
	}
	for i, want := range []string{"dropped here; 2 of 4 nodes dropped, 1 failed", "not dropped here (3 of 3 packets got through)"} {
		if text := m.nodes[i].run(t, "status"); !contains(text, "by "+m.nodes[0].Name+": "+want) {
			t.Errorf("status does not say %q:\n%s", want, text)
		}
	}
}

// drill makes a drill on the first node.
func (m *mesh) drill(t *testing.T, code int) drilled {
	t.Helper()
	all := must(jsonLines[drilled](m.nodes[0].exit(t, code, "drill", "--json").Stdout))(t)
	if len(all) != 1 {
		t.Fatalf("drill --json prints %d objects", len(all))
	}
	return all[0]
}

// leftNothing waits until a drill's ban has ended, and checks that nothing of the drill stays on any node.
func (m *mesh) leftNothing(t *testing.T, addr netip.Addr) {
	t.Helper()
	for _, n := range m.nodes {
		if out := must(n.Shell("(ip -o link; ip route show table all) | grep mbdrill || true"))(t); out != "" {
			t.Errorf("%s: %s", n.Name, out)
		}
		eventually(t, 20*time.Second, func() error { // the ban lasts for 10 s
			if _, banned := n.entry(t, addr.String()); banned {
				return fmt.Errorf("%s: %v is still banned", n.Name, addr)
			}
			if out, err := n.Shell("ipset list meshban4 2>/dev/null | grep -F " + addr.String() + " || true"); out != "" {
				return errors.Join(err, fmt.Errorf("%s: the kernel holds %s", n.Name, out))
			}
			return nil
		})
		if lines := n.lines(t, addr); len(lines) > 0 {
			t.Errorf("%s: the line file has %q", n.Name, lines)
		}
	}
}
