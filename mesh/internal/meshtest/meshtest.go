// Package meshtest holds what the tests of mesh and of the packages below it share: origins, and frames signed by them.
package meshtest

import (
	"crypto/ed25519"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/pki"
)

// TB is what testing.T and rapid.T have in common.
type TB interface {
	Helper()
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Fatal(args ...any)
}

// Start is when simulated histories begin.
var Start = time.UnixMilli(1_800_000_000_000).UTC()

// Signers are origins; making keys is slow.
var Signers = func() []pki.Identity {
	var ids []pki.Identity
	for range 4 {
		_, key, err := ed25519.GenerateKey(nil)
		if err != nil {
			panic(err)
		}
		ids = append(ids, pki.IdentityOf(key))
	}
	return ids
}()

// Frame signs a frame of the mesh with the zero id.
func Frame(tb TB, id pki.Identity, epoch, seq uint64, issued time.Time, life time.Duration, payload string) frame.Frame {
	f, err := id.Sign(frame.Frame{Epoch: epoch, Seq: seq, Issued: issued, Expires: issued.Add(life), Payload: []byte(payload)})
	if err != nil {
		tb.Fatal(err)
	}
	return f
}

// Payload makes a frame of about 200 bytes, like one ban.
const Payload = 55

// Frames signs n frames of one origin, each the size of one ban.
func Frames(b *testing.B, n int) [][]byte {
	raws := make([][]byte, n)
	now := time.Now()
	var wg sync.WaitGroup
	for part := range runtime.NumCPU() {
		wg.Go(func() {
			for i := part; i < n; i += runtime.NumCPU() {
				f, err := Signers[0].Sign(frame.Frame{Epoch: 1, Seq: uint64(i + 1), Issued: now, Expires: now.Add(time.Hour), Payload: make([]byte, Payload)})
				if err != nil {
					panic(err)
				}
				raws[i] = f.Raw
			}
		})
	}
	wg.Wait()
	return raws
}

// Scaled returns n, or a fiftieth of it under -short: enough to see that a benchmark measures something.
func Scaled(n int) int {
	if testing.Short() {
		return n / 50
	}
	return n
}

// CatchUpHeld and CatchUpMissed are how many frames a node holds and missed in the benchmarks of catching up.
const (
	CatchUpHeld   = 1_000_000
	CatchUpMissed = 1_000
)

// Without returns raws split into the frames that a node kept and those it missed: the last ones, like a node that was
// away, or scattered ones, like a node that lost packets.
func Without(raws [][]byte, missed string) (kept [][]byte, missing [][]byte) {
	switch missed {
	case "last":
		at := len(raws) - CatchUpMissed
		return raws[:at], raws[at:]
	case "scattered":
		gone := make(map[int]bool, CatchUpMissed)
		for rng := rand.New(rand.NewPCG(1, 1)); len(gone) < CatchUpMissed; {
			gone[rng.IntN(len(raws))] = true
		}
		for i, raw := range raws {
			if gone[i] {
				missing = append(missing, raw)
			} else {
				kept = append(kept, raw)
			}
		}
		return kept, missing
	}
	return raws, nil
}

// Authority returns a new authority.
func Authority(tb testing.TB) pki.Authority {
	tb.Helper()
	a, err := pki.NewAuthority()
	if err != nil {
		tb.Fatal(err)
	}
	return a
}

// GossipKey returns a gossip key.
func GossipKey(generation uint32, b byte) pki.GossipKey {
	return pki.GossipKey{Generation: generation, Key: [32]byte{b, byte(generation)}}
}

// Grant returns a grant of keys to nodes.
func Grant(tb TB, a pki.Authority, serial uint64, issued time.Time, keys []pki.GossipKey, to ...pki.Identity) pki.Grant {
	var nodes []ed25519.PublicKey
	for _, id := range to {
		nodes = append(nodes, id.Public())
	}
	grants, err := a.Grant(issued, [16]byte{1}, 1<<62+serial, keys, nodes) // above any serial made from the time
	if err != nil {
		tb.Fatal(err)
	}
	return grants[0]
}
