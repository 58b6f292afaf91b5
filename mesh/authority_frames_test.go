package mesh

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/frame"
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
		a := testAuthority(t)
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
			f, err := c.nodes[i%2].PublishAsAuthority(time.Now(), []byte(fmt.Sprint("lift ", i)), time.Now().Add(time.Hour))
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
		if !again.Counts(again.AuthorityID()) {
			t.Error("what the authority said does not count")
		}
		var live []frame.Frame
		again.live(nil)(func(f frame.Frame) bool { live = append(live, f); return true })
		if len(live) != len(said) {
			t.Errorf("%d frames of the authority are live, want %d", len(live), len(said))
		}
		again.run(t)
		<-time.After(time.Hour + idleWake)
		for i, n := range append(c.nodes, late, again) {
			for ref := range n.storedFrames() {
				if ref.Epoch == pki.AuthorityEpoch {
					t.Errorf("node %d keeps %v beyond its end", i, ref)
				}
			}
		}
	})
}

// The number of frames signed by the authority is bounded, and all nodes keep the same ones in whatever order they arrive.
func TestAuthorityFramesAreBounded(t *testing.T) {
	a := testAuthority(t)
	sign := func(seq uint64, text string) frame.Frame {
		f, err := a.Identity.Sign(frame.Frame{Epoch: pki.AuthorityEpoch, Seq: seq, Issued: simStart, Expires: simStart.Add(time.Hour), Payload: []byte(text)})
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	var cores []*core
	for i := range uint64(2) {
		c := coreFor(i)
		c.authority = a.Identity.ID()
		for seq := uint64(10); seq < 10+maxAuthorityFrames-1; seq++ {
			c.insert(frame.Frame{Origin: c.authority, Epoch: pki.AuthorityEpoch, Seq: seq, Expires: simStart.Add(time.Hour), Raw: expiringRaw})
		}
		cores = append(cores, c)
	}
	fs := []frame.Frame{sign(1<<40, "high"), sign(1, "low"), sign(2, "one"), sign(2, "twin"), sign(1<<39, "lower")}
	for i, c := range cores {
		for j := range fs {
			f := fs[j]
			if i == 1 {
				f = fs[len(fs)-1-j]
			}
			c.step(simStart, evFrames{via: viaPush, frames: []frame.Frame{f}})
			if n := c.streams[streamKey{c.authority, pki.AuthorityEpoch}].frames.Len(); n > maxAuthorityFrames {
				t.Fatalf("%d frames are held, want at most %d", n, maxAuthorityFrames)
			}
		}
	}
	for _, f := range fs {
		x, _ := cores[0].get(f.Ref())
		y, _ := cores[1].get(f.Ref())
		if string(x) != string(y) || (x != nil) != (f.Seq < 10) {
			t.Errorf("of %d one node keeps %x, the other %x", f.Seq, x, y)
		}
	}
}
