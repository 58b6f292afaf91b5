//go:build long

package daemon

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/store/storetest"
	"github.com/meshban/meshban/mesh"
)

// Whatever happens to its store, at rest or in use, an agent starts, gets all bans back from a peer, and accuses nobody.
// If anything was lost, status says so and the damaged file is kept.
func TestEveryDamageComesBack(t *testing.T) {
	t.Parallel()
	const suffering = 8 // nodes; each gets every second damage, the first two while in use
	a := first(t, "a")
	nodes := []*node{a}
	for i := range suffering {
		dir, cfg := a.enrol(t, fmt.Sprintf("b%d", i), control.InviteRequest{})
		cfg.Bind = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 14, byte(i + 1)}), 0) // nobody else takes its port there
		b := start(t, dir, cfg)
		b.cfg.Bind = b.mesh.Addr()
		nodes = append(nodes, b)
	}
	var addrs []string
	for i := range 120 {
		addr := fmt.Sprintf("2001:db8:14::%x/128", i+1) // no ssh session to this machine comes from there
		r, err := nodes[i%len(nodes)].Ban(t.Context(), control.BanRequest{
			Addrs: []netip.Prefix{netip.MustParsePrefix(addr)}, For: control.Duration(time.Hour), Reason: strings.Repeat("r", 100), Source: "cli",
		})
		if err != nil || r.Results[0].Err != nil {
			t.Fatal(addr, err, r.Results[0].Err)
		}
		addrs = append(addrs, addr)
	}
	t.Run("nodes", func(t *testing.T) {
		for i, b := range nodes[1:] {
			t.Run(b.cfg.Name, func(t *testing.T) {
				t.Parallel()
				b.hasAll(t, addrs)
				b.suffers(t, a, addrs, i)
			})
		}
	})
	a.accusesNobody(t)
}

// suffers does every second damage to the node's store, and restarts the node after each.
func (n *node) suffers(t *testing.T, peer *node, addrs []string, i int) {
	file, inUse := n.home.Store(), i < 2
	whole := func() []byte {
		db, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return db
	}
	all := storetest.Damages(rand.New(rand.NewPCG(14, uint64(i))), whole())
	for at, name := range slices.Sorted(maps.Keys(all)) {
		if at%2 != i%2 {
			continue
		}
		if err := n.store.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !inUse {
			n.stop()
		}
		if err := os.WriteFile(file, all[name](whole()), 0o600); err != nil {
			t.Fatal(err)
		}
		if inUse { // and is written to
			n.ban(t, time.Hour, fmt.Sprintf("2001:db8:15::%x/128", at+1))
			n.stop()
		}
		restored := 0
		n = startWith(t, n.home, n.cfg, func(d *Daemon) { restored = enforced(t, d, addrs) })
		p := n.saysOf("store")
		if aside, err := filepath.Glob(file + ".damaged-*"); p != "" && (err != nil || len(aside) == 0 || !strings.Contains(p, "set aside as "+file)) {
			t.Errorf("%s: status says %q; there are %q, %v", name, p, aside, err)
		}
		if p == "" && restored < len(addrs) && name != "torn" { // a torn file may equal an earlier, sound one
			t.Errorf("%s: %d of %d bans, and not a word", name, restored, len(addrs))
		}
		n.hasAll(t, addrs)
		until(t, name+": equal digests", func() bool { return n.mesh.Digest() == peer.mesh.Digest() })
		n.accusesNobody(t)
	}
}

// accusesNobody fails the test if the node blames a member for damage to a store.
func (n *node) accusesNobody(t *testing.T) {
	t.Helper()
	for _, kind := range []mesh.Problem{mesh.ProblemForged, mesh.ProblemEquivocation, mesh.ProblemClone} {
		if p := n.saysOf(string(kind)); p != "" {
			t.Errorf("%s: %s", n.cfg.Name, p)
		}
	}
}
