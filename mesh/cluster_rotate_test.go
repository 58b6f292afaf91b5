package mesh

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/meshtest"
	"github.com/meshban/meshban/mesh/internal/rotate"
	"github.com/meshban/meshban/mesh/pki"
)

// keyFile is a node's mesh.key in memory.
type keyFile struct {
	mu   sync.Mutex
	now  pki.Secrets
	told []KeyEvent
	full bool // nothing can be stored
}

func (f *keyFile) save(s pki.Secrets) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.full {
		return errors.New("no space left on device")
	}
	f.now = s
	return nil
}

func (f *keyFile) setFull(full bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.full = full
}

func (f *keyFile) event(e KeyEvent) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.told = append(f.told, e)
}

func (f *keyFile) load() pki.Secrets {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

// turning is a cluster with an authority on its first node and a key file for each node.
type turning struct {
	*cluster
	files []*keyFile
	edit  func(i int, cfg *Config)
}

func newTurning(t *testing.T, n int) *turning {
	a := meshtest.Authority(t)
	c := &turning{}
	c.edit = func(i int, cfg *Config) {
		for len(c.files) <= i {
			c.files = append(c.files, &keyFile{})
		}
		f := c.files[i]
		copy(cfg.Secrets.Authority[:], a.Public())
		if f.now == (pki.Secrets{}) {
			f.now = cfg.Secrets
		}
		cfg.Secrets, cfg.SaveSecrets, cfg.OnKey = f.load(), f.save, f.event
		if i == 0 {
			cfg.Authority = a
		}
	}
	c.cluster = newCluster(t, n, c.edit)
	eventually(t, 30*time.Second, "everybody knows everybody", c.allAlive)
	for _, n := range c.nodes[1:] {
		if _, err := c.nodes[0].Certify(n.id.Public(), n.cfg.Name, pki.Caps{UnbanAny: true}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 10*time.Second, "all hold the certificates", func() bool { return sameDigest(c.nodes) })
	return c
}

// again restarts a stopped node from its disk, with the peers that it remembers.
func (c *turning) again(t *testing.T, i int, epoch uint64) *testNode {
	t.Helper()
	old := c.nodes[i]
	old.mu.Lock()
	peers := slices.Clone(old.remember)
	old.mu.Unlock()
	n := newNode(t, c.secrets, old.id, func(cfg *Config) {
		c.config(i, c.edit)(cfg)
		cfg.Epoch, cfg.Peers = epoch, peers
	})
	var records, frames [][]byte
	for ref, raw := range old.storedFrames() {
		if ref.Origin == n.AuthorityID() {
			records = append(records, raw)
		} else {
			frames = append(frames, raw)
		}
	}
	if err := n.Restore(slices.Values(append(records, frames...))); err != nil {
		t.Fatal(err)
	}
	c.nodes[i] = n.run(t)
	return n
}

func (c *turning) rotate(t *testing.T, want uint32) {
	t.Helper()
	got, _, err := c.nodes[0].RotateKey(t.Context())
	if err != nil || got != want {
		t.Fatalf("generation %d, %v; want %d", got, err, want)
	}
}

// turned returns a function that reports whether the nodes have, use and keep only the key of a generation.
func turned(generation uint32, nodes ...*testNode) func() bool {
	return func() bool {
		for _, n := range nodes {
			if s := n.KeyStatus(); s.Generation != generation || s.InUse != generation || s.Rotating || n.keys.Opening() != 1 {
				return false
			}
		}
		return true
	}
}

// A revoked node gets no new key. Once the others have turned, it hears nobody and reaches nobody.
func TestRotationShutsOut(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newTurning(t, 4)
		bad, good := c.nodes[3], c.nodes[:3]
		if _, err := c.nodes[0].Revoke(bad.id.ID(), "n3", time.Time{}, ""); err != nil {
			t.Fatal(err)
		}
		c.rotate(t, 1)
		eventually(t, 3*time.Minute, "the others have turned", turned(1, good...))
		if s := bad.KeyStatus(); s.Generation != 0 || bad.keys.Opening() != 1 {
			t.Fatalf("the revoked node has %+v", s)
		}
		publish(t, good[1], "secret", time.Hour)
		<-time.After(5 * time.Minute)
		bad.mu.Lock()
		for _, f := range bad.delivered {
			if string(f.Payload) == "secret" {
				t.Error("the revoked node reads what was said")
			}
		}
		bad.mu.Unlock()
		for i, n := range good {
			if n.aliveCount() != 3 {
				t.Errorf("node %d sees %d alive", i, n.aliveCount())
			}
		}
		if bad.aliveCount() != 1 {
			t.Errorf("the revoked node sees %d alive", bad.aliveCount())
		}
		if !hasProblem(bad, ProblemCertificate, "revoked") {
			t.Errorf("the revoked node tells %q", bad.problemsSeen())
		}
		// Not even after a restart, when it asks for a key at once.
		if err := bad.stop(); err != nil {
			t.Fatal(err)
		}
		bad = c.again(t, 3, 2)
		<-time.After(time.Minute)
		if bad.aliveCount() != 1 || bad.KeyStatus().Generation != 0 {
			t.Errorf("after a restart: %d alive, %+v", bad.aliveCount(), bad.KeyStatus())
		}
	})
}

// A node that is down during two rotations recovers by itself, as do two nodes that are cut off together. A node that
// joins later has the newest key.
func TestRotationWhileAway(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newTurning(t, 5)
		if err := c.nodes[2].stop(); err != nil {
			t.Fatal(err)
		}
		cut := []netip.AddrPort{c.addrs[3], c.addrs[4]}
		c.hub.setCut(func(from, to netip.AddrPort) bool { return slices.Contains(cut, from) != slices.Contains(cut, to) })
		<-time.After(2 * time.Minute)
		for g := range uint32(2) {
			c.rotate(t, g+1)
			eventually(t, 3*time.Minute, "those who are there have turned", turned(g+1, c.nodes[:2]...))
		}
		if c.nodes[3].aliveCount() != 2 || c.nodes[3].KeyStatus().Generation != 0 {
			t.Fatalf("the two that are cut off: %d alive, %+v", c.nodes[3].aliveCount(), c.nodes[3].KeyStatus())
		}
		publish(t, c.nodes[1], "missed", time.Hour)
		publish(t, c.nodes[4], "alone", time.Hour)
		c.again(t, 2, 2)
		eventually(t, 30*time.Second, "who was down is back", func() bool {
			return c.nodes[2].aliveCount() == 3 && sameDigest(c.nodes[:3])
		})
		c.hub.setCut(nil)
		eventually(t, 2*time.Minute, "those who were cut off are back", func() bool { return c.allAlive() && sameDigest(c.nodes) })
		eventually(t, 10*time.Minute, "all have turned", turned(2, c.nodes...))
		for i, n := range c.nodes {
			if s := n.KeyStatus(); len(s.Lacking) != 0 || s.Handed != 2 {
				t.Errorf("node %d: %+v", i, s)
			}
		}

		// A new member gets the newest key, and a little later its grant, in case its disk is ever restored.
		late := newIdentity(t)
		answer, err := c.nodes[0].welcome(late.Public(), "late", pki.Caps{UnbanAny: true})
		if err != nil || answer.Secrets.Generation != 2 {
			t.Fatalf("answer of generation %d, %v", answer.Secrets.Generation, err)
		}
		eventually(t, 2*renewEvery, "it is handed its grant", func() bool {
			n := c.nodes[1]
			n.Mesh.mu.Lock()
			defer n.Mesh.mu.Unlock()
			return n.core.Granted()[late.ID()]
		})
	})
}

// A node came back at a new address, rotated the key before it had found anybody, and dropped the former one. The
// others never understood it again, because they did not know where to ask for the new key.
func TestRotationAloneAtANewAddress(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newTurning(t, 4)
		if err := c.nodes[0].stop(); err != nil {
			t.Fatal(err)
		}
		old := c.addrs[0]
		c.addrs[0] = netip.MustParseAddrPort("10.8.8.8:7946")
		c.hub.setCut(func(from, to netip.AddrPort) bool {
			return from == c.addrs[0] || to == c.addrs[0] || from == old || to == old
		})
		c.again(t, 0, 2)
		c.rotate(t, 1)
		eventually(t, 3*rotate.KeepFor, "the lone node has turned", turned(1, c.nodes[0]))
		if s := c.nodes[1].KeyStatus(); s.Generation != 0 {
			t.Fatalf("the others have %+v", s)
		}
		c.hub.setCut(func(from, to netip.AddrPort) bool { return from == old || to == old })
		begin := time.Now()
		eventually(t, time.Minute, "all are together", func() bool { return c.allAlive() && sameDigest(c.nodes) })
		t.Logf("together after %v", time.Since(begin))
		eventually(t, 10*time.Minute, "all have turned", turned(1, c.nodes...))
	})
}

// A node that is cut off while the key turns, and comes back before it misses anybody, is a member again within 10 s. None
// of the nodes that it considers alive understands it, and they consider it dead by then.
func TestRotationMissed(t *testing.T) {
	for _, at := range []int{1, 3} {
		cutOff := func(t *testing.T) {
			c := newTurning(t, 4)
			<-time.After(10 * time.Second)
			deaf, others := c.nodes[at], slices.Delete(slices.Clone(c.nodes), at, at+1)
			c.hub.setCut(func(from, to netip.AddrPort) bool { return (from == c.addrs[at]) != (to == c.addrs[at]) })
			c.rotate(t, 1)
			eventually(t, 30*time.Second, "the others use the new key", func() bool {
				return !slices.ContainsFunc(others, func(n *testNode) bool { return n.KeyStatus().InUse != 1 })
			})
			if s, n := deaf.KeyStatus(), len(deaf.peers.alive()); s.Generation != 0 || n != 3 {
				t.Fatalf("it has %+v, and takes %d others for alive", s, n)
			}
			publish(t, others[0], "missed", time.Hour)
			c.hub.setCut(nil)
			begin := time.Now()
			eventually(t, 10*time.Second, "it is back", func() bool { return c.allAlive() && sameDigest(c.nodes) && deaf.KeyStatus().InUse == 1 })
			t.Logf("back after %v", time.Since(begin))
			eventually(t, 2*rotate.KeepFor, "all have turned", turned(1, c.nodes...))
		}
		t.Run(fmt.Sprint("node ", at), func(t *testing.T) { bubble(t, cutOff) })
	}
}

// A node whose disk is full does not use a key that it would lose if killed, says so, and keeps the others from using it
// for a while. A node that joins meanwhile can talk to everybody, and the number of rotations under way is bounded.
func TestRotationOnAFullDisk(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newTurning(t, 4)
		founder, stuck := c.nodes[0], c.nodes[2]
		c.files[2].setFull(true)
		c.rotate(t, 1)
		late := newIdentity(t)
		answer, err := founder.welcome(late.Public(), "late", pki.Caps{UnbanAny: true})
		if err != nil || len(answer.Secrets.Keys()) != 2 || answer.Secrets.Generation != 0 {
			t.Fatalf("who joins meanwhile gets %d keys, %v", len(answer.Secrets.Keys()), err)
		}
		c.files = append(c.files, &keyFile{now: answer.Secrets})
		copy(c.files[4].now.Authority[:], founder.cfg.Secrets.Authority[:])
		c.addrs = append(c.addrs, netip.MustParseAddrPort("10.0.1.1:7946"))
		c.nodes = append(c.nodes, c.start(t, 4, late, c.edit))
		eventually(t, 30*time.Second, "who joins meanwhile is a member", c.allAlive)
		<-time.After(rotate.UseAfter / 2)
		for i, n := range c.nodes {
			if s := n.KeyStatus(); s.InUse != 0 || i != 2 && !slices.Equal(s.Lacking, []frame.ID{stuck.id.ID()}) {
				t.Errorf("node %d: %+v", i, s)
			}
		}
		if s := stuck.KeyStatus(); s.Generation != 0 || s.Handed != 1 || !hasProblem(stuck, ProblemKey, "no space left") {
			t.Errorf("%+v, tells %q", s, stuck.problemsSeen())
		}
		c.rotate(t, 2)
		c.rotate(t, 3)
		if _, _, err := founder.RotateKey(t.Context()); !errors.Is(err, ErrRotating) {
			t.Errorf("a fourth rotation at once: %v", err)
		}
		c.files[2].setFull(false)
		eventually(t, 10*time.Second, "all use the newest key", func() bool {
			return !slices.ContainsFunc(c.nodes, func(n *testNode) bool { return n.KeyStatus().InUse != 3 })
		})
		eventually(t, 2*rotate.KeepFor, "all have turned", turned(3, c.nodes...))
	})
}

// If the agent dies after publishing only the first record of a rotation, it completes the rotation at its next start.
// Meanwhile nobody uses a key that others lack.
func TestRotationInterrupted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newTurning(t, 3)
		<-time.After(time.Minute) // new certificates no longer make it hand out what is missing
		founder := c.nodes[0]
		key, err := pki.NewGossipKey(1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := founder.grant(append([]pki.GossipKey{key}, founder.secrets().Keys()...), []ed25519.PublicKey{founder.id.Public()}); err != nil {
			t.Fatal(err)
		}
		eventually(t, 10*time.Second, "the first record is there", func() bool { return sameDigest(c.nodes) && founder.KeyStatus().Generation == 1 })
		if got := founder.KeyStatus().Lacking; len(got) != 2 {
			t.Errorf("%d nodes lack the key, want 2", len(got))
		}
		if err := founder.stop(); err != nil {
			t.Fatal(err)
		}
		<-time.After(2 * rotate.UseAfter)
		for _, n := range c.nodes[1:] {
			if s := n.KeyStatus(); s.Generation != 0 || s.InUse != 0 || s.Handed != 1 {
				t.Errorf("a node that was given nothing: %+v", s)
			}
			if !hasProblem(n, ProblemKey, "not given") {
				t.Errorf("it tells %q", n.problemsSeen())
			}
		}
		c.again(t, 0, 2)
		eventually(t, time.Minute, "all are together", func() bool { return c.allAlive() && sameDigest(c.nodes) })
		eventually(t, 3*time.Minute, "all have turned", turned(1, c.nodes...))
	})
}

// A node without a certificate that asks for the mesh's key gets nothing. A certified node that the others do not know
// yet gets the key once a holder of the authority's key has handed it out.
func TestKeysForWhomAsks(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newTurning(t, 3)
		c.rotate(t, 1)
		eventually(t, 3*time.Minute, "all have turned", turned(1, c.nodes...))
		stale := c.secrets // like a key exported before the rotation
		copy(stale.Authority[:], c.nodes[0].cfg.Authority.Public())
		asker := func(i int, cert pki.Certificate) *testNode {
			c.addrs = append(c.addrs, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 1, byte(i)}), 7946))
			id := newIdentity(t)
			if cert.NotAfter.IsZero() {
				return newNode(t, stale, id, c.config(i, nil)).run(t)
			}
			cert.Node, cert.MeshID, cert.Serial = id.Public(), stale.MeshID, 1
			signed := certify(t, c.nodes[0].cfg.Authority, cert)
			return newNode(t, stale, id, func(cfg *Config) {
				c.config(i, nil)(cfg)
				cfg.Certificate = signed
			}).run(t)
		}
		stranger := asker(3, pki.Certificate{})
		ended := asker(4, pki.Certificate{NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(-time.Minute)})
		enrolled := asker(5, pki.Certificate{NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)})
		eventually(t, 30*time.Second, "who was certified elsewhere is a member", func() bool {
			return enrolled.KeyStatus().Generation == 1 && enrolled.aliveCount() == 4
		})
		<-time.After(time.Minute)
		for name, n := range map[string]*testNode{"a stranger": stranger, "whose certificate has ended": ended} {
			if s := n.KeyStatus(); s.Generation != 0 || s.Handed != 0 || n.aliveCount() != 1 {
				t.Errorf("%s got %+v", name, s)
			}
			if _, _, err := n.keysAt(t.Context(), c.addrs[1]); err == nil {
				t.Errorf("%s was answered", name)
			}
		}
	})
}

// A member that makes a node ask back at one address after another, none of which answers, does not keep the node from
// asking others.
func TestAskingBackHoldsNobodyUp(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newTurning(t, 2)
		<-time.After(10 * time.Second)
		m, captured := c.nodes[0], c.nodes[1].id.ID()
		genuine := netip.MustParseAddrPort("10.7.7.7:7946")
		port, err := c.hub.open(genuine)
		if err != nil {
			t.Fatal(err)
		}
		defer port.Shutdown()
		var asked sync.WaitGroup
		for i := range 100 {
			asked.Go(func() { m.askBack(captured, fmt.Sprintf("10.8.8.%d:1", i)) })
		}
		<-time.After(time.Second)
		select {
		case m.join.Silent <- genuine:
		default:
		}
		select {
		case conn := <-port.StreamCh():
			_ = conn.Close()
		case <-time.After(time.Second):
			t.Error("not asked within a second")
		}
		asked.Wait()
	})
}

// A node with the authority's key that has lost its store knows of no revocation, so it gives nobody the newest key until
// it has compared with a member. A revoked node that asks first, with its former certificate, gets nothing.
func TestLostStoreHandsOutNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newTurning(t, 4)
		founder, good, bad := c.nodes[0], c.nodes[1], c.nodes[2]
		away := c.nodes[3]
		if err := away.stop(); err != nil {
			t.Fatal(err)
		}
		if _, err := founder.Revoke(bad.id.ID(), "n2", time.Time{}, ""); err != nil {
			t.Fatal(err)
		}
		if err := bad.stop(); err != nil {
			t.Fatal(err)
		}
		c.rotate(t, 1)
		eventually(t, 3*time.Minute, "both have turned", turned(1, founder, good))
		for _, n := range []*testNode{founder, good} {
			if err := n.stop(); err != nil {
				t.Fatal(err)
			}
		}
		founder.mu.Lock()
		clear(founder.stored)
		founder.remember = nil
		founder.mu.Unlock()
		bad.mu.Lock()
		for ref := range bad.stored { // it has not kept its own revocation
			if ref.Epoch == pki.EpochRevocation {
				delete(bad.stored, ref)
			}
		}
		bad.mu.Unlock()
		founder = c.again(t, 0, 3)
		bad = c.again(t, 2, 3)
		<-time.After(5 * time.Minute)
		if s := bad.KeyStatus(); s.Generation != 0 {
			t.Fatalf("the revoked node got the key: %+v", s)
		}
		if founder.mayHandOut() {
			t.Error("a node that lost its store hands out keys")
		}
		good = c.again(t, 1, 3)
		eventually(t, time.Minute, "the store is back", func() bool {
			return founder.mayHandOut() && sameDigest([]*testNode{founder, good})
		})
		if s := founder.Standing(bad.id.ID()); s.Revoked == nil {
			t.Errorf("the revoked node's standing is %+v", s)
		}
		away = c.again(t, 3, 3)
		eventually(t, 2*time.Minute, "one that was away gets the key", func() bool { return away.KeyStatus().Generation == 1 })
		if s := bad.KeyStatus(); s.Generation != 0 {
			t.Errorf("the revoked node got the key in the end: %+v", s)
		}
	})
}
