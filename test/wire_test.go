//go:build linux && netns

package test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshban/meshban/test/rig"
)

// A certified member cannot protect an address by claiming it: bans of it count.
func TestClaimedAddressIsBanned(t *testing.T) {
	t.Parallel()
	s := besiege(t, 3)
	victim, other := fresh(), fresh()
	p := s.attack(t, "claim", "-for", untilEnded, "-ban", victim.String()+"/32,"+other.String()+"/32")
	during(2 * time.Second) // enough for many claims
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
	finish(t, p)
	s.agree(t)
}

// A starting node lets members through from its first load of the kernel on, whatever bans it has stored. No ping of
// a member is lost while the agent restarts, or starts with a kernel that was emptied as by a power cut.
func TestMembersStayOpenAtAStart(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 3})
	a, b, c := m.nodes[0], m.nodes[1], m.nodes[2]
	const near = "10.77.0.0/25" // only part of the link's network, which a ban of all of it would leave out
	m.banElsewhere(t, b, near)
	m.spared(t, near, c.Mesh, "mesh member")
	during(6 * time.Second) // until the members are stored on disk
	ping := must(c.Start(rig.Cmd{Argv: []string{"ping", "-q", "-i", "0.002", "-W", "1", "-w", "60", a.Mesh.String()}}))(t)
	for range 3 {
		a.kill(t)
		a.start(t)
	}
	a.kill(t)
	must(a.Shell("iptables -t raw -F; iptables -t raw -X; ipset destroy || true"))(t)
	a.start(t)
	check(t, ping.Signal(unix.SIGINT))
	must(ping.Wait(banLimit))(t)
	t.Log(ping.Stdout())
	var sent, received int
	_, counts, _ := strings.Cut(ping.Stdout(), "statistics ---\n")
	must(fmt.Sscanf(counts, "%d packets transmitted, %d received", &sent, &received))(t)
	if sent < 100 || received < sent-1 { // the last answer may be on its way
		t.Errorf("pings of a member were dropped: %s", ping.Stdout())
	}
	m.inSync(t, syncLimit)
	m.spared(t, near, c.Mesh, "mesh member")
}

// A member with odd versions of memberlist's protocol keeps nobody from joining or coming back.
func TestOddVersionsStopNoJoin(t *testing.T) {
	t.Parallel()
	s := besiege(t, 4)
	newcomer := s.honest[3]
	newcomer.stop(t)
	must(newcomer.Shell("rm -rf " + stateDir + "/*"))(t)
	p := s.attack(t, "versions", "-for", untilEnded)
	during(2 * time.Second)
	newcomer.run(t, "join", s.token, "--name", newcomer.Name, "--bind", s.bind(newcomer))
	newcomer.start(t)
	s.honest[1].kill(t)
	s.honest[1].start(t)
	s.inSync(t, syncLimit)
	finish(t, p)
}

// unaccused checks that no node accuses another of flooding.
func (m *mesh) unaccused(t *testing.T) {
	t.Helper()
	for _, n := range m.nodes {
		for _, said := range n.status(t).Problems {
			if strings.HasPrefix(said, "flood:") {
				t.Errorf("%s: %s", n.Name, said)
			}
		}
	}
}

// Nobody is accused because of two ordinary imports, of which peers refuse most of the first, or because of a node
// that is paused while others send much.
func TestImportsAndPausesAccuseNobody(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 3})
	a, b, c := m.nodes[0], m.nodes[1], m.nodes[2]
	var wide, many strings.Builder
	for i := range 989 {
		bits := 22
		if i < 316 {
			bits = 24
		}
		fmt.Fprintf(&wide, "%d.%d.%d.0/%d\n", 20+i/64%32, i/2048, 4*(i%64), bits)
	}
	for i := range 8000 {
		fmt.Fprintf(&many, "60.1.%d.%d\n", i/250, 1+i%250)
	}
	check(t, a.WriteFile("/root/wide", wide.String()))
	check(t, a.WriteFile("/root/many", many.String()))
	a.run(t, "import", "/root/wide", "--for", "1h")
	a.run(t, "import", "/root/many", "--for", "1h")
	during(2 * time.Second)
	m.unaccused(t)
	check(t, c.agent.Signal(unix.SIGSTOP))
	for range 10 {
		b.run(t, "ban", fresh().String(), fresh().String(), "--for", "1h")
		during(time.Second)
	}
	check(t, c.agent.Signal(unix.SIGCONT))
	m.inSync(t, 2*syncLimit)
	m.unaccused(t)
}

// joinTries is how many times in a row a newcomer may have to try to join.
const joinTries = 3

// Stalled streams from a hundred addresses without any key keep nobody from enrolling, joining with a certificate by file,
// coming back, or syncing.
func TestStalledOutsiders(t *testing.T) {
	t.Parallel()
	s := besiegeBeside(t, 3, 2)
	first, back, byToken, byFile := s.honest[0], s.honest[2], s.bystanders[0], s.bystanders[1]
	for _, n := range s.bystanders { // they become newcomers, whose addresses the mesh has never seen
		n.stop(t)
		must(n.Shell("rm -rf " + stateDir + "/*"))(t)
	}
	check(t, first.WriteFile("/root/request", byFile.run(t, "join", "--request", "--name", byFile.Name)))
	check(t, byFile.WriteFile("/root/answer", first.run(t, "ca", "sign", "/root/request")))
	byFile.run(t, "join", "--certificate", "/root/answer", "--join", first.Mesh.String(), "--bind", s.bind(byFile))
	back.stop(t)
	var many strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&many, "60.1.%d.%d\n", i/250, 1+i%250)
	}
	check(t, first.WriteFile("/root/many", many.String()))
	first.run(t, "import", "/root/many", "--for", "1h")
	p := s.attackAs(t, "stall", "-for", untilEnded)
	eventually(t, afterwards, func() error {
		if !strings.Contains(p.Stdout(), "full") {
			return fmt.Errorf("the attack has not opened all its streams: running: %v, %s", p.Running(), p.Stderr())
		}
		return nil
	})
	for try := 1; ; try++ {
		r := must(byToken.Run("meshban", "join", s.token, "--name", byToken.Name, "--bind", s.bind(byToken)))(t)
		if r.Code == exitDone {
			break
		}
		if try == joinTries {
			t.Fatalf("join, try %d: exit code %d: %s", try, r.Code, r.Stderr)
		}
	}
	s.nodes = append(s.nodes, byToken, byFile)
	for _, n := range s.nodes[2:] {
		n.start(t)
	}
	s.inSync(t, syncLimit)
	finish(t, p)
	t.Log(p.Stdout())
}
