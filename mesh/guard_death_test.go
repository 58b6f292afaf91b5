package mesh

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/meshban/meshban/mesh/frame"
)

// exchangeOf encrypts a membership exchange, as it arrives by stream.
func exchangeOf(t testing.TB, key []byte, members ...mlNodeState) []byte {
	t.Helper()
	plain := ofMemberlist(t, mlPushPull, struct{ Nodes int }{len(members)})
	for _, s := range members {
		plain = append(plain, ofMemberlist(t, 0, s)[1:]...)
	}
	head := binary.BigEndian.AppendUint32([]byte{mlEncrypt}, uint32(sealOverhead+len(plain)))
	return append(head, sealed(t, key, 1, plain, head)...)
}

// A claim that a member is dead makes it suspect, wherever the claim stands in a packet, and leaves the rest of the packet
// unchanged. A claim that it has left counts if the member signed it.
func TestGuardDoubtsDeath(t *testing.T) {
	about, other := signers[0].ID(), signers[1].ID()
	said := func(from frame.ID) []byte {
		return ofMemberlist(t, mlDead, mlAccusation{7, about.String(), from.String()})
	}
	doubted := func(from frame.ID) []byte { return append([]byte{mlSuspect}, said(from)[1:]...) }
	compound := func(part []byte) []byte {
		ping := []byte{mlPing, 0x80}
		b := []byte{mlCompound, 3, 0, 2, 0, byte(len(part)), 0, 2}
		return append(append(append(b, ping...), part...), ping...)
	}
	checked := func(b []byte) []byte {
		return append(binary.BigEndian.AppendUint32([]byte{mlCRC}, crc32.ChecksumIEEE(b)), b...)
	}
	for _, tt := range []struct {
		name  string
		from  frame.ID
		signs bool
		stays bool
	}{
		{"bad: dead, another says", other, false, false},
		{"bad: dead, another says, and it leaves", other, true, false},
		{"bad: left, not signed", about, false, false},
		{"ok: left", about, true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g, _ := testGuard(func(netip.Addr) {})
			g.leaving = func(id frame.ID) bool { return tt.signs && id == about }
			was, want := said(tt.from), said(tt.from)
			if !tt.stays {
				want = doubted(tt.from)
			}
			for _, wrap := range []func([]byte) []byte{bytes.Clone, compound, checked, func(b []byte) []byte { return checked(compound(b)) }} {
				b := sealed(t, guardKey, 1, wrap(was), nil)
				if !g.packet(b, netip.MustParseAddr("192.0.2.1")) {
					t.Fatal("the packet was dropped")
				}
				if got, _, ok := g.decrypt(b); !ok || !bytes.Equal(got, wrap(want)) {
					t.Errorf("memberlist sees %x, %v; want %x", got, ok, wrap(want))
				}
			}
		})
	}
}

// In a membership exchange, a member that has left without a signed goodbye counts as dead, which memberlist makes suspect.
func TestGuardDoubtsDeathInExchange(t *testing.T) {
	g, _ := testGuard(func(netip.Addr) {})
	g.leaving = func(id frame.ID) bool { return id == signers[3].ID() }
	var members, want []mlNodeState
	for i, state := range []int{mlStateAlive, mlStateLeft, mlStateDead, mlStateLeft, 1, mlStateLeft, mlStateAlive} {
		a := aliveOf(signers[i%len(signers)])
		s := mlNodeState{a.Node, a.Addr, a.Port, a.Meta, a.Incarnation, state, a.Vsn}
		members = append(members, s)
		if state == mlStateLeft && !g.leaves(s.Name) {
			s.State = mlStateDead
		}
		want = append(want, s)
	}
	for n := range len(members) + 1 {
		b, err := g.stream(exchangeOf(t, guardKey, members[:n]...), netip.Addr{})
		if err != nil {
			t.Fatal(err)
		}
		a, err := g.aead(guardKey)
		if err != nil {
			t.Fatal(err)
		}
		plain, err := a.Open(nil, b[6:6+nonceLen], b[6+nonceLen:], b[:5])
		if err != nil || int(binary.BigEndian.Uint32(b[1:])) != len(b)-5 {
			t.Fatalf("%d members: %d bytes, head %x, %v", n, len(b), b[:5], err)
		}
		dec := codec.NewDecoderBytes(plain[1:], &codec.MsgpackHandle{})
		var head struct{ Nodes int }
		if err := dec.Decode(&head); err != nil || head.Nodes != n {
			t.Fatalf("head %+v, %v", head, err)
		}
		for _, want := range want[:n] {
			var got mlNodeState
			if err := dec.Decode(&got); err != nil || got.Name != want.Name || got.State != want.State || !bytes.Equal(got.Meta, want.Meta) {
				t.Errorf("member %+v, %v; want %+v", got, err, want)
			}
		}
		if dec.NumBytesRead() != len(plain)-1 {
			t.Errorf("%d of %d bytes are read", dec.NumBytesRead(), len(plain)-1)
		}
	}
}

// told counts the events of a kind that the nodes were told about a member.
func (c *cluster) told(of frame.ID, kind string) (n int) {
	for _, other := range c.nodes {
		other.mu.Lock()
		for _, e := range other.events {
			if e.Kind == kind && e.Member.ID == of {
				n++
			}
		}
		other.mu.Unlock()
	}
	return n
}

// A holder of the mesh's key claims, under a member's present incarnation, that the member is dead or has left: nobody
// believes it. A member that does crash is dead for all, and one that leaves has left.
func TestClusterForgedDeath(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t, 5, nil)
		eventually(t, 30*time.Second, "everybody knows everybody", c.allAlive)
		port, err := c.hub.open(netip.MustParseAddrPort("10.6.6.6:7946"))
		if err != nil {
			t.Fatal(err)
		}
		key, victim := c.secrets.GossipKey[:], c.nodes[4]
		present := victim.ceiling.HeardMost
		byPacket := func(to netip.AddrPort, from frame.ID) {
			b := ofMemberlist(t, mlDead, mlAccusation{present(), victim.id.ID().String(), from.String()})
			if _, err := port.(*hubPort).WriteTo(sealed(t, key, 1, b, nil), to.String()); err != nil {
				t.Fatal(err)
			}
		}
		byStream := func(to netip.AddrPort, state int) {
			conn, err := port.DialTimeout(to.String(), time.Second)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			n := victim.ml.Load().LocalNode()
			b := exchangeOf(t, key, mlNodeState{n.Name, n.Addr, n.Port, n.Meta, present(), state, mlVersions[:]})
			if _, err := conn.Write(b); err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, conn) // until the node has read it
		}
		for range 20 {
			for i, to := range c.addrs {
				byPacket(to, c.nodes[(i+1)%5].id.ID())
				byPacket(to, victim.id.ID())
				byStream(to, mlStateDead)
				byStream(to, mlStateLeft)
			}
			<-time.After(time.Second)
		}
		<-time.After(time.Minute)
		if fails, leaves := c.told(victim.id.ID(), memberFail), c.told(victim.id.ID(), memberLeave); fails+leaves > 0 || !c.allAlive() {
			t.Errorf("taken for dead %d times, for gone %d times", fails, leaves)
		}
		if err := port.Shutdown(); err != nil {
			t.Fatal(err)
		}

		left := c.nodes[3]
		if err := left.stop(); err != nil {
			t.Fatal(err)
		}
		c.nodes = append(c.nodes[:3:3], victim)
		eventually(t, 5*time.Second, "all know that it has left", func() bool { return c.told(left.id.ID(), memberLeave) == 4 })
		if n := c.told(left.id.ID(), memberFail); n > 0 {
			t.Errorf("who left was dead %d times", n)
		}
		crashed := c.addrs[4]
		c.hub.setCut(func(from, to netip.AddrPort) bool { return from == crashed || to == crashed })
		c.nodes = c.nodes[:3]
		begun := time.Now()
		eventually(t, time.Minute, "all know that it is dead", func() bool { return c.told(victim.id.ID(), memberFail) == 3 })
		t.Logf("dead for all after %v", time.Since(begun))
		c.hub.setCut(nil)
	})
}
