package mesh

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/meshtest"
	"github.com/meshban/meshban/mesh/pki"
)

func (n *testNode) deliveredFrames() []frame.Frame {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.delivered)
}

// A frame signed with the authority's key reaches every member's daemon as the authority's, also on nodes that join later,
// have no certificate yet, or restart; and it ends like every frame.
func TestClusterPublishAsAuthority(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const life = 5 * time.Minute
		a := meshtest.Authority(t)
		edit := func(i int, cfg *Config) {
			copy(cfg.Secrets.Authority[:], a.Public())
			if i < 2 {
				cfg.Authority = a
			}
		}
		c := newCluster(t, 3, edit)
		eventually(t, 30*time.Second, "everybody knows everybody", c.allAlive)
		if _, err := c.nodes[2].PublishAsAuthority(time.Now(), []byte("x"), time.Now().Add(time.Hour)); !errors.Is(err, pki.ErrNoAuthority) {
			t.Errorf("published without the authority's key: %v", err)
		}
		if _, err := c.nodes[0].PublishAsAuthority(time.Now(), []byte("x"), time.Now().Add(-time.Second)); err == nil {
			t.Error("published what has ended")
		}
		var said []frame.Frame
		for i := range 4 { // two holders of the key publish within one millisecond
			f, err := c.nodes[i%2].PublishAsAuthority(time.Now(), []byte(fmt.Sprint("lift ", i)), time.Now().Add(life))
			if err != nil {
				t.Fatal(err)
			}
			said = append(said, f)
		}
		has := func(n *testNode, want int) func() bool {
			return func() bool {
				fs := n.deliveredFrames()
				return len(fs) == want && !slices.ContainsFunc(fs, func(f frame.Frame) bool {
					return f.Origin != n.AuthorityID() || f.Epoch != pki.AuthorityEpoch || f.Origin != frame.IDOf(a.Public())
				})
			}
		}
		eventually(t, 10*time.Second, "every daemon is given what others said", func() bool {
			return has(c.nodes[0], 2)() && has(c.nodes[1], 2)() && has(c.nodes[2], 4)() && sameDigest(c.nodes)
		})
		if got := len(c.nodes[2].storedFrames()); got < 4 {
			t.Errorf("%d frames in the store", got)
		}
		c.addrs = append(c.addrs, netip.MustParseAddrPort("10.0.1.1:7946"))
		late := c.start(t, 3, newIdentity(t), edit)
		eventually(t, 30*time.Second, "one who comes later is given it", has(late, 4))

		var raws [][]byte
		for _, f := range said {
			raws = append(raws, f.Raw)
		}
		c.addrs = append(c.addrs, netip.MustParseAddrPort("10.0.1.2:7946"))
		again := newNode(t, c.secrets, newIdentity(t), c.config(4, edit))
		if err := again.Restore(slices.Values(raws)); err != nil {
			t.Fatal(err)
		}
		if !again.Trusts(again.AuthorityID()) {
			t.Error("what the authority said does not count")
		}
		var live []frame.Frame
		again.live(nil)(func(f frame.Frame) bool { live = append(live, f); return true })
		if len(live) != len(said) {
			t.Errorf("%d frames of the authority are live, want %d", len(live), len(said))
		}
		again.run(t)
		<-time.After(life + idleWake)
		for i, n := range append(c.nodes, late, again) {
			for ref := range n.storedFrames() {
				if ref.Epoch == pki.AuthorityEpoch {
					t.Errorf("node %d keeps %v beyond its end", i, ref)
				}
			}
		}
	})
}
