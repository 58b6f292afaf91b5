//go:build linux && netns

package test

import (
	"fmt"
	"testing"
	"time"

	"github.com/meshban/meshban/test/rig"
)

const (
	// cutFor exceeds the time after which memberlist gives up a member for good.
	cutFor = 60 * time.Second
	// healLimit bounds how soon both sides have everything after the heal.
	healLimit = 90 * time.Second
)

func TestPartition(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 3})
	a, b, alone := m.nodes[0], m.nodes[1], m.nodes[2]

	// Before the cut, all nodes have this ban; one side lifts it during the cut.
	lifted := fresh()
	freed := m.watch(t, lifted)
	start := time.Now()
	a.run(t, "ban", lifted.String(), "--for", "1h")
	enforced(t, freed, start)

	check(t, alone.Cut())
	cut := time.Now()
	majority, minority, short := fresh(), fresh(), fresh()
	here, there, brief := m.watch(t, majority), m.watch(t, minority), m.watch(t, short)
	start = time.Now()
	a.run(t, "ban", majority.String(), "--for", "1h")
	b.run(t, "unban", lifted.String())
	a.run(t, "ban", short.String(), "--for", "20s") // over before the heal
	enforced(t, here[:2], start)
	enforced(t, brief[:2], start)
	open(t, freed[:2], start, banLimit)
	enforced(t, there[2:], alone.write(t, minority, "22"))

	// The cut is real: neither side hears the other.
	during(2 * time.Second)
	answering(t, here[2:])
	answering(t, there[:2])
	if err := freed[2:].Silent(cut); err != nil {
		t.Errorf("the unban crossed the cut: %v", err)
	}
	eventually(t, cutFor, func() error {
		for _, other := range a.members(t) {
			if other.Name == alone.Name && other.State != "dead" {
				return fmt.Errorf("%s sees %s as %s", a.Name, alone.Name, other.State)
			}
		}
		return nil
	})

	during(time.Until(cut.Add(cutFor)))
	check(t, alone.Heal())
	healed := time.Now()
	for what, pairs := range map[string]rig.Pairs{"ban of the majority": here[2:], "ban of the one alone": there[:2]} {
		at := rig.Last(must(pairs.Enforced(healLimit))(t))
		t.Logf("%s: on the other side %v after the heal", what, at.Sub(healed).Round(time.Millisecond))
	}
	at := rig.Last(open(t, freed[2:], healed, healLimit))
	t.Logf("unban: on the other side %v after the heal", at.Sub(healed).Round(time.Millisecond))
	m.inSync(t, healLimit)
	answering(t, brief) // this ban had ended everywhere

	// And the fast path works again.
	src := fresh()
	pairs := m.watch(t, src)
	start = time.Now()
	alone.run(t, "ban", src.String())
	enforced(t, pairs, start)
}
