//go:build linux && netns

package test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/test/rig"
)

// ip runs the ip command on the node.
func (n *node) ip(t testing.TB, args string) {
	t.Helper()
	if r := must(n.Run(append([]string{"ip"}, strings.Fields(args)...)...))(t); r.Code != exitDone {
		t.Fatalf("%s: ip %s: %s", n.Name, args, r.Stderr)
	}
}

// cross checks that a ban by each node reaches the other one.
func (m *mesh) cross(t testing.TB, when string) {
	t.Helper()
	begin := time.Now()
	for _, n := range m.nodes {
		addr := fresh().String()
		n.run(t, "ban", addr, "--for", "1h")
		for _, other := range m.nodes {
			if err := rig.Within(banLimit, func() error {
				if _, ok := other.entry(t, addr+"/32"); !ok {
					return fmt.Errorf("%s: the ban of %s is not on %s", when, n.Name, other.Name)
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("%s: bans crossed both ways after %v", when, time.Since(begin).Round(100*time.Millisecond))
}

// Two machines have the default bind and only IPv6; one starts before it has an address, and later gets another one. Both
// agents keep running. Agents once did not follow addresses, and advertised 127.0.0.1.
func TestAddressesComeAndChange(t *testing.T) {
	m := newFleet(t, 2)
	a, b := m.nodes[0], m.nodes[1]
	for _, n := range m.nodes {
		n.ip(t, "link set probe0 down")
		n.ip(t, "-4 addr flush dev mesh0")
	}
	// Only the bridge for containers has an IPv4 address, and nobody can reach that.
	must(a.Shell("ip link add docker0 type bridge && ip addr add 172.17.0.1/16 dev docker0 && ip link set docker0 up && " +
		"ip -6 route replace default dev mesh0"))(t)
	a.run(t, "init", "--name", a.Name)
	a.start(t)
	token := strings.TrimSpace(a.run(t, "invite"))
	b.run(t, "join", token, "--name", b.Name)
	b.ip(t, "-6 addr flush dev mesh0 scope global")
	b.start(t)
	if s := b.status(t); !slices.ContainsFunc(s.Problems, func(p string) bool { return strings.HasPrefix(p, "address: this machine has no address") }) {
		t.Errorf("no address, but these problems: %q", s.Problems)
	}
	alone := fresh().String()
	b.run(t, "ban", alone, "--for", "1h")

	b.ip(t, "addr add "+b.Mesh6.String()+"/64 dev mesh0")
	m.cross(t, "the address came")
	if _, ok := a.entry(t, alone+"/32"); !ok {
		t.Errorf("a ban that only %s made is not on %s", b.Name, a.Name)
	}
	next := b.Mesh6.Next().Next().Next()
	b.ip(t, "addr add "+next.String()+"/64 dev mesh0 nodad")
	b.ip(t, "addr del "+b.Mesh6.String()+"/64 dev mesh0")
	m.cross(t, "the address changed")
	if s := b.status(t); len(s.Problems) > 0 || s.Mesh.Alive != 2 {
		t.Errorf("%d alive, problems %q", s.Mesh.Alive, s.Problems)
	}
	b.kill(t)
	b.ip(t, "addr add "+b.Mesh6.String()+"/64 dev mesh0 nodad")
	b.ip(t, "addr del "+next.String()+"/64 dev mesh0")
	b.start(t)
	m.cross(t, "killed, and back at another address")
}

// Two machines have both families and advertise IPv4, the third has only IPv6. It once joined, and then reached nobody:
// its join list had only the inviter's IPv4 address, and so had its table of members.
func TestOneFamilyInCommon(t *testing.T) {
	t.Parallel()
	m := newFleet(t, 3)
	for _, n := range m.nodes {
		n.ip(t, "link set probe0 down")
	}
	first, only6 := m.nodes[0], m.nodes[2]
	only6.ip(t, "-4 addr flush dev mesh0")
	first.run(t, "init", "--name", first.Name)
	first.start(t)
	for _, n := range m.nodes[1:] {
		n.run(t, "join", strings.TrimSpace(first.run(t, "invite")), "--name", n.Name)
		n.start(t)
	}
	m.inSync(t, syncLimit)
	m.cross(t, "one has only IPv6")
	for _, n := range m.nodes {
		eventually(t, udpNamed, func() error {
			if p := n.status(t).Problems; len(p) > 0 {
				return fmt.Errorf("%s has problems: %q", n.Name, p)
			}
			return nil
		})
	}
	// It restarts, and finds the others again.
	only6.stop(t)
	only6.start(t)
	m.inSync(t, syncLimit)
	// Then the two others lose IPv4 between them.
	must(first.Shell("iptables -w -I INPUT -i mesh0 -j DROP; iptables -w -I OUTPUT -o mesh0 -j DROP"))(t)
	m.cross(t, "IPv4 is cut")
	m.inSync(t, syncLimit)
}

// The first node of a mesh advertises the address of its default route, but the others reach it only at another one. It
// once kept to the first and was never in sync.
func TestNodeMovesToWhereOthersReachIt(t *testing.T) {
	t.Parallel() // most of it is the quiet time before a node asks
	m := newFleet(t, 3)
	for _, n := range m.nodes {
		n.ip(t, "link set probe0 down")
		n.ip(t, "-6 addr flush dev mesh0 scope global")
	}
	a := m.nodes[0]
	must(a.Shell("ip link add uplink type bridge && ip addr add 192.168.77.2/24 dev uplink && ip link set uplink up && ip route replace default via 192.168.77.1"))(t)
	a.run(t, "init", "--name", a.Name)
	a.start(t)
	for _, n := range m.nodes[1:] {
		n.run(t, "join", strings.TrimSpace(a.run(t, "invite")), "--name", n.Name)
		n.start(t)
	}
	m.inSync(t, syncLimit)
	m.cross(t, "the first node has moved")
	for _, n := range m.nodes {
		eventually(t, udpNamed, func() error {
			if p := n.status(t).Problems; len(p) > 0 {
				return fmt.Errorf("%s has problems: %q", n.Name, p)
			}
			return nil
		})
	}
}

// A node behind NAT advertises the address that its machine knows, at which nobody reaches it. It learns from a member
// that this is so, and the line that it is told to write into the configuration makes it reachable.
func TestNodeBehindNATIsToldItsAddress(t *testing.T) {
	t.Parallel() // most of it is the quiet time before a node asks
	m := newFleet(t, 2)
	a, b := m.nodes[0], m.nodes[1]
	for _, n := range m.nodes {
		n.ip(t, "link set probe0 down")
		n.ip(t, "-6 addr flush dev mesh0 scope global")
	}
	// b's machine uses the address of a network that only it knows, and translates it as its router would.
	const inside = "192.168.77.2"
	b.ip(t, "addr add "+inside+"/24 dev mesh0")
	b.ip(t, "route replace 10.77.0.0/24 dev mesh0 scope link src "+inside)
	must(b.Shell("iptables -w -t nat -A POSTROUTING -o mesh0 -s " + inside + " -j SNAT --to-source " + b.Mesh.String()))(t)
	a.run(t, "init", "--name", a.Name)
	a.start(t)
	b.run(t, "join", strings.TrimSpace(a.run(t, "invite")), "--name", b.Name)
	b.start(t)

	var told []string
	// Its certificate may not have arrived yet.
	member := fmt.Sprintf(`(?:%s|\w+) \((?:\w+|at %v)\)`, a.Name, a.Mesh)
	advertise := regexp.MustCompile("^advertise: " + member + " sees this node at (.+), and gets no answer at (.+):7946, which it advertises: write `(advertise: .+)` into meshban.yaml")
	check(t, rig.Within(syncLimit, func() error {
		problems := b.status(t).Problems
		for _, p := range problems {
			if told = advertise.FindStringSubmatch(p); told != nil {
				return nil
			}
		}
		return fmt.Errorf("b is not told at which address others see it: %q", problems)
	}))
	if told[1] != b.Mesh.String() || told[2] != inside {
		t.Errorf("%s, which is seen at %v, is told %q", b.Name, b.Mesh, told[0])
	}
	b.configure(t, told[3])
	b.stop(t)
	b.start(t)
	m.inSync(t, syncLimit)
	m.cross(t, "the address is advertised")
	if s := b.status(t); len(s.Problems) > 0 {
		t.Errorf("the remedy was typed, but these problems stay: %q", s.Problems)
	}
}
