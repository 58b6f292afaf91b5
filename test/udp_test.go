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

const (
	// firstWithoutUDP and laterWithoutUDP bound how soon a ban crosses after UDP is lost: five and ten times the target figures.
	firstWithoutUDP, laterWithoutUDP = 25 * time.Second, 20 * time.Second
	// udpNamed bounds how soon both sides report the loss, and how soon they stop once it ends.
	udpNamed = time.Minute
)

// A firewall, or a link with a smaller MTU, between one node and the two others drops UDP but lets TCP pass. Bans still
// cross, and both sides report what is lost.
func TestUDPLost(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 3})
	m.inSync(t, syncLimit)
	here, there := m.nodes[0], m.nodes[2]
	for _, tt := range []struct {
		name       string
		chains     string
		match      string
		bulk       bool
		said, told string // what the node itself reports about the other, and the other about it
	}{
		{"both ways", "INPUT OUTPUT", "", false, "UDP to and from it does not arrive", "UDP to and from it does not arrive"},
		{"to one node", "INPUT", "", false, "UDP from it does not arrive", "UDP to it does not arrive"},
		{"from one node, when large", "OUTPUT", "-m length --length 1000:65535", true,
			"large UDP packets to it do not arrive", "large UDP packets from it do not arrive"},
	} {
		rules := func(do string) {
			for chain := range strings.FieldsSeq(tt.chains) {
				must(there.Do("sh", "-c", fmt.Sprintf("iptables -w %s %s -p udp --dport %d %s -j DROP", do, chain, meshPort, tt.match)))(t)
			}
		}
		rules("-I")
		for i, n := range []*node{here, there, here, there} {
			limit, what := firstWithoutUDP, "first"
			if i >= 2 {
				limit, what = laterWithoutUDP, "later"
				m.udp(t, there, here, tt.said)
				m.udp(t, here, there, tt.told)
			}
			src := fresh()
			pairs := m.watch(t, src)
			start := time.Now()
			if tt.bulk {
				n.run(t, "import", listWith(t, n, src), "--for", "1h")
			} else {
				n.run(t, "ban", src.String(), "--for", "1h")
			}
			took := rig.Last(must(pairs.Enforced(limit))(t)).Sub(start)
			t.Logf("UDP lost %s: the %s ban of %s is enforced everywhere after %v", tt.name, what, n.Name, took.Round(time.Millisecond))
		}
		if problems := strings.Join(here.status(t).Problems, "\n"); !strings.Contains(problems, strings.Replace(tt.told, "it", there.Name, 1)) {
			t.Errorf("UDP lost %s: %s names as problems %q", tt.name, here.Name, problems)
		}
		rules("-D")
		m.udp(t, there, here, "ok")
		m.udp(t, here, there, "ok")
	}
	if log, said := here.agent.Stderr(), "over TCP but UDP probes failed"; strings.Contains(log, said) {
		t.Errorf("the log has memberlist's %q", said)
	}
}

// udp waits until node n reports want about UDP between it and another.
func (m *mesh) udp(t testing.TB, n, other *node, want string) {
	t.Helper()
	eventually(t, udpNamed, func() error {
		for _, o := range n.members(t) {
			if o.Name == other.Name && o.UDP != want {
				return fmt.Errorf("%s says of UDP and %s: %q, want %q", n.Name, other.Name, o.UDP, want)
			}
		}
		return nil
	})
}

// listWith writes a list of an address and two thousand others that nobody probes. An import sorts them, and a frame
// contains the differences between neighbours: these are wide enough to fill large frames.
func listWith(t testing.TB, n *node, src netip.Addr) string {
	t.Helper()
	list := &strings.Builder{}
	first := 40<<24 + int(src.As4()[3])
	for i := range 2000 {
		addr := first + i*67103
		fmt.Fprintf(list, "%d.%d.%d.%d\n", addr>>24, addr>>16&255, addr>>8&255, addr&255)
	}
	fmt.Fprintln(list, src)
	check(t, n.WriteFile("/root/list", list.String()))
	return "/root/list"
}
