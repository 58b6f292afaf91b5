//go:build linux && netns

package test

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// A ban is longer the more often the address was banned before, whichever node did.
func TestEscalation(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 2, config: "bans: {for: 1s}\nescalation: {factor: 2, memory: 1h}"})
	a, b := m.nodes[0], m.nodes[1]
	src := fresh()
	pairs := m.watch(t, src)
	for i, n := range []*node{a, b, a} {
		length := time.Second << i
		start := n.write(t, src, "22")
		enforced(t, pairs, start)
		e, ok := n.entry(t, src.String())
		if left := e.Until.Sub(start); !ok || left < length-time.Second || left > length+2*time.Second {
			t.Errorf("ban %d lasts %v, want %v", i+1, left, length)
		}
		if i > 0 {
			want := fmt.Sprintf("%s offence: 1s x %d = %ds", []string{"1st", "2nd", "3rd"}[i], 1<<i, 1<<i)
			for _, other := range m.nodes {
				if why := other.run(t, "why", src.String()); !strings.Contains(why, want) {
					t.Errorf("%s says why, without %q: %s", other.Name, want, why)
				}
			}
		}
		opened := open(t, pairs, start.Add(length/2), length+banLimit)
		for j, at := range opened {
			if held := at.Sub(start); held < length-50*time.Millisecond || held > length+time.Second {
				t.Errorf("ban %d held for %v on %s, want %v", i+1, held, m.nodes[j].Name, length)
			}
		}
		if i == 1 { // what is remembered outlives a restart
			a.stop(t)
			a.start(t)
			m.inSync(t, syncLimit)
		}
	}
	// An unban forgives.
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
