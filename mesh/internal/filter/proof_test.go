package filter

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/meshtest"
	"github.com/meshban/meshban/mesh/internal/meta"
	"github.com/meshban/meshban/mesh/internal/mlwire"
	"github.com/meshban/meshban/mesh/internal/wire"
	"github.com/meshban/meshban/mesh/pki"
)

// acquainted returns what makes two nodes' proofs; each knows where the other is, and that it has answered there.
func acquainted(t testing.TB) (a, b *prover, atA, atB netip.AddrPort) {
	t.Helper()
	atA, atB = netip.MustParseAddrPort("192.0.2.1:7946"), netip.MustParseAddrPort("192.0.2.2:7946")
	a = proverOf(meshtest.Signers[0], map[netip.AddrPort]pki.Identity{atB: meshtest.Signers[1]})
	return a, proverOf(meshtest.Signers[1], map[netip.AddrPort]pki.Identity{atA: meshtest.Signers[0]}), atA, atB
}

// crowd is who is there: every node answers at its address and states it.
type crowd struct {
	keys  map[frame.ID]ed25519.PublicKey
	addrs map[frame.ID]netip.AddrPort
}

func (c crowd) At(a netip.Addr) (ids []frame.ID) {
	for id, at := range c.addrs {
		if at.Addr() == a {
			ids = append(ids, id)
		}
	}
	return ids
}

func (c crowd) Key(id frame.ID) ed25519.PublicKey          { return c.keys[id] }
func (c crowd) States(id frame.ID, at netip.AddrPort) bool { return c.addrs[id] == at }
func (crowd) Knows(frame.ID, netip.AddrPort, []byte) bool  { return false }
func (crowd) Ceiling(frame.ID) uint32                      { return meta.FirstCeiling }
func (crowd) Leaving(time.Time, frame.ID) bool             { return false }
func (crowd) Detour(string) (addr netip.AddrPort, ok bool) { return addr, false }
func (c crowd) has(a netip.Addr) bool                      { return len(c.At(a)) > 0 }
func (c crowd) add(id pki.Identity, at netip.AddrPort) {
	c.keys[id.ID()], c.addrs[id.ID()] = id.Public(), at
}

// proverOf returns a node that knows others, which have answered at their addresses.
func proverOf(self pki.Identity, others map[netip.AddrPort]pki.Identity) *prover {
	c := crowd{make(map[frame.ID]ed25519.PublicKey), make(map[frame.ID]netip.AddrPort)}
	for at, other := range others {
		c.add(other, at)
	}
	return newProver(self, [16]byte{7}, c)
}

// sends returns the packet that a node sends to an address in place of memberlist's.
func (d *prover) sends(packet []byte, to memberlist.Address) []byte {
	g, _ := testGuard(nil)
	g.keys = func() [][]byte { return [][]byte{guardKey} }
	return d.prove(new(packetBuffer), g, packet, to)
}

func addressOf(d *prover, at netip.AddrPort) memberlist.Address {
	return memberlist.Address{Addr: at.String(), Name: d.id.ID().String()}
}

// A proven packet is as long as without a proof, and memberlist reads it.
func TestPacketsProveTheirSender(t *testing.T) {
	a, b, atA, atB := acquainted(t)
	plain := append([]byte{mlwire.User}, wire.Pack(wire.KindPush, [][]byte{{1, 2, 3}, {4}})[0]...)
	packet := meshtest.Sealed(t, guardKey, 1, plain, nil)
	proven := a.sends(packet, addressOf(b, atB))
	g, _ := testGuard(nil)
	text, _, ok := g.decrypt(proven)
	if !ok || !bytes.Equal(text, plain) || len(proven) != len(packet) {
		t.Fatalf("%x in %d bytes, %v; want %x in %d", text, len(proven), ok, plain, len(packet))
	}
	nonce := proven[1 : 1+mlwire.NonceLen]
	if id, ok := b.check(atA.Addr(), nonce, text); !ok || id != a.id.ID() {
		t.Errorf("sent by %v, proven %v", id, ok)
	}
	if _, ok := b.check(atA.Addr(), packet[1:1+mlwire.NonceLen], text); ok {
		t.Error("proven by the nonce of memberlist")
	}
	if _, ok := b.check(atB.Addr(), nonce, text); ok {
		t.Error("proven from an address where the sender has not answered")
	}
	for i := range text {
		bad := bytes.Clone(text)
		bad[i] ^= 1
		if _, ok := b.check(atA.Addr(), nonce, bad); ok {
			t.Errorf("proven with byte %d changed", i)
		}
	}
	if _, ok := a.check(atB.Addr(), nonce, text); ok {
		t.Error("what it sent itself proves that the other sent it")
	}
	if _, ok := proverOf(meshtest.Signers[2], map[netip.AddrPort]pki.Identity{atA: a.id}).check(atA.Addr(), nonce, text); ok {
		t.Error("proven to a third")
	}
	other := proverOf(b.id, map[netip.AddrPort]pki.Identity{atA: a.id})
	other.meshID = [16]byte{8}
	if _, ok := other.check(atA.Addr(), nonce, text); ok {
		t.Error("proven in another mesh")
	}
	delete(b.members.(crowd).addrs, a.id.ID())
	if _, ok := b.check(atA.Addr(), nonce, text); ok {
		t.Error("proven by a node that is no member there")
	}
}

// A packet that does not go to the peer itself carries no proof: its receiver could repeat it to the peer.
func TestProofsGoToThePeerAlone(t *testing.T) {
	a, b, atA, atB := acquainted(t)
	packet := meshtest.Sealed(t, guardKey, 1, []byte{mlwire.User, wire.KindPush}, nil)
	low := a.members.(crowd)
	low.keys[meshtest.Signers[2].ID()], low.addrs[meshtest.Signers[2].ID()] = make([]byte, 32), atB // of low order
	for _, tt := range []struct {
		name string
		to   memberlist.Address
	}{
		{"another address", addressOf(b, atA)},
		{"another port", addressOf(b, netip.AddrPortFrom(atB.Addr(), 1))},
		{"nobody", memberlist.Address{Addr: atB.String()}},
		{"a node that is not known", memberlist.Address{Addr: atB.String(), Name: meshtest.Signers[3].ID().String()}},
		{"a node with a key of no use", memberlist.Address{Addr: atB.String(), Name: meshtest.Signers[2].ID().String()}},
	} {
		if got := a.sends(packet, tt.to); !bytes.Equal(got, packet) {
			t.Errorf("to %s goes %x, want %x", tt.name, got, packet)
		}
	}
	if got := a.sends(packet, addressOf(b, atB)); bytes.Equal(got, packet) {
		t.Error("no proof goes to the peer")
	}
}

// A packet from a member's address that no member there has proven is charged to none of them.
func TestAccountOfAPacket(t *testing.T) {
	a, b, atA, atB := acquainted(t)
	shared, elsewhere := netip.AddrPortFrom(atA.Addr(), 1), netip.MustParseAddrPort("198.51.100.9:7946")
	third := proverOf(meshtest.Signers[2], map[netip.AddrPort]pki.Identity{atB: b.id})
	b = proverOf(b.id, map[netip.AddrPort]pki.Identity{atA: a.id, shared: third.id})
	g, _ := testGuard(nil)
	g.isMember, g.proven = b.members.(crowd).has, b.check
	packet := meshtest.Sealed(t, guardKey, 1, []byte{mlwire.User, wire.KindPush}, nil)
	mapped := &net.UDPAddr{IP: atA.Addr().AsSlice(), Port: 9}
	mapped.IP = mapped.IP.To16()
	for _, tt := range []struct {
		name    string
		packet  []byte
		from    net.Addr
		account netip.Addr
		sender  frame.ID
	}{
		{"proven", a.sends(packet, addressOf(b, atB)), net.UDPAddrFromAddrPort(atA), atA.Addr(), a.id.ID()},
		{"proven, as IPv4 in IPv6", a.sends(packet, addressOf(b, atB)), mapped, atA.Addr(), a.id.ID()},
		{"proven, by another at that address", third.sends(packet, addressOf(b, atB)), net.UDPAddrFromAddrPort(shared), atA.Addr(), third.id.ID()},
		{"not proven, from a member's address", packet, net.UDPAddrFromAddrPort(atA), unproven, frame.ID{}},
		{"from elsewhere", packet, net.UDPAddrFromAddrPort(elsewhere), anywhere, frame.ID{}},
	} {
		g.packetFlood = NewBuckets[netip.Addr](sourceRate, sourceBurst)
		if !g.packet(bytes.Clone(tt.packet), SourceOf(tt.from, g.isMember)) {
			t.Fatalf("%s: dropped", tt.name)
		}
		if charged := g.packetFlood.of; charged[tt.account] == nil || len(charged) != 1 || g.sender != tt.sender {
			t.Errorf("%s: charged to %v, sent by %v; want %v, %v", tt.name, slices.Collect(maps.Keys(charged)), g.sender.Short(), tt.account, tt.sender.Short())
		}
	}
}

// memberlist answers a ping to the address and the node that the ping names. A member could thus use up another's share
// at a third node, with answers that carry a valid proof.
func TestPingsAreAnsweredToTheirSender(t *testing.T) {
	by, other, stranger := meshtest.Signers[1].ID(), meshtest.Signers[2].ID(), meshtest.Signers[3].ID()
	own, others, elsewhere := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("198.51.100.9")
	also := netip.MustParseAddr("2001:db8::1") // the member's other address
	ping := func(name frame.ID, at netip.Addr) []byte {
		return meshtest.Sealed(t, guardKey, 1, meshtest.OfMemberlist(t, mlwire.Ping, mlwire.PingMessage{
			SeqNo: 1, Node: name.String(), SourceAddr: at.AsSlice(), SourcePort: 7946, SourceNode: name.String(),
		}), nil)
	}
	for _, tt := range []struct {
		name   string
		proven bool // sent by by
		source netip.Addr
		packet []byte
		ok     bool
	}{
		{"ok: a member's", true, own, ping(by, own), true},
		{"ok: a member's, from its other address", true, also, ping(by, own), true},
		{"ok: a member's, behind NAT", false, elsewhere, ping(by, own), true},
		{"ok: a newcomer's", false, elsewhere, ping(stranger, elsewhere), true},
		{"ok: a newcomer's, at a member's address", false, own, ping(stranger, own), true},
		{"bad: in another's name", true, own, ping(other, own), false},
		{"bad: answered to another", true, own, ping(by, others), false},
		{"bad: answered to a third party", false, own, ping(stranger, elsewhere), false},
	} {
		g, _ := testGuard(nil)
		g.isMember = func(a netip.Addr) bool { return a == own || a == others || a == also }
		g.answers = func(id frame.ID, a netip.Addr) bool { return id == by && (a == own || a == also) }
		g.proven = func(netip.Addr, []byte, []byte) (frame.ID, bool) {
			if tt.proven {
				return by, true
			}
			return frame.ID{}, false
		}
		if got := g.packet(tt.packet, tt.source); got != tt.ok {
			t.Errorf("%s: passed %v", tt.name, got)
		}
	}
}

// However many addresses somebody sends from, this node answers few pings without a member's proof, and verifies few
// signatures.
func TestUnprovenPacketsShareTheirRates(t *testing.T) {
	member := netip.MustParseAddr("192.0.2.1")
	notice := append([]byte{mlwire.User, wire.KindNotice}, make([]byte, 200)...)
	question := append([]byte{mlwire.User, wire.KindAsk}, make([]byte, 200)...)
	for _, tt := range []struct {
		name  string
		plain []byte
		want  int
	}{
		{"pings", meshtest.OfMemberlist(t, mlwire.Ping, mlwire.PingMessage{}), strayPings},
		{"notices", notice, noticesBurst},
		{"questions", question, elsewhereRate},
		{"answers to pings", meshtest.OfMemberlist(t, mlwire.Ack, mlwire.AckMessage{SeqNo: 1}), sourceBurst},
	} {
		g, _ := testGuard(func(netip.Addr) {})
		g.isMember = func(a netip.Addr) bool { return a == member }
		b, passed := meshtest.Sealed(t, guardKey, 1, tt.plain, nil), 0
		for i, from := 0, netip.MustParseAddr("198.18.0.0"); i < 2*elsewhereRate; i, from = i+1, from.Next() {
			if g.packet(bytes.Clone(b), from) {
				passed++
			}
		}
		if passed != tt.want {
			t.Errorf("%d %s passed, want %d", passed, tt.name, tt.want)
		}
		if !g.packet(bytes.Clone(b), member) {
			t.Errorf("a member has to pay for %s", tt.name)
		}
	}
}

// An answer counts if the node that was pinged proves it, whatever address it comes from. Other answers have no effect,
// but the rest of their packet has.
func TestAnswersProveTheirSender(t *testing.T) {
	a, b, atA, atB := acquainted(t)
	ping := append([]byte{mlwire.CRC, 1, 2, 3, 4}, mlwire.Compound, 1, 0, 0)
	message := meshtest.OfMemberlist(t, mlwire.Ping, mlwire.PingMessage{SeqNo: keptPings + 3, Node: b.id.ID().String()})
	ping[len(ping)-1] = byte(len(message))
	a.sends(meshtest.Sealed(t, guardKey, 1, append(ping, message...), nil), addressOf(b, atB))
	unknown := memberlist.Address{Addr: "192.0.2.9:1", Name: meshtest.Signers[3].ID().String()}
	a.sends(meshtest.Sealed(t, guardKey, 1, meshtest.OfMemberlist(t, mlwire.Ping, mlwire.PingMessage{SeqNo: 4}), nil), unknown)
	third := proverOf(meshtest.Signers[2], map[netip.AddrPort]pki.Identity{atA: a.id})
	answer := func(seq uint32) []byte {
		return meshtest.Sealed(t, guardKey, 1, meshtest.OfMemberlist(t, mlwire.Ack, mlwire.AckMessage{SeqNo: seq}), nil)
	}
	for _, tt := range []struct {
		name   string
		packet []byte
		counts bool
	}{
		{"ok: proven", b.sends(answer(keptPings+3), addressOf(a, atA)), true},
		{"ok: of a node whose key is unknown", answer(4), true},
		{"bad: proven by another", third.sends(answer(keptPings+3), addressOf(a, atA)), false},
		{"bad: not proven", answer(keptPings + 3), false},
		{"bad: nobody was pinged", b.sends(answer(3), addressOf(a, atA)), false},
	} {
		for _, from := range []netip.Addr{atB.Addr(), netip.MustParseAddr("198.51.100.9")} {
			g, _ := testGuard(nil)
			g.isMember, g.proven, g.acked = a.members.(crowd).has, a.check, a.acked
			packet := bytes.Clone(tt.packet)
			if !g.packet(packet, from) {
				t.Fatalf("%s, from %v: dropped", tt.name, from)
			}
			want := byte(mlwire.Nack)
			if tt.counts {
				want = mlwire.Ack
			}
			if text, _, _ := g.decrypt(packet); text[0] != want {
				t.Errorf("%s, from %v: a message of kind %d, want %d", tt.name, from, text[0], want)
			}
		}
	}
}

// What proofs add to the cost of sending a packet and of checking it.
func BenchmarkPacketProof(b *testing.B) {
	from, to, atFrom, atTo := acquainted(b)
	g, _ := testGuard(nil)
	g.keys = func() [][]byte { return [][]byte{guardKey} }
	now := meshtest.Start
	g.now = func() time.Time { now = now.Add(100 * time.Millisecond); return now }
	g.isMember = to.members.(crowd).has
	sink, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		b.Fatal(err)
	}
	defer sink.Close()
	for _, size := range []int{200, wire.MaxPacket} {
		packet := meshtest.Sealed(b, guardKey, 1, wire.AppendPacked([]byte{mlwire.User, wire.KindPush}, meshtest.RawOf(1, size-32)), nil)
		buf, address := new(packetBuffer), addressOf(to, atTo)
		proven := bytes.Clone(from.prove(buf, g, packet, address))
		b.Run(fmt.Sprint("prove/", size), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				from.prove(buf, g, packet, address)
			}
		})
		b.Run(fmt.Sprint("send/", size), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := sink.WriteToUDPAddrPort(packet, sink.LocalAddr().(*net.UDPAddr).AddrPort()); err != nil {
					b.Fatal(err)
				}
			}
		})
		for _, tt := range []struct {
			name   string
			proven func(netip.Addr, []byte, []byte) (frame.ID, bool)
		}{{"receive without/", nil}, {"receive/", to.check}} {
			b.Run(fmt.Sprint(tt.name, size), func(b *testing.B) {
				b.ReportAllocs()
				g.proven = tt.proven
				for b.Loop() {
					if !g.packet(proven, atFrom.Addr()) {
						b.Fatal("dropped")
					}
				}
			})
		}
	}
}
