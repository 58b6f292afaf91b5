//go:build linux && netns

package test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/meshban/meshban/test/rig"
)

// doctor says which peer's connections do not arrive, which only the peer can see.
func TestDoctorAsksWhoConnects(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 2})
	a, b := m.nodes[0], m.nodes[1]
	ports := func(want string) {
		t.Helper()
		check(t, rig.Within(syncLimit, func() error {
			for line := range strings.Lines(must(a.Run("meshban", "doctor", "--json"))(t).Stdout) {
				if strings.Contains(line, `"check":"ports"`) && strings.Contains(line, want) {
					return nil
				}
			}
			return fmt.Errorf("doctor does not say %q:\n%s", want, must(a.Run("meshban", "doctor"))(t).Stdout)
		}))
	}
	ports("UDP and TCP pass both ways")
	must(b.Shell(fmt.Sprintf("iptables -w -A OUTPUT -p tcp --dport %d -d %s -j DROP", meshPort, a.Mesh)))(t)
	ports("TCP from " + b.Name + " does not arrive")
}
