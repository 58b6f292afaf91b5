package mesh

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/internal/meshtest"
	"github.com/meshban/meshban/mesh/pki"
)

// The same over sockets, including signatures: measured from when the node that missed frames has met the other.
func BenchmarkCatchUpSockets(b *testing.B) {
	raws := meshtest.Frames(b, meshtest.Scaled(meshtest.CatchUpHeld))
	for _, missed := range []string{"last", "scattered"} {
		b.Run(missed, func(b *testing.B) {
			kept, _ := meshtest.Without(raws, missed)
			for b.Loop() {
				secrets := pki.Secrets{GossipKey: [32]byte{1}}
				source := newNode(b, secrets, newIdentity(b), nil)
				taker := newNode(b, secrets, newIdentity(b), func(c *Config) { c.Deliver, c.Admitted = nil, nil })
				for n, held := range map[*testNode][][]byte{source: raws, taker: kept} {
					if err := n.Restore(func(yield func([]byte) bool) {
						for _, raw := range held {
							if !yield(bytes.Clone(raw)) {
								return
							}
						}
					}); err != nil {
						b.Fatal(err)
					}
				}
				if lacks := source.Stats().Held - taker.Stats().Held; lacks != meshtest.CatchUpMissed {
					b.Fatalf("%d frames are missed, want %d", lacks, meshtest.CatchUpMissed)
				}
				source.run(b)
				taker.run(b)
				if err := taker.SetJoin([]string{source.Addr().String()}); err != nil {
					b.Fatal(err)
				}
				met := func() bool {
					return slices.ContainsFunc(taker.Members(), func(m Member) bool { return !m.Self && m.State == StateAlive })
				}
				eventually(b, 10*time.Second, "they meet", met)
				start := time.Now()
				eventually(b, 5*time.Second, "both hold the same", func() bool { return taker.Digest() == source.Digest() })
				b.ReportMetric(time.Since(start).Seconds(), "s-after-contact")
			}
		})
	}
}
