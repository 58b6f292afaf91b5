package mesh

import (
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/meshtest"
	"github.com/meshban/meshban/mesh/internal/mlwire"
	"github.com/meshban/meshban/mesh/internal/wire"
)

// A daemon that takes long to read an origin's frames is not asked to do so again soon.
func TestRetoldTakesASmallShare(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const took, lasts = time.Second, 10 * time.Minute
		calls := 0
		m := &Mesh{}
		m.cfg.Retold = func(iter.Seq[frame.Frame]) {
			calls++
			<-time.After(took)
		}
		for end := time.Now().Add(lasts); time.Now().Before(end); <-time.After(100 * time.Millisecond) {
			m.replaced = map[frame.ID]struct{}{{1}: {}}
			m.retell()
		}
		if least, most := int(lasts/(2*retellShare*took)), int(lasts/(retellShare*took))+1; calls < least || calls > most {
			t.Errorf("called %d times in %v, want %d to %d", calls, lasts, least, most)
		}
	})
}

// A node signs two frames under each number, and different nodes hear them in different orders. A node that has taken the
// losing frame is told so before the other comes, and then reads all of its origin's frames, at most every few seconds
// however many there are.
func TestClusterReplacedFrames(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var mu sync.Mutex
		says := make([]map[frame.Ref]string, 3) // what a daemon would believe
		read := make([]int, 3)                  // calls of Retold
		c := newCluster(t, 3, func(i int, cfg *Config) {
			says[i] = make(map[frame.Ref]string)
			cfg.Deliver = func(fs []frame.Frame) {
				mu.Lock()
				defer mu.Unlock()
				for _, f := range fs {
					if _, ok := says[i][f.Ref()]; ok {
						t.Errorf("node %d was given another frame %v and not told that the first is void", i, f.Ref())
					}
					says[i][f.Ref()] = string(f.Payload)
				}
			}
			cfg.Replaced = func(fs []frame.Frame) {
				mu.Lock()
				defer mu.Unlock()
				for _, f := range fs {
					if says[i][f.Ref()] != string(f.Payload) {
						t.Errorf("node %d was told that %q is void, which it had not heard", i, f.Payload)
					}
					delete(says[i], f.Ref())
				}
			}
			cfg.Retold = func(live iter.Seq[frame.Frame]) {
				mu.Lock()
				defer mu.Unlock()
				read[i]++
				for f := range live {
					if f.Origin != signers[0].ID() {
						t.Errorf("node %d reads what %v says, of which nothing was replaced", i, f.Origin)
					}
				}
			}
		})
		eventually(t, 30*time.Second, "everybody knows everybody", c.allAlive)
		publish(t, c.nodes[2], "an honest one", time.Hour)
		port, err := c.hub.open(netip.MustParseAddrPort("10.6.6.6:7946"))
		if err != nil {
			t.Fatal(err)
		}
		const numbers = 100
		for seq := range uint64(numbers) {
			var twins []frame.Frame
			for i := range 2 {
				f, err := signers[0].Sign(frame.Frame{
					MeshID: c.secrets.MeshID, Epoch: 1, Seq: seq + 1, Issued: time.Now(), Expires: time.Now().Add(time.Hour),
					Payload: fmt.Appendf(nil, "%d of %d", i, seq),
				})
				if err != nil {
					t.Fatal(err)
				}
				twins = append(twins, f)
			}
			for i, to := range c.addrs {
				msg := append([]byte{mlwire.User}, wire.Pack(wire.KindPush, [][]byte{twins[i%2].Raw})[0]...)
				if _, err := port.(*hubPort).WriteTo(meshtest.Sealed(t, c.secrets.GossipKey[:], 1, msg, nil), to.String()); err != nil {
					t.Fatal(err)
				}
			}
			<-time.After(100 * time.Millisecond)
		}
		eventually(t, time.Minute, "all hold the same", func() bool { return sameDigest(c.nodes) })
		<-time.After(2 * idleWake)
		if err := port.Shutdown(); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		defer mu.Unlock()
		for i, n := range c.nodes {
			held := 0
			for f := range n.live(nil) {
				if f.Origin == signers[0].ID() {
					held++
					if says[i][f.Ref()] != string(f.Payload) {
						t.Errorf("node %d believes %q of %v, want %q", i, says[i][f.Ref()], f.Ref(), f.Payload)
					}
				}
			}
			if held != numbers {
				t.Errorf("node %d holds %d frames, want %d", i, held, numbers)
			}
		}
		if most := int(40*time.Second/retellEvery) + 1; slices.Max(read) == 0 || slices.Max(read) > most {
			t.Errorf("read %v times, want at most %d", read, most)
		}
	})
}
