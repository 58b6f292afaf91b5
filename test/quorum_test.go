//go:build linux && netns

package test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// quorumWindow is a jail's window, short enough for a test to wait for its end.
const quorumWindow = time.Second

// "Only if seen on two different servers within 30 minutes", with a shorter window for one jail.
func TestQuorumWithinAWindow(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 3, config: fmt.Sprintf("bans: {quorum_by_source: [{source: \"line:brief\", origins: 2, within: %s}, {source: \"line*\", origins: 2, within: 30m}]}", quorumWindow)})
	a, b, c := m.nodes[0], m.nodes[1], m.nodes[2]

	// The control: a ban from another source needs no quorum.
	src := fresh()
	pairs := m.watch(t, src)
	start := time.Now()
	a.run(t, "ban", src.String())
	enforced(t, pairs, start)

	// pending waits until n lists addr as pending with these origins.
	pending := func(n *node, addr string, origins ...string) {
		t.Helper()
		eventually(t, banLimit, func() error {
			if e, _ := n.entry(t, addr); e.State != "pending" || !slices.Equal(e.Origins, origins) {
				return fmt.Errorf("%s lists %+v", n.Name, e)
			}
			return nil
		})
	}

	src = fresh()
	pairs = m.watch(t, src)
	enforced(t, pairs[:1], a.write(t, src, "22")) // a node's own sighting bans there
	pending(b, src.String(), a.Name)
	pending(c, src.String(), a.Name)
	answering(t, pairs[1:])
	if why := c.run(t, "why", src.String()); !strings.Contains(why, "waits for more origins: 1 of 2 within 30m") {
		t.Errorf("why: %s", why)
	}
	if s := c.status(t); s.Bans.Pending != 1 {
		t.Errorf("status: %+v", s.Bans)
	}
	enforced(t, pairs, b.write(t, src, "22"))
	if why := c.run(t, "why", src.String()); !strings.Contains(why, ": enforced") {
		t.Errorf("why: %s", why)
	}

	src = fresh()
	pairs = m.watch(t, src)
	enforced(t, pairs[:1], a.write(t, src, "22 jail=brief"))
	pending(c, src.String(), a.Name)
	during(quorumWindow + time.Second)
	enforced(t, pairs[1:2], b.write(t, src, "22 jail=brief"))
	pending(c, src.String(), a.Name, b.Name)
	answering(t, pairs[2:])
	m.inSync(t, syncLimit)

	// After a restart the same records have the same result.
	c.stop(t)
	c.start(t)
	pending(c, src.String(), a.Name, b.Name)
	answering(t, pairs[2:])
}
