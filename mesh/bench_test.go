package mesh

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/meshtest"
	"github.com/meshban/meshban/mesh/internal/replica"
	"github.com/meshban/meshban/mesh/internal/wire"
	"github.com/meshban/meshban/mesh/pki"
)

func BenchmarkSign(b *testing.B) {
	f := frame.Frame{Epoch: 1, Issued: simStart, Expires: simStart.Add(time.Hour), Payload: make([]byte, meshtest.Payload)}
	for b.Loop() {
		f.Seq++
		if _, err := signers[0].Sign(f); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	raw := testFrame(b, signers[0], 1, 1, simStart, time.Hour, string(make([]byte, meshtest.Payload))).Raw
	for b.Loop() {
		f, err := frame.Decode(raw)
		if err != nil || f.Verify() != nil {
			b.Fatal(err)
		}
	}
}

// The work of the core's goroutine for a packet, from memberlist's callback to Deliver.
func BenchmarkDeliver(b *testing.B) {
	for _, tt := range []struct {
		name   string
		verify bool
	}{{"fresh", true}, {"duplicate", false}} {
		b.Run(tt.name, func(b *testing.B) {
			m, err := New(Config{Identity: signers[1], Secrets: pki.Secrets{GossipKey: [32]byte{1}}, Epoch: 1, Bind: netip.MustParseAddrPort("127.0.0.1:0")})
			if err != nil {
				b.Fatal(err)
			}
			raws := meshtest.Frames(b, 2000)
			if !tt.verify {
				if err := m.Restore(slices.Values(raws)); err != nil {
					b.Fatal(err)
				}
			}
			i := 0
			for b.Loop() {
				if i == len(raws) && tt.verify {
					b.StopTimer()
					m.core = replica.New(m.id, frame.ID{}, 1, rand.New(rand.NewPCG(1, 1)))
					b.StartTimer()
				}
				i %= len(raws)
				delegate{m}.NotifyMsg(wire.AppendPacked([]byte{wire.KindPush}, raws[i]))
				m.drain(<-m.inbox)
				i++
			}
		})
	}
}

// The same over sockets, including signatures.
func BenchmarkSync100k(b *testing.B) {
	frames := meshtest.Scaled(100_000)
	raws := meshtest.Frames(b, frames)
	for b.Loop() {
		secrets := pki.Secrets{GossipKey: [32]byte{1}}
		source := newNode(b, secrets, newIdentity(b), nil)
		if err := source.Restore(slices.Values(raws)); err != nil {
			b.Fatal(err)
		}
		source.run(b)
		start := time.Now()
		taker := newNode(b, secrets, newIdentity(b), func(c *Config) {
			c.Join, c.Deliver, c.Admitted = []string{source.Addr().String()}, nil, nil
		}).run(b)
		eventually(b, 2*time.Minute, "everything is there", func() bool { return taker.Digest() == source.Digest() })
		b.ReportMetric(time.Since(start).Seconds(), "s")
		b.ReportMetric(float64(taker.Stats().Dropped+source.Stats().Dropped), "dropped")
	}
}

// From Publish to Deliver on the last of ten nodes in one process, over sockets: one frame at a time, as many small ones at
// once as a peer accepts from one origin, and full bulk frames. Between rounds each peer's budget refills.
func BenchmarkPublish(b *testing.B) {
	const nodes = 10
	var mu sync.Mutex
	arrived := make(map[frame.Ref]int)
	last := make(chan frame.Ref, 1<<16)
	secrets := newSecrets(b)
	var all []*testNode
	for i := range nodes {
		all = append(all, newNode(b, secrets, newIdentity(b), func(c *Config) {
			c.Bind = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, byte(i + 1)}), 0) // its own budget at the others
			if i > 0 {
				c.Join = []string{all[0].Addr().String()}
			}
			c.Admitted = nil
			c.Deliver = func(fs []frame.Frame) {
				mu.Lock()
				defer mu.Unlock()
				for _, f := range fs {
					if arrived[f.Ref()]++; arrived[f.Ref()] == nodes-1 {
						delete(arrived, f.Ref())
						last <- f.Ref()
					}
				}
			}
		}).run(b))
	}
	for _, n := range all {
		eventually(b, 30*time.Second, "everybody knows everybody", func() bool { return n.aliveCount() == nodes })
	}
	for _, tt := range []struct {
		name           string
		burst, payload int
		refill         time.Duration
	}{
		{"one", 1, meshtest.Payload, 20 * time.Millisecond},
		{"20-small", 20, meshtest.Payload, 300 * time.Millisecond},
		{"50-full", 50, frame.MaxPayload, 300 * time.Millisecond},
	} {
		b.Run(tt.name, func(b *testing.B) {
			var took []time.Duration
			payload := string(make([]byte, tt.payload))
			before := synced(all)
			for b.Loop() {
				b.StopTimer()
				<-time.After(tt.refill)
				b.StartTimer()
				start := time.Now()
				for range tt.burst {
					publish(b, all[0], payload, time.Hour)
				}
				for range tt.burst {
					<-last
				}
				took = append(took, time.Since(start))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-us")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-us")
			b.ReportMetric(float64(synced(all)-before)/float64(len(took)*tt.burst), "synced/frame")
		})
	}
}

// synced returns the number of frames that came by sync.
func synced(nodes []*testNode) (sum uint64) {
	for _, n := range nodes {
		sum += n.Stats().Synced
	}
	return sum
}
