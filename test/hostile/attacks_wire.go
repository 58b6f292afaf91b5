package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/meshban/meshban/mesh/frame"
)

// claim announces, signed and in its own name, that this member is at each of its targets' addresses in turn.
func claim(ctx context.Context, w *world) error {
	if len(w.bans) == 0 {
		return errors.New("no address to claim")
	}
	every(ctx, 20, func(i int) {
		addr := netip.AddrPortFrom(w.bans[i%len(w.bans)].Addr(), 7946)
		m := meta(w.key.Public().(ed25519.PublicKey), "hostile", "1", place(w.key, w.secrets.MeshID, addr), 0)
		a := alive{uint32(1000 + i), w.id.String(), addr.Addr().AsSlice(), addr.Port(), m, versions}
		w.packet(encoded(mlAlive, a))
		if i%20 == 10 { // a dead member may come back at another address
			w.packet(encoded(mlDead, dead{uint32(1000 + i), w.id.String(), w.id.String()}))
		}
	})
	return nil
}

// oddVersions invents an uncertified member that speaks other versions of memberlist's protocol. memberlist refuses to
// exchange a membership that contains such a member.
func oddVersions(ctx context.Context, w *world) error {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	odd := [][]byte{{5, 5, 5, 0, 0, 0}, {1, 1, 1, 0, 0, 0}, {1, 5, 2, 3, 4, 3}, {1, 5, 2, 0, 255, 1}, {1, 5, 2, 0, 0}, nil}
	addr := netip.AddrPortFrom(w.self.Addr(), 17946)
	m := meta(pub, "odd", "1", place(key, w.secrets.MeshID, addr), 0)
	every(ctx, 10, func(i int) {
		a := alive{uint32(1 + i), frame.IDOf(pub).String(), addr.Addr().AsSlice(), addr.Port(), m, odd[i%len(odd)]}
		w.packet(encoded(mlAlive, a))
		w.packet(compound(encoded(mlAlive, a), encoded(mlAlive, a)))
		if i%10 == 0 {
			s := nodeState{Name: a.Node, Addr: a.Addr, Port: a.Port, Meta: a.Meta, Incarnation: a.Incarnation, Vsn: a.Vsn}
			w.streams(1, join(encoded(mlPushPull, pushPullHeader{Nodes: 1}), encoded(0, s)[1:]))
		}
	})
	return nil
}

// nodeState is a member in a push/pull exchange of the membership.
type nodeState struct {
	Name        string
	Addr        []byte
	Port        uint16
	Meta        []byte
	Incarnation uint32
	State       int
	Vsn         []uint8
}

// compound puts memberlist messages into one packet.
func compound(parts ...[]byte) []byte {
	b := []byte{mlCompound, byte(len(parts))}
	for _, p := range parts {
		b = binary.BigEndian.AppendUint16(b, uint16(len(p)))
	}
	return append(b, join(parts...)...)
}

// question returns a question, in this member's name, that asks the member to for an answer to replyTo.
func (w *world) question(to frame.ID, nonce []byte, replyTo string) []byte {
	body := join(array(6), number(1), bin(w.secrets.MeshID[:]), bin(to[:]), bin(nonce), text(replyTo), bin(w.key.Public().(ed25519.PublicKey)))
	return join([]byte{5}, body, ed25519.Sign(w.key, append([]byte("meshban ask v1\x00"), body...)))
}
