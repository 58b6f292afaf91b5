package mesh

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/meta"
	"github.com/meshban/meshban/mesh/internal/wire"
	"github.com/meshban/meshban/mesh/pki"
)

// A goodbye counts if the leaving member signed it for this mesh a short while ago, and it is news.
func TestGoodbyeIsSigned(t *testing.T) {
	leaver, other := signers[0], signers[1]
	id := leaver.ID()
	secrets := newSecrets(t)
	now := time.Now()
	said := func(id pki.Identity, mesh [16]byte, at time.Time) []byte {
		return bye{signed: signed{MeshID: mesh}, Issued: at}.encode(id)
	}
	good := said(leaver, secrets.MeshID, now)
	forged := slices.Clone(good)
	forged[len(forged)-1]++
	inName := slices.Clone(good) // the other node's signature under the leaver's words
	b, err := decodeBye(good[1:])
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := decodeBye(said(other, secrets.MeshID, now)[1:])
	if err != nil {
		t.Fatal(err)
	}
	copy(inName[1+len(b.body):], theirs.sig)
	for _, tt := range []struct {
		name string
		b    []byte
		left bool
	}{
		{"ok", good, true},
		{"bad: its id alone", append([]byte{wire.KindBye}, id[:]...), false},
		{"bad: another signature", forged, false},
		{"bad: signed by another member", inName, false},
		{"bad: another member leaves", said(other, secrets.MeshID, now), false},
		{"bad: another mesh", said(leaver, [16]byte{1}, now), false},
		{"bad: old", said(leaver, secrets.MeshID, now.Add(-frame.FutureSkew-time.Second)), false},
		{"bad: of the future", said(leaver, secrets.MeshID, now.Add(frame.FutureSkew+time.Second)), false},
		{"bad: cut off", good[:len(good)-1], false},
		{"bad: something behind", append(slices.Clone(good), 0), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t, secrets, newIdentity(t), nil)
			n.now = func() time.Time { return now }
			node := (&peer{Member: Member{ID: leaver.ID(), Addr: netip.MustParseAddrPort("192.0.2.2:1")}}).node()
			node.Meta = meta.Data{Protocol: meta.Protocol, Key: leaver.Public(), Name: "web1", Version: "1"}.Encode()
			n.peers.joined(now, node, memberJoin)
			n.small(tt.b, &intake{})
			if got := n.peers.Leaving(now, leaver.ID()); got != tt.left {
				t.Errorf("leaving: %v", got)
			}
			// It comes back: an earlier goodbye does not count again.
			n.peers.joined(now, node, memberJoin)
			n.small(tt.b, &intake{})
			if n.peers.Leaving(now, leaver.ID()) {
				t.Error("an old goodbye counts once more")
			}
		})
	}
}
