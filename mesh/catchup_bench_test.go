package mesh

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/pki"
)

const (
	catchUpHeld   = 1_000_000
	catchUpMissed = 1_000
)

// without returns raws split into the frames that a node kept and those it missed: the last ones, like a node that was
// away, or scattered ones, like a node that lost packets.
func without(raws [][]byte, missed string) (kept [][]byte, missing [][]byte) {
	switch missed {
	case "last":
		at := len(raws) - catchUpMissed
		return raws[:at], raws[at:]
	case "scattered":
		gone := make(map[int]bool, catchUpMissed)
		for rng := rand.New(rand.NewPCG(1, 1)); len(gone) < catchUpMissed; {
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

// The cost when one of two nodes with a million frames missed a thousand of them: the bytes beside the missing frames, and
// how long after contact both hold the same (100 us to 5 ms one way; the cores' own work is not counted). With nothing
// missing it is the cost of the first exchange.
func BenchmarkCatchUp(b *testing.B) {
	raws := benchFrames(b, scaled(catchUpHeld))
	for _, missed := range []string{"none", "last", "scattered"} {
		b.Run(missed, func(b *testing.B) {
			kept, missing := without(raws, missed)
			bytesMissing := 0
			for _, raw := range missing {
				bytesMissing += len(raw)
			}
			for b.Loop() {
				b.StopTimer()
				s := newSimulation(b, 2, 1)
				s.now = time.Now()
				for i, held := range [][][]byte{raws, kept} {
					for _, raw := range held {
						f, err := frame.Decode(raw)
						if err != nil {
							b.Fatal(err)
						}
						s.step(i, evFrames{via: viaRestore, frames: []frame.Frame{f}})
					}
				}
				if held, lacks := s.cores[0].count, s.cores[0].count-s.cores[1].count; held != len(raws) || lacks != len(missing) {
					b.Fatalf("%d frames are held, %d of them missed, want %d and %d", held, lacks, len(raws), len(missing))
				}
				b.StartTimer()
				start, bytes := s.now, s.bytes
				s.connect()
				for s.cores[0].root.sum() != s.cores[1].root.sum() || len(s.queue) > 0 {
					s.run(time.Millisecond)
					if s.now.Sub(start) > time.Minute {
						b.Fatal("no agreement")
					}
				}
				b.ReportMetric(s.now.Sub(start).Seconds(), "simulated-s")
				b.ReportMetric(float64(s.bytes-bytes)-float64(bytesMissing), "B-beside")
				b.ReportMetric(float64(len(missing)), "missing")
			}
		})
	}
}

// The same over sockets, including signatures: measured from when the node that missed frames has met the other.
func BenchmarkCatchUpSockets(b *testing.B) {
	raws := benchFrames(b, scaled(catchUpHeld))
	for _, missed := range []string{"last", "scattered"} {
		b.Run(missed, func(b *testing.B) {
			kept, _ := without(raws, missed)
			for b.Loop() {
				secrets := pki.Secrets{GossipKey: [32]byte{1}}
				giver := newNode(b, secrets, newIdentity(b), nil)
				taker := newNode(b, secrets, newIdentity(b), func(c *Config) { c.Deliver, c.Admitted = nil, nil })
				for n, held := range map[*testNode][][]byte{giver: raws, taker: kept} {
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
				if lacks := giver.Stats().Held - taker.Stats().Held; lacks != catchUpMissed {
					b.Fatalf("%d frames are missed, want %d", lacks, catchUpMissed)
				}
				giver.run(b)
				taker.run(b)
				if err := taker.SetJoin([]string{giver.Addr().String()}); err != nil {
					b.Fatal(err)
				}
				met := func() bool {
					return slices.ContainsFunc(taker.Members(), func(m Member) bool { return !m.Self && m.State == StateAlive })
				}
				eventually(b, 10*time.Second, "they meet", met)
				start := time.Now()
				eventually(b, 5*time.Second, "both hold the same", func() bool { return taker.Digest() == giver.Digest() })
				b.ReportMetric(time.Since(start).Seconds(), "s-after-contact")
			}
		})
	}
}
