//go:build linux && netns

package test

import (
	"testing"
	"time"

	"github.com/meshban/meshban/test/rig"
)

// blackholing is a router that sends to nowhere what an ExaBGP on the same machine marks so.
const blackholing = `router id 192.0.2.254;
log stderr all;
protocol device {}
protocol kernel {
	ipv4 { import none; export all; };
}
protocol kernel {
	ipv6 { import none; export all; };
}
filter marked {
	if (65535, 666) ~ bgp_community then { dest = RTD_BLACKHOLE; accept; }
	reject;
}
protocol bgp exabgp {
	local 127.0.0.2 as 65001;
	neighbor 127.0.0.1 as 65001;
	multihop;
	passive;
	ipv4 { import filter marked; };
	ipv6 { import filter marked; };
}
`

// A router that knows no flow specifications answers nothing to who was banned on another node: by Debian's ExaBGP and
// BIRD, whose kernel gets the routes, with the example of `meshban help bgp`. Its meshban drops nothing.
func TestRoutersBlackholeWhatIsBanned(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 2, before: func(n *node) {
		if n.Index == 2 {
			n.passable(t)
			n.configure(t, "firewall: {backends: [none]}\n"+example(t, n, "bgp", "control:"))
		}
	}})
	first, edge := m.nodes[0], m.nodes[1]
	check(t, edge.WriteFile("/etc/rig/bird.conf", blackholing))
	must(edge.StartDaemon(rig.Cmd{Argv: []string{"bird", "-f", "-c", "/etc/rig/bird.conf", "-s", "/run/bird.ctl"}}, startLimit, func(*rig.Proc) error {
		_, err := edge.Do("birdc", "-s", "/run/bird.ctl", "show", "status")
		return err
	}))(t)
	conf := replaced(t, example(t, edge, "bgp", "process meshban"), "/usr/local/sbin/meshban", "/usr/local/bin/meshban",
		"--format exabgp", "--format exabgp --as blackhole", "ipv4 flow", "ipv4 unicast", "ipv6 flow", "ipv6 unicast",
		"192.0.2.254", "127.0.0.2", "local-address 192.0.2.10", "local-address 127.0.0.1")
	check(t, edge.WriteFile("/etc/rig/exabgp.conf", conf))
	must(edge.Shell("chmod 755 /etc/rig && chmod 644 /etc/rig/exabgp.conf"))(t)
	exabgp := must(edge.Start(rig.Cmd{Argv: []string{"setpriv", "--reuid", "exabgp", "--regid", "exabgp", "--init-groups", "env", "exabgp.daemon.user=exabgp",
		"exabgp.api.cli=false", "exabgp.log.destination=stderr", "exabgp", "/etc/rig/exabgp.conf"}}))(t)
	t.Cleanup(func() {
		if t.Failed() {
			routes, err := edge.Shell("ip route; birdc -s /run/bird.ctl show route all")
			t.Log(exabgp.Tail(30), routes, err)
		}
	})
	src, src6, other := fresh(), fresh6(), fresh()
	banned, others := m.watchNode(t, src, edge, rig.ClosedPort), m.watchNode(t, other, edge, rig.ClosedPort)
	banned6 := m.watchNode(t, src6, edge, rig.ClosedPort)
	first.run(t, "ban", src.String(), src6.String(), "--for", "2h")
	must(banned.Enforced(startLimit))(t)
	must(banned6.Enforced(startLimit))(t)
	answering(t, others)
	first.run(t, "unban", src.String(), src6.String())
	lifted := time.Now()
	open(t, banned, lifted, startLimit)
	open(t, banned6, lifted, startLimit)
	answering(t, others)
}
