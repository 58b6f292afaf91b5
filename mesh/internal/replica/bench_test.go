package replica

import (
	"bytes"
	"runtime"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/meshtest"
)

// An empty node gets 100,000 frames from another: the cores' share, without signatures and the network, and the memory of
// the frames held.
func BenchmarkCoreSync100k(b *testing.B) {
	frames := meshtest.Scaled(100_000)
	raws := meshtest.Frames(b, frames)
	for b.Loop() {
		s := newSimulation(b, 2, 1)
		s.now = time.Now()
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		for _, raw := range raws {
			f, err := frame.Decode(bytes.Clone(raw))
			if err != nil {
				b.Fatal(err)
			}
			s.step(0, FramesEvent{Via: ViaRestore, Frames: []frame.Frame{f}})
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(frames), "B/frame")
		start := s.now
		s.connect()
		for s.cores[1].count < frames {
			s.run(10 * time.Millisecond)
		}
		b.ReportMetric(s.now.Sub(start).Seconds(), "simulated-s")
		b.ReportMetric(float64(s.bytes)/float64(frames), "wire-B/frame")
	}
}

// The cost when one of two nodes with a million frames missed a thousand of them: the bytes besides the missing frames,
// and how long after contact both hold the same (100 us to 5 ms one way; the cores' own work is not counted). With
// nothing missing it is the cost of the first exchange.
func BenchmarkCatchUp(b *testing.B) {
	raws := meshtest.Frames(b, meshtest.Scaled(meshtest.CatchUpHeld))
	for _, missed := range []string{"none", "last", "scattered"} {
		b.Run(missed, func(b *testing.B) {
			kept, missing := meshtest.Without(raws, missed)
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
						s.step(i, FramesEvent{Via: ViaRestore, Frames: []frame.Frame{f}})
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
