//go:build linux && netns

package test

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// A ban is longer the more often the address was banned before, by any node.
func TestEscalation(t *testing.T) {
	t.Parallel()
	const once = 6 * time.Second
	m := newMesh(t, setup{nodes: 2, config: "bans: {for: " + once.String() + "}\nescalation: {factor: 2, memory: 1h}"})
	a, b := m.nodes[0], m.nodes[1]
	src := fresh()
	pairs := m.watch(t, src)
	for i, n := range []*node{a, b, a} {
		length := once << i
		start := n.write(t, src, "22")
		silent := start.Add(enforced(t, pairs, start))
		e, ok := n.entry(t, src.String())
		if !ok {
			t.Fatalf("ban %d is not listed", i+1)
		}
		lasts(t, n, e, start, silent, length)
		if i > 0 {
			want := fmt.Sprintf("%s offence: %v x %d = %v", []string{"1st", "2nd", "3rd"}[i], once, 1<<i, length)
			for _, other := range m.nodes {
				if why := other.run(t, "why", src.String()); !strings.Contains(why, want) {
					t.Errorf("%s says why, without %q: %s", other.Name, want, why)
				}
			}
		}
		letGo(t, pairs, silent, start, silent, length)
		if i == 1 { // the count survives a restart
			a.stop(t)
			a.start(t)
			m.inSync(t, syncLimit)
		}
	}
	// An unban resets the count.
	start := time.Now()
	a.run(t, "ban", src.String(), "--for", "1h")
	enforced(t, pairs, start)
	a.run(t, "unban", src.String())
	open(t, pairs, time.Now(), banLimit)
	start = b.write(t, src, "22")
	enforced(t, pairs, start)
	if why := b.run(t, "why", src.String()); strings.Contains(why, "offence") {
		t.Errorf("after an unban: %s", why)
	}
}
