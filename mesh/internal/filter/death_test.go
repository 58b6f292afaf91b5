package filter

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"net/netip"
	"testing"

	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/meshtest"
	"github.com/meshban/meshban/mesh/internal/mlwire"
)

// A claim that a member is dead makes it suspect, wherever the claim stands in a packet, and leaves the rest of the packet
// unchanged. A claim that it has left counts if the member signed it.
func TestGuardDoubtsDeath(t *testing.T) {
	about, other := meshtest.Signers[0].ID(), meshtest.Signers[1].ID()
	said := func(from frame.ID) []byte {
		return meshtest.OfMemberlist(t, mlwire.Dead, mlwire.Accusation{Incarnation: 7, Node: about.String(), From: from.String()})
	}
	doubted := func(from frame.ID) []byte { return append([]byte{mlwire.Suspect}, said(from)[1:]...) }
	compound := func(part []byte) []byte {
		ping := []byte{mlwire.Ping, 0x80}
		b := []byte{mlwire.Compound, 3, 0, 2, 0, byte(len(part)), 0, 2}
		return append(append(append(b, ping...), part...), ping...)
	}
	checked := func(b []byte) []byte {
		return append(binary.BigEndian.AppendUint32([]byte{mlwire.CRC}, crc32.ChecksumIEEE(b)), b...)
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
				b := meshtest.Sealed(t, guardKey, 1, wrap(was), nil)
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
	g.leaving = func(id frame.ID) bool { return id == meshtest.Signers[3].ID() }
	var members, want []mlwire.NodeState
	for i, state := range []int{mlwire.StateAlive, mlwire.StateLeft, mlwire.StateDead, mlwire.StateLeft, 1, mlwire.StateLeft, mlwire.StateAlive} {
		a := aliveOf(meshtest.Signers[i%len(meshtest.Signers)])
		s := a.State(state)
		members = append(members, s)
		if state == mlwire.StateLeft && !g.leaves(s.Name) {
			s.State = mlwire.StateDead
		}
		want = append(want, s)
	}
	for n := range len(members) + 1 {
		b, err := g.stream(meshtest.ExchangeOf(t, guardKey, members[:n]...), netip.Addr{})
		if err != nil {
			t.Fatal(err)
		}
		a, err := g.aead(guardKey)
		if err != nil {
			t.Fatal(err)
		}
		plain, err := a.Open(nil, b[6:6+mlwire.NonceLen], b[6+mlwire.NonceLen:], b[:5])
		if err != nil || int(binary.BigEndian.Uint32(b[1:])) != len(b)-5 {
			t.Fatalf("%d members: %d bytes, head %x, %v", n, len(b), b[:5], err)
		}
		dec := codec.NewDecoderBytes(plain[1:], &codec.MsgpackHandle{})
		var head struct{ Nodes int }
		if err := dec.Decode(&head); err != nil || head.Nodes != n {
			t.Fatalf("head %+v, %v", head, err)
		}
		for _, want := range want[:n] {
			var got mlwire.NodeState
			if err := dec.Decode(&got); err != nil || got.Name != want.Name || got.State != want.State || !bytes.Equal(got.Meta, want.Meta) {
				t.Errorf("member %+v, %v; want %+v", got, err, want)
			}
		}
		if dec.NumBytesRead() != len(plain)-1 {
			t.Errorf("%d of %d bytes are read", dec.NumBytesRead(), len(plain)-1)
		}
	}
}
