package mesh

import (
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/meshtest"
	"github.com/meshban/meshban/mesh/pki"
)

// withdrawals records what the daemon would take back.
type withdrawals struct {
	mu  sync.Mutex
	ids []frame.ID
}

func (w *withdrawals) add(ids []frame.ID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ids = append(w.ids, ids...)
}

func (w *withdrawals) has(id frame.ID) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Contains(w.ids, id)
}

// In a mesh with an authority on its first node, members are believed once certified, strangers with the gossip key never,
// and a revoked node no longer; and no endless traffic follows from refused frames.
func TestClusterTrust(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a := meshtest.Authority(t)
		var taken [5]withdrawals
		c := newCluster(t, 4, func(i int, cfg *Config) {
			copy(cfg.Secrets.Authority[:], a.Public())
			if i == 0 {
				cfg.Authority = a
			}
			cfg.Withdrawn = taken[i].add
		})
		eventually(t, 30*time.Second, "everybody knows everybody", c.allAlive)
		founder, bad := c.nodes[0], c.nodes[3]
		publish(t, founder, "by the founder", time.Hour)
		publish(t, bad, "before its certificate", time.Hour)
		eventually(t, 10*time.Second, "a frame of a node without a certificate waits", func() bool {
			return c.nodes[1].Stats().AwaitingCert > 0 && c.nodes[1].deliveredCount() == 1
		})
		for _, n := range c.nodes[1:] {
			if _, err := founder.Certify(n.id.Public(), "name", pki.DefaultCaps()); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := c.nodes[1].Certify(bad.id.Public(), "x", pki.DefaultCaps()); !errors.Is(err, pki.ErrNoAuthority) {
			t.Errorf("certified without the authority's key: %v", err)
		}
		eventually(t, 10*time.Second, "it is let in", func() bool { return c.nodes[1].deliveredCount() == 2 && sameDigest(c.nodes) })

		if _, err := c.nodes[1].Revoke(bad.id.ID(), "", time.Time{}, ""); !errors.Is(err, pki.ErrNoAuthority) {
			t.Errorf("revoked without the authority's key: %v", err)
		}
		if _, err := founder.Revoke(bad.id.ID(), "node-3", time.Time{}, "stolen"); err != nil {
			t.Fatal(err)
		}
		eventually(t, time.Second, "everybody takes back what it said", func() bool {
			return taken[0].has(bad.id.ID()) && taken[1].has(bad.id.ID()) && taken[2].has(bad.id.ID())
		})
		eventually(t, time.Second, "the node itself is told", func() bool {
			return bad.Standing(bad.id.ID()).Revoked != nil && hasProblem(bad, ProblemCertificate, "revoked")
		})
		synctest.Wait()
		if s := c.nodes[2].Standing(bad.id.ID()); s.Revoked == nil || s.Revoked.Reason != "stolen" {
			t.Errorf("standing %+v", s)
		}
		publish(t, bad, "after its revocation", time.Hour)
		<-time.After(time.Minute)
		for i, n := range c.nodes[:3] {
			if s := n.Stats(); s.Refused["revoked"] == 0 {
				t.Errorf("node %d refused %v", i, s.Refused)
			}
			if got := n.deliveredCount(); got > 2 {
				t.Errorf("node %d was given %d frames", i, got)
			}
			for ref := range n.storedFrames() {
				if ref.Origin == bad.id.ID() {
					t.Errorf("node %d keeps %v of a revoked node on disk", i, ref)
				}
			}
		}
		if !sameDigest(c.nodes[:3]) {
			t.Error("the others differ")
		}
		before := c.hub.wire()
		<-time.After(10 * time.Minute)
		if got := float64(c.hub.wire()-before) / 4 / 600; got > 550 { // 390 of it for pings and their signed answers
			t.Errorf("%.0f B/s per node while three refuse what one holds", got)
		}

		// A member that joins late learns of the revocation before it is misled.
		c.addrs = append(c.addrs, netip.MustParseAddrPort("10.0.1.1:7946"))
		late := c.start(t, 4, newIdentity(t), func(_ int, cfg *Config) {
			copy(cfg.Secrets.Authority[:], a.Public())
			cfg.Withdrawn = taken[4].add
		})
		c.nodes = append(c.nodes, late)
		eventually(t, 30*time.Second, "the late one holds what the others hold", func() bool {
			return sameDigest([]*testNode{late, founder})
		})
		if late.deliveredCount() != 1 {
			t.Errorf("the late one was given %d frames, want the founder's", late.deliveredCount())
		}
	})
}

// A node that could not be reached when it was revoked learns of it as soon as it says anything; it needs no sync.
func TestRevokedLearnsWithItsNextPacket(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a := meshtest.Authority(t)
		c := newCluster(t, 3, func(i int, cfg *Config) {
			copy(cfg.Secrets.Authority[:], a.Public())
			if i == 0 {
				cfg.Authority = a
			}
		})
		eventually(t, 30*time.Second, "everybody knows everybody", c.allAlive)
		for _, n := range c.nodes[1:] {
			if _, err := c.nodes[0].Certify(n.id.Public(), "name", pki.DefaultCaps()); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, 10*time.Second, "all hold the certificates", func() bool { return sameDigest(c.nodes) })
		bad := c.nodes[2]
		c.hub.setCut(func(from, to netip.AddrPort) bool { return from == c.addrs[2] || to == c.addrs[2] })
		if _, err := c.nodes[0].Revoke(bad.id.ID(), "n2", time.Time{}, "stolen"); err != nil {
			t.Fatal(err)
		}
		<-time.After(tellEvery)
		c.hub.setCut(nil)
		if bad.Standing(bad.id.ID()).Revoked != nil {
			t.Fatal("it was told through a link that is down")
		}
		publish(t, bad, "a ban", time.Hour)
		before := c.hub.packetsSent()
		<-time.After(10 * time.Millisecond)
		synctest.Wait()
		if s := bad.Standing(bad.id.ID()); s.Revoked == nil || !hasProblem(bad, ProblemCertificate, "revoked") {
			t.Errorf("it was not told: %+v, %q", s, bad.problemsSeen())
		}
		// However much it says, it is told only now and then.
		for range 200 {
			publish(t, bad, "more", time.Hour)
		}
		<-time.After(50 * time.Millisecond)
		synctest.Wait()
		t.Logf("%d packets", c.hub.packetsSent()-before)
		for _, n := range c.nodes[:2] {
			if n.told.Take(time.Now(), bad.id.ID(), 1) {
				t.Error("it would be told again at once")
			}
		}
	})
}

func (h *hub) packetsSent() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.packets
}

func (n *testNode) storedFrames() map[frame.Ref][]byte {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := make(map[frame.Ref][]byte, len(n.stored))
	for k, v := range n.stored {
		out[k] = v
	}
	return out
}

// Certificates are renewed well before they end while a node with the authority's key runs, and bans go on.
func TestClusterRenewal(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a := meshtest.Authority(t)
		c := newCluster(t, 2, func(i int, cfg *Config) {
			copy(cfg.Secrets.Authority[:], a.Public())
			if i == 0 {
				cfg.Authority = a
			}
		})
		eventually(t, 30*time.Second, "both know each other", c.allAlive)
		member := c.nodes[1].id
		short, err := a.Certify(pki.Certificate{
			MeshID: c.nodes[0].cfg.Secrets.MeshID, Serial: 1, Node: member.Public(), Name: "web1", Caps: pki.Caps{Rate: 7},
			NotBefore: time.Now(), NotAfter: time.Now().Add(pki.CertificateLife/2 + 90*time.Second),
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.nodes[0].publishRecord(short.Frame); err != nil {
			t.Fatal(err)
		}
		<-time.After(30 * time.Second)
		if got := c.nodes[1].Standing(member.ID()); got.Certificate == nil || got.Certificate.Serial != 1 {
			t.Fatalf("standing %+v", got)
		}
		<-time.After(4 * time.Minute)
		got := c.nodes[1].Standing(member.ID()).Certificate
		if got == nil || got.Serial == 1 || time.Until(got.NotAfter) < pki.CertificateLife-time.Hour || got.Caps.Rate != 7 || got.Name != "web1" {
			t.Errorf("the certificate is %+v", got)
		}
		if !sameDigest(c.nodes) {
			t.Error("the nodes differ")
		}
	})
}
