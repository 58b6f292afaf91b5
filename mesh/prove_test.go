package mesh

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/meta"
)

// proves reports whether n knows that id answered at addr.
func proves(n *testNode, id frame.ID, addr netip.AddrPort) bool {
	for _, p := range n.Known() {
		if p.ID == id && p.Addr == addr {
			return true
		}
	}
	return false
}

func (c *cluster) allProved() bool {
	for _, n := range c.nodes {
		for i, other := range c.nodes {
			if n != other && !proves(n, other.id.ID(), c.addrs[i]) {
				return false
			}
		}
	}
	return true
}

// Honest members prove their addresses as soon as they meet. The proofs last over a restart, before anything is sent, and
// then nobody asks any more.
func TestMembersProveTheirAddresses(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t, clusterSize, nil)
		eventually(t, 30*time.Second, "everybody knows everybody", c.allAlive)
		start := time.Now()
		eventually(t, time.Second, "all addresses are proved", c.allProved)
		t.Logf("proved %v later", time.Since(start))
		<-time.After(2 * rememberEvery)
		for _, n := range c.nodes {
			if due, _, next := n.peers.dueAsks(time.Now().Add(time.Hour)); len(due) > 0 || !next.IsZero() {
				t.Errorf("asks %v at %v", due, next)
			}
		}
		old := c.nodes[3]
		if err := old.stop(); err != nil {
			t.Fatal(err)
		}
		back := newNode(t, c.secrets, old.id, c.config(3, func(_ int, cfg *Config) { cfg.Epoch, cfg.Peers = 2, old.remember }))
		c.nodes[3] = back
		if got := len(back.Known()); got != clusterSize-1 {
			t.Errorf("%d known before it runs, want %d", got, clusterSize-1)
		}
	})
}

// elsewhere is a port whose node claims to be at another address.
type elsewhere struct {
	*hubPort
	addr netip.AddrPort
}

func (e elsewhere) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return e.addr.Addr().AsSlice(), int(e.addr.Port()), nil
}

// A certified member that claims somebody else's address, or nobody's, protects no address.
func TestClaimedAddressIsNotProved(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t, 3, nil)
		eventually(t, 30*time.Second, "everybody knows everybody", c.allAlive)
		for i, claimed := range []netip.AddrPort{netip.MustParseAddrPort("198.51.100.7:7946"), c.addrs[1]} {
			id := newIdentity(t)
			c.addrs = append(c.addrs, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 6, 6, byte(i)}), 7946))
			at := len(c.addrs) - 1
			liar := c.start(t, at, id, func(_ int, cfg *Config) {
				cfg.newTransport = func() (memberlist.Transport, error) {
					port, err := c.hub.open(c.addrs[at])
					if err != nil {
						return nil, err
					}
					return elsewhere{port.(*hubPort), claimed}, nil
				}
			})
			eventually(t, 10*time.Second, "it is a member", func() bool {
				return findMember(c.nodes[0], id.ID()).Addr == claimed
			})
			<-time.After(5 * time.Second)
			for _, n := range c.nodes {
				for _, p := range n.Known() {
					if p.ID == id.ID() {
						t.Errorf("%v counts, which never answered", p.Addr)
					}
				}
			}
			if err := liar.stop(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// mute is a port that loses the packets it sends.
type mute struct{ *hubPort }

func (mute) WriteTo([]byte, string) (time.Time, error) { return time.Now(), nil }

// A member that is reached only by streams proves its address by them.
func TestProofByStream(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t, 2, nil)
		c.addrs = append(c.addrs, netip.MustParseAddrPort("10.6.6.6:7946"))
		c.nodes = append(c.nodes, c.start(t, 2, newIdentity(t), func(_ int, cfg *Config) {
			cfg.newTransport = func() (memberlist.Transport, error) {
				port, err := c.hub.open(c.addrs[2])
				if err != nil {
					return nil, err
				}
				return mute{port.(*hubPort)}, nil
			}
		}))
		eventually(t, 30*time.Second, "everybody knows everybody", c.allAlive)
		eventually(t, 2*time.Second, "all addresses are proved", c.allProved)
	})
}

// Members without a certificate, made up where nobody answers, do not keep a certified one that is reached only by streams from
// proving its address.
func TestStrangersHoldUpNoProof(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t, 1, nil)
		n, member := c.nodes[0], newIdentity(t)
		n.certified.Store(&map[frame.ID]struct{}{n.id.ID(): {}, member.ID(): {}})
		for i := range maxStrangers {
			id := newIdentity(t)
			s := (&peer{Member: Member{ID: id.ID(), Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), 7946)}}).node()
			s.Meta = meta.Data{Protocol: meta.Protocol, Key: id.Public(), Name: "stranger", Version: "1"}.Encode()
			n.peers.joined(time.Now(), s, memberJoin)
		}
		c.addrs = append(c.addrs, netip.MustParseAddrPort("10.6.6.6:7946"))
		c.nodes = append(c.nodes, c.start(t, 1, member, func(_ int, cfg *Config) {
			cfg.newTransport = func() (memberlist.Transport, error) {
				port, err := c.hub.open(c.addrs[1])
				if err != nil {
					return nil, err
				}
				return mute{port.(*hubPort)}, nil
			}
		}))
		eventually(t, 2*time.Second, "its address is proved", func() bool { return proves(n, member.ID(), c.addrs[1]) })
	})
}

// A captured member may pass a stream on from where it is to another member, whose handshake then says nothing of that
// address: it protects nothing, and the addresses where the member is stay protected.
func TestRelayedHandshakeProvesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t, 3, nil)
		eventually(t, 30*time.Second, "all addresses are proved", c.allProved)
		n, victim := c.nodes[0], c.nodes[1].id.ID()
		n.peers.update(victim, func(p *peer) { p.seen = p.seen.Add(-time.Minute) }) // large meshes ping a member this rarely
		for i := range maxProofs {
			relay := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), 7946)
			c.hub.alias(c.addrs[1], relay)
			if _, from, _ := n.keysAt(t.Context(), relay); from != victim {
				t.Fatalf("%v answers at %v", from, relay)
			}
			if proves(n, victim, relay) {
				t.Errorf("%v counts as the member's", relay)
			}
		}
		if !proves(n, victim, c.addrs[1]) {
			t.Error("where the member is does not count any more")
		}
	})
}

// A member's recent addresses count beside its present one, but no more than maxProofs in all.
func TestProofsAreBounded(t *testing.T) {
	id := signers[0]
	trusted := true
	table := newPeerTable(frame.ID{}, nil, func(frame.ID) bool { return trusted })
	now := simStart
	at := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 7946)
	}
	const moves = maxProofs + 2
	for i := range moves {
		now = now.Add(time.Minute)
		n := (&peer{Member: Member{ID: id.ID(), Addr: at(i)}}).node()
		n.Meta = meta.Data{Protocol: meta.Protocol, Key: id.Public(), Name: "mobile", Version: "1"}.Encode()
		table.joined(now, n, memberJoin)
		if due, _, _ := table.dueAsks(now); len(due) != 1 || due[0].addr != at(i) {
			t.Fatalf("asks %v, want at %v", due, at(i))
		}
		if got := len(table.known(now)); got != min(i, maxProofs) {
			t.Errorf("%d addresses count before the proof of number %d", got, i)
		}
		table.addressProved(now, id.ID(), at(i))
	}
	if got := table.known(now); len(got) != maxProofs || got[0].Addr != at(moves-1) || got[maxProofs-1].Addr != at(moves-maxProofs) {
		t.Errorf("known: %v", got)
	}
	if list := table.remember(now); len(list) != 1 || len(list[0].Proved) != maxProofs {
		t.Errorf("remembered: %v", list)
	}
	later := now.Add(forgetDead + time.Hour)
	table.update(id.ID(), func(p *peer) { p.seen = later })
	if got := table.known(later); len(got) != 1 || got[0].Addr != at(moves-1) {
		t.Errorf("known a week later: %v", got)
	}
	if trusted = false; len(table.known(now)) != 0 {
		t.Error("a node that does not count is known")
	}
}

// A member that claims one address after another makes a node ask about at most one every ten seconds.
func TestQuestionsAreBounded(t *testing.T) {
	id := signers[0]
	table := newPeerTable(frame.ID{}, nil, func(frame.ID) bool { return true })
	asked := 0
	for i := range 600 { // a minute
		now := simStart.Add(time.Duration(i) * 100 * time.Millisecond)
		addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}), 7946)
		n := (&peer{Member: Member{ID: id.ID(), Addr: addr}}).node()
		n.Meta = meta.Data{Protocol: meta.Protocol, Key: id.Public(), Name: "mobile", Version: "1"}.Encode()
		table.joined(now, n, memberJoin)
		due, _, _ := table.dueAsks(now)
		asked += len(due)
	}
	if asked > 7 {
		t.Errorf("asked %d times in a minute", asked)
	}
}

// Only a holder of this node's key can make the node say that somebody else has it.
func TestCloneCannotBeForged(t *testing.T) {
	self, other := signers[1], signers[0]
	n := newNode(t, newSecrets(t), self, nil)
	addr := netip.MustParseAddrPort("192.0.2.1:7946")
	q := ask{signed: signed{MeshID: n.cfg.Secrets.MeshID}, To: self.ID(), Nonce: [16]byte{1}, ReplyTo: addr.String()}
	hear := func(b []byte) { n.askMessage(b[1:]) }
	unsigned := q.encode(self)
	unsigned[len(unsigned)-1] ^= 1
	hear(unsigned)
	asOther := q
	asOther.Key = other.Public()
	hear(asOther.encode(other))
	if _, due := n.asks.claimant(time.Now()); due {
		t.Error("a question that this node's key did not sign has it ask")
	}
	hear(q.encode(self)) // genuine, or replayed by a former recipient: ask there
	if got, due := n.asks.claimant(time.Now()); !due || got != addr {
		t.Errorf("asks %v, %v; want %v", got, due, addr)
	}
	nonce, err := n.asks.begin(time.Now(), self.ID(), addr)
	if err != nil {
		t.Fatal(err)
	}
	a := ask{signed: signed{MeshID: n.cfg.Secrets.MeshID}, To: self.ID(), Nonce: nonce}
	forged := a.encode(self)
	forged[len(forged)-1] ^= 1
	hear(forged)
	hear(a.encode(other))
	if got := n.problemsSeen(); len(got) > 0 {
		t.Errorf("reports %q", got)
	}
	hear(a.encode(self))
	if !hasProblem(n, ProblemClone, addr.String()) {
		t.Error("a clone that has answered is not reported")
	}
}

// An answer counts only for the address and the key that were asked, once, and only while it is awaited.
func TestOnlyAnswersProve(t *testing.T) {
	now := time.Now()
	a := asks{open: make(map[[16]byte]openAsk)}
	addr := netip.MustParseAddrPort("192.0.2.1:7946")
	nonce, err := a.begin(now, frame.ID{1}, addr)
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]bool{
		"another node":  a.expected(now, nonce, frame.ID{2}),
		"another nonce": a.expected(now, [16]byte{}, frame.ID{1}),
		"too late":      a.expected(now.Add(askOpen+1), nonce, frame.ID{1}),
	} {
		if bad {
			t.Errorf("%s counts", name)
		}
	}
	if !a.expected(now, nonce, frame.ID{1}) || a.answered(nonce) != addr || a.expected(now, nonce, frame.ID{1}) {
		t.Error("an answer counts once")
	}
	for range maxOpenAsks {
		_, err = a.begin(now, frame.ID{1}, addr)
	}
	if err == nil || len(a.open) > maxOpenAsks {
		t.Errorf("%d questions are open", len(a.open))
	}
}
