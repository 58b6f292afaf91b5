package mesh

import (
	"crypto/ed25519"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/meta"
	"github.com/meshban/meshban/mesh/internal/replica"
)

// How long a comparison counts depends on how long a round of pings takes.
func TestConfirmedForAWhile(t *testing.T) {
	for _, tt := range []struct {
		others int
		counts time.Duration
	}{{1, 15 * time.Second}, {2, 18 * time.Second}, {9, time.Minute}} {
		table := newPeerTable(frame.ID{}, nil, func(frame.ID) bool { return true })
		for i := range tt.others {
			id := signers[i%len(signers)]
			if i >= len(signers) {
				id = newIdentity(t)
			}
			n := (&peer{Member: Member{ID: id.ID(), Addr: netip.MustParseAddrPort("192.0.2.2:1")}}).node()
			n.Meta = meta.Data{Protocol: meta.Protocol, Key: id.Public(), Name: "new", Version: "1"}.Encode()
			table.joined(simStart, n, memberJoin)
			table.update(id.ID(), func(p *peer) { p.InSync, p.Confirmed = true, simStart })
		}
		for after, want := range map[time.Duration]bool{tt.counts - time.Millisecond: true, tt.counts: false} {
			for _, m := range table.members(simStart.Add(after)) {
				if m.InSync != want || m.Confirmed != simStart {
					t.Errorf("%d others, after %v: in sync %v, confirmed %v", tt.others, after, m.InSync, m.Confirmed)
				}
			}
		}
	}
}

// The signature of an answer to a ping is valid only for its node, mesh, digest, view and time.
func TestAckIsSigned(t *testing.T) {
	id, mesh, root := signers[0], [16]byte{1}, [32]byte{2}
	signer := &ackSigner{rate: rate.NewLimiter(rate.Every(ackEvery), ackBurst)}
	b := signer.answer(simStart, id, mesh, root, 3)
	a, ok := readAck(b)
	if !ok || a.root != [replica.RootLen]byte{2} || a.view != 3 || a.clock != replica.ClockOf(simStart) {
		t.Fatalf("read as %+v, %v", a, ok)
	}
	for _, tt := range []struct {
		name string
		key  ed25519.PublicKey
		mesh [16]byte
		root [32]byte
		ok   bool
	}{
		{"ok", id.Public(), mesh, root, true},
		{"bad: another node's key", signers[1].Public(), mesh, root, false},
		{"bad: no key known", nil, mesh, root, false},
		{"bad: another mesh", id.Public(), [16]byte{9}, root, false},
		{"bad: another digest", id.Public(), mesh, [32]byte{2, 31: 1}, false},
	} {
		if got := a.signed(tt.key, tt.mesh, tt.root); got != tt.ok {
			t.Errorf("%s: signed is %v", tt.name, got)
		}
	}
	for i := replica.RootLen; i < ackLen; i++ {
		forged := slices.Clone(b)
		forged[i]++
		if a, _ := readAck(forged); a.signed(id.Public(), mesh, root) {
			t.Errorf("byte %d changed: still signed", i)
		}
	}
	for _, bad := range [][]byte{nil, b[:ackLen-1], append(slices.Clone(b), 0)} {
		if _, ok := readAck(bad); ok {
			t.Errorf("%d bytes are read", len(bad))
		}
	}
}

// Endless pings cost few signatures, whatever changes meanwhile, and no answer is older than ackLasts.
func TestAckSignaturesBounded(t *testing.T) {
	signer := &ackSigner{rate: rate.NewLimiter(rate.Every(ackEvery), ackBurst)}
	signed, last := 0, uint64(0)
	const pings, every = 10_000, time.Millisecond
	for i := range pings {
		now := simStart.Add(time.Duration(i) * every)
		a, _ := readAck(signer.answer(now, signers[0], [16]byte{}, [32]byte{byte(i), byte(i >> 8)}, 0))
		if a.clock != last {
			signed, last = signed+1, a.clock
		}
		if age := replica.ClockOf(now) - a.clock; age >= uint64(ackLasts.Milliseconds()) {
			t.Fatalf("an answer of %d ms ago", age)
		}
	}
	if most := ackBurst + int(pings*every/ackEvery) + int(pings*every/ackLasts) + 1; signed > most {
		t.Errorf("%d signatures, want at most %d", signed, most)
	}
}
