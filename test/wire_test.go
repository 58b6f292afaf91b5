//go:build linux && netns

package test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/test/rig"
)

// A certified member that says it is at an address does not protect it: bans of it count.
func TestClaimedAddressIsBanned(t *testing.T) {
	t.Parallel()
	s := besiege(t, 3)
	victim, other := fresh(), fresh()
	p := s.attack(t, "claim", "-for", "8s", "-ban", victim.String()+"/32,"+other.String()+"/32")
	during(2 * time.Second) // claimed a good many times
	pairs := append(s.watchHonest(t, victim), s.watchHonest(t, other)...)
	start := time.Now()
	s.honest[1].run(t, "ban", victim.String(), other.String(), "--for", "1h")
	enforced(t, pairs, start)
	during(2 * time.Second)
	for _, n := range s.honest {
		for _, addr := range []netip.Addr{victim, other} {
			if said := n.covered(t, addr); said != "" {
				t.Errorf("%s: the never-ban list has %q", n.Name, said)
			}
		}
	}
	must(p.Wait(afterwards))(t)
	s.agree(t)
}

// A node that starts lets its members through from the first load of the kernel on, whatever bans it has stored: while its
// agent restarts, and while the kernel was emptied as by a power cut, no ping of a member is lost.
func TestMembersStayOpenAtAStart(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 3})
	a, b, c := m.nodes[0], m.nodes[1], m.nodes[2]
	const near = "10.77.0.0/25" // within the network on the link, which is left out of bans of all of it
	m.banElsewhere(t, b, near)
	m.spared(t, near, c.Mesh, "mesh member")
	during(6 * time.Second) // members are remembered on disk
	ping := must(c.Start(rig.Cmd{Argv: []string{"ping", "-q", "-i", "0.002", "-W", "1", "-w", "12", a.Mesh.String()}}))(t)
	for range 3 {
		a.kill(t)
		a.start(t)
	}
	a.kill(t)
	must(a.Shell("iptables -t raw -F; iptables -t raw -X; ipset destroy || true"))(t)
	a.start(t)
	must(ping.Wait(20 * time.Second))(t)
	t.Log(ping.Stdout())
	if !strings.Contains(ping.Stdout(), " 0% packet loss") {
		t.Errorf("pings of a member were dropped: %s", ping.Stdout())
	}
	m.inSync(t, syncLimit)
	m.spared(t, near, c.Mesh, "mesh member")
}

// A member with odd versions of memberlist's protocol keeps nobody from joining, and nobody from coming back.
func TestOddVersionsStopNoJoin(t *testing.T) {
	t.Parallel()
	s := besiege(t, 4)
	newcomer := s.honest[3]
	newcomer.stop(t)
	must(newcomer.Shell("rm -rf " + stateDir + "/*"))(t)
	p := s.attack(t, "versions", "-for", "20s")
	during(2 * time.Second)
	newcomer.run(t, "join", s.token, "--name", "newcomer", "--bind", s.bind(newcomer))
	newcomer.start(t)
	s.honest[1].kill(t)
	s.honest[1].start(t)
	s.inSync(t, syncLimit/2)
	if running := p.Running(); !running {
		t.Error("the attack was over before")
	}
	must(p.Wait(30 * time.Second))(t)
}
