//go:build linux && netns

package test

import (
	"strings"
	"testing"
	"time"
)

// A machine enrolled by files, while no node has the authority's key, is trusted like
// any other. A stranger with the mesh's key but no certificate of this mesh is not.
func TestCertifiedByFile(t *testing.T) {
	t.Parallel()
	m := newFleet(t, 4)
	first, second, third, stranger := m.nodes[0], m.nodes[1], m.nodes[2], m.nodes[3]
	first.run(t, "init", "--name", first.Name, "--bind", m.bind(first))
	first.run(t, "ca", "export", "--move", "/root/ca.key")
	first.start(t)
	if r := first.exit(t, exitFailed, "invite"); !strings.Contains(r.Stderr, "ca.key") {
		t.Errorf("invite without the authority's key: %s", r.Stderr)
	}

	answers := map[*node]string{}
	for _, n := range []*node{second, third} {
		request := n.run(t, "join", "--request", "--name", n.Name)
		check(t, first.WriteFile("/root/request", request))
		answers[n] = first.run(t, "ca", "sign", "/root/request", "--key", "/root/ca.key")
	}
	for n, answer := range answers {
		check(t, n.WriteFile("/root/answer", answer))
		n.run(t, "join", "--certificate", "/root/answer", "--join", first.Mesh.String(), "--bind", m.bind(n))
		n.start(t)
	}
	m.nodes = m.nodes[:3]
	m.inSync(t, syncLimit)
	src := fresh()
	pairs := m.watch(t, src)
	start := time.Now()
	third.run(t, "ban", src.String(), "--for", "1h")
	enforced(t, pairs[:3], start)

	// The stranger has stolen mesh.key; another mesh's authority certifies it.
	stranger.run(t, "init", "--name", stranger.Name, "--bind", m.bind(stranger))
	check(t, stranger.WriteFile(stateDir+"/mesh.key", must(first.ReadFile(stateDir+"/mesh.key"))(t)))
	stranger.configure(t, "join: ["+first.Mesh.String()+"]")
	stranger.start(t)
	eventually(t, syncLimit, func() error { return m.outOfSync(t) })
	victim := fresh()
	watched := m.watch(t, victim)
	start = time.Now()
	stranger.exit(t, exitPolicy, "ban", victim.String(), "--for", "1h")
	enforced(t, watched[3:], start)
	during(3 * time.Second)
	answering(t, watched[:3])
	for _, n := range m.nodes {
		if r := n.run(t, "members"); !strings.Contains(r, "not certified") {
			t.Errorf("%s: members does not tell:\n%s", n.Name, r)
		}
	}
}
