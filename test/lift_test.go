//go:build linux && netns

package test

import (
	"fmt"
	"strings"
	"testing"
)

// listBans is the length of a list. One member may lift fewer of others' bans at once.
const listBans = 20_000

// importList has a node import listBans addresses of a /8 and waits until every kernel has them.
func (m *mesh) importList(t *testing.T, by *node, first int) {
	t.Helper()
	var list strings.Builder
	for i := range listBans {
		fmt.Fprintf(&list, "%d.0.%d.%d\n", first, i>>8, i&255)
	}
	check(t, by.WriteFile("/root/list", list.String()))
	must(by.Shell("meshban import /root/list --for 1h"))(t)
	m.enforce(t, listBans, listBans)
}

// enforce waits until every node enforces at least least and at most most bans.
func (m *mesh) enforce(t *testing.T, least, most int) {
	t.Helper()
	eventually(t, crowdLimit, func() error {
		for _, n := range m.nodes {
			if st := n.status(t); st.Firewall.Enforced < least || st.Firewall.Enforced > most {
				return fmt.Errorf("%s enforces %d, want %d to %d", n.Name, st.Firewall.Enforced, least, most)
			}
		}
		return nil
	})
}

// The other nodes hold an op by which a node lifts many of others' bans, and it learns which nodes do. A node can
// lift its own bans at once, and a node with the authority's key all bans.
func TestMassLifting(t *testing.T) {
	m := newMesh(t, setup{nodes: 3})
	ca, importer, third := m.nodes[0], m.nodes[1], m.nodes[2]
	m.importList(t, importer, 20)
	r := third.exit(t, exitPolicy, "unban", "20.0.0.0/8")
	for _, n := range m.nodes[:2] {
		if !strings.Contains(r.Stdout+r.Stderr, n.Name) {
			t.Errorf("unban does not say that %s holds it: %s%s", n.Name, r.Stdout, r.Stderr)
		}
		if st := n.status(t); st.Firewall.Enforced < listBans-liftsOfOne {
			t.Errorf("%s enforces only %d of %d", n.Name, st.Firewall.Enforced, listBans)
		}
		if said := strings.Join(n.status(t).Problems, "\n"); !strings.Contains(said, third.Name) {
			t.Errorf("%s raises no alarm that names %s: %s", n.Name, third.Name, said)
		}
	}
	if st := third.status(t); st.Firewall.Enforced != 0 {
		t.Errorf("at home %d are enforced still", st.Firewall.Enforced)
	}
	importer.run(t, "unban", "20.0.0.0/8")
	m.enforce(t, 0, 0)
	m.inSync(t, syncLimit)

	m.importList(t, importer, 21)
	ca.run(t, "unban", "21.0.0.0/8")
	m.enforce(t, 0, 0)
	m.inSync(t, syncLimit)
	for _, n := range m.nodes { // what the node with the authority's key has lifted stays lifted
		n.stop(t)
		n.start(t)
	}
	m.inSync(t, syncLimit)
	m.enforce(t, 0, 0)
}
