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

// A revoked node's bans are lifted in every other kernel, and its later bans have no
// effect there. Neither restarts nor a node that comes back with old records change
// that.
func TestRevoke(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 3})
	web1, web2, bad := m.nodes[0], m.nodes[1], m.nodes[2]
	harm, honest, local, missed := fresh(), fresh(), fresh(), fresh()
	watched := map[netip.Addr]rig.Pairs{}
	for _, src := range []netip.Addr{harm, honest, local, missed} {
		watched[src] = m.watch(t, src)
	}
	start := time.Now()
	bad.run(t, "ban", harm.String(), "--for", "1h")
	web2.run(t, "ban", honest.String(), "--for", "1h")
	enforced(t, watched[harm], start)
	enforced(t, watched[honest], start)
	silent := time.Now()

	// A node without the authority's key says so.
	for _, args := range [][]string{{"revoke", bad.Name}, {"invite"}} {
		if r := web2.exit(t, exitFailed, args...); !strings.Contains(r.Stderr, "ca.key") {
			t.Errorf("%s %q: %s", web2.Name, args, r.Stderr)
		}
	}
	web1.exit(t, exitNotFound, "revoke", "nobody")

	if out := web1.run(t, "revoke", bad.Name, "--dry-run"); !strings.Contains(out, "1 ban,") || !strings.Contains(out, harm.String()) {
		t.Errorf("a dry run says: %s", out)
	}
	check(t, watched[harm].Silent(silent))
	start = time.Now()
	web1.run(t, "revoke", bad.Name, "--reason", "stolen")
	took := rig.Last(open(t, watched[harm][:2], start, banLimit)).Sub(start)
	t.Logf("lifted on both others after %.1f ms", ms(took))
	answering(t, watched[local])
	start = time.Now()
	// The revoked node learns of it at once, says so, and still protects itself.
	eventually(t, banLimit, func() error {
		r := must(bad.Run("meshban", "ban", local.String(), "--for", "1h"))(t)
		if r.Code != exitPolicy || !strings.Contains(r.Stderr, "revoked") || !strings.Contains(r.Stderr, "stolen") {
			return fmt.Errorf("ban on the revoked node: exit code %d, %s", r.Code, r.Stderr)
		}
		return nil
	})
	enforced(t, watched[local][2:], start)
	if r := bad.exit(t, exitPolicy, "unban", honest.String()); !strings.Contains(r.Stderr, "on this node only") {
		t.Errorf("unban on the revoked node: %s", r.Stderr)
	}
	if s := bad.run(t, "status"); !strings.Contains(s, "revoked this node") {
		t.Errorf("the revoked node's status does not tell:\n%s", s)
	}
	during(2 * time.Second)

	refused := func(when string) {
		t.Helper()
		t.Log(when)
		answering(t, watched[harm][:2])
		answering(t, watched[local][:2])
		for _, n := range []*node{web1, web2} {
			if r := n.run(t, "members"); !strings.Contains(r, "revoked") {
				t.Errorf("%s: members does not tell:\n%s", n.Name, r)
			}
			if _, ok := n.entry(t, local.String()); ok {
				t.Errorf("%s lists a ban of the revoked node", n.Name)
			}
		}
	}
	// An honest node's ban stayed in force all the while, although the revoked node lifted it.
	check(t, watched[honest][:2].Silent(silent))
	refused("after the revocation")
	if why := web2.run(t, "why", harm.String()); !strings.Contains(why, "revoked: stolen") {
		t.Errorf("why does not tell:\n%s", why)
	}

	// Restarts, with and without a clean leave.
	web2.kill(t)
	web2.start(t)
	web1.stop(t)
	web1.start(t)
	eventually(t, syncLimit, func() error {
		if a, b := web1.status(t).Mesh.Digest, web2.status(t).Mesh.Digest; a != b {
			return fmt.Errorf("digests %s and %s", a, b)
		}
		return nil
	})
	refused("after restarts")

	// A node that was away still refuses the revoked node's bans when it is back, and
	// gets the honest bans that it missed.
	web2.stop(t)
	start = time.Now()
	web1.run(t, "ban", missed.String(), "--for", "1h")
	enforced(t, watched[missed][:1], start)
	bad.stop(t)
	web2.start(t)
	enforced(t, watched[missed][1:2], time.Now())
	refused("after it was away")
	if _, ok := web1.entry(t, honest.String()); !ok {
		t.Error("the ban of an honest node is gone")
	}
}

// A node that is cut off learns of a revocation as soon as the cut heals.
func TestRevokeDuringPartition(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 3})
	web1, alone, bad := m.nodes[0], m.nodes[1], m.nodes[2]
	harm := fresh()
	pairs := m.watch(t, harm)
	start := time.Now()
	bad.run(t, "ban", harm.String(), "--for", "1h")
	enforced(t, pairs, start)
	check(t, alone.Cut())
	start = time.Now()
	web1.run(t, "revoke", bad.Name, "--since", "1h")
	open(t, pairs[:1], start, banLimit)
	check(t, pairs[1:].Silent(start))
	check(t, alone.Heal())
	healed := time.Now()
	took := rig.Last(open(t, pairs[1:2], healed, healLimit)).Sub(healed)
	t.Logf("lifted %.0f ms after the heal", ms(took))
}

// A captured node that claims another node's name is shown under its own name everywhere, and revoking a name hits only
// the node that is certified under it.
func TestClaimedName(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 3})
	web1, honest, bad := m.nodes[0], m.nodes[1], m.nodes[2]
	bad.stop(t)
	bad.args = append(bad.args, "--name", honest.Name)
	bad.start(t)
	harm, good := fresh(), fresh()
	pairs, others := m.watch(t, harm), m.watch(t, good)
	eventually(t, syncLimit, func() error {
		if s := bad.status(t); s.Mesh.Alive != 3 {
			return fmt.Errorf("%d alive", s.Mesh.Alive)
		}
		return nil
	})
	start := time.Now()
	bad.run(t, "ban", harm.String(), "--for", "1h")
	honest.run(t, "ban", good.String(), "--for", "1h")
	enforced(t, pairs, start)
	enforced(t, others, start)
	id := bad.status(t).ID
	for _, n := range []*node{web1, honest} {
		if e, ok := n.entry(t, harm.String()); !ok || len(e.Origins) != 1 || e.Origins[0] != bad.Name || len(e.OriginIDs) != 1 || e.OriginIDs[0] != id {
			t.Errorf("%s: list: %+v", n.Name, e)
		}
		if out := n.run(t, "why", harm.String()); !strings.Contains(out, "by "+bad.Name) || strings.Contains(out, "by "+honest.Name) {
			t.Errorf("%s: why: %s", n.Name, out)
		}
		eventually(t, banLimit, func() error {
			for line := range strings.Lines(n.run(t, "audit")) {
				if strings.Contains(line, harm.String()) && strings.Contains(line, "node "+bad.Name) {
					return nil
				}
			}
			return fmt.Errorf("%s: audit does not say that %s has banned %v", n.Name, bad.Name, harm)
		})
		for _, member := range n.members(t) {
			if member.ID == id && member.Name != bad.Name {
				t.Errorf("%s: members: %+v", n.Name, member)
			}
		}
	}
	if out := web1.run(t, "revoke", honest.Name, "--dry-run"); strings.Contains(out, harm.String()) || strings.Contains(out, id[:8]) {
		t.Errorf("to revoke %s would hit %s: %s", honest.Name, bad.Name, out)
	}
	start = time.Now()
	web1.run(t, "revoke", bad.Name, "--yes")
	open(t, pairs[:2], start, banLimit)
	check(t, others[:2].Silent(start))
}
