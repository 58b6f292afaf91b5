package mesh

import (
	"bytes"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/wire"
)

// A node whose clock was far ahead or behind used to be mute, and nobody said so.
func TestClusterNamesClocks(t *testing.T) {
	for _, tt := range []struct {
		name    string
		off     time.Duration
		own     string
		ofOther string
		mute    int // how many others take no ban from it
	}{
		{"ahead", 7 * time.Minute, "this machine's clock is 7m ahead of that of 2 of 2 members: they take no ban from it", "is 7m ahead of this machine's: this node takes no ban from it", 2},
		{"behind", -7 * time.Minute, "this machine's clock is 7m behind that of 2 of 2 members: it takes no ban from them", "is 7m behind this machine's: it takes no ban from this node", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var early sync.Map // frames that the first node refused as too early
				c := newCluster(t, 3, func(i int, cfg *Config) {
					if i == 0 {
						cfg.Early = func(f frame.Frame) { early.Store(string(f.Raw), true) }
					}
				})
				eventually(t, 30*time.Second, "everybody knows everybody", c.allAlive)
				id := c.nodes[2].id
				if err := c.nodes[2].stop(); err != nil {
					t.Fatal(err)
				}
				off := newNode(t, c.secrets, id, c.config(2, func(_ int, cfg *Config) { cfg.Epoch = 2 }))
				off.now = func() time.Time { return time.Now().Add(tt.off) }
				off.run(t)
				says := func(n *testNode, text string) bool {
					return slices.ContainsFunc(n.Faults(), func(f Fault) bool { return f.Kind == ProblemClock && strings.Contains(f.Text, text) })
				}
				eventually(t, 30*time.Second, "it says so of itself", func() bool { return says(off, tt.own) })
				if mute := off.Mute(); len(mute) != tt.mute {
					t.Errorf("%d members take nothing from it, want %d", len(mute), tt.mute)
				}
				if skew, ok := off.ClockSkew(); !ok || (skew-tt.off).Abs() > time.Minute {
					t.Errorf("its clock is %v ahead, %v; want %v", skew, ok, tt.off)
				}
				for _, n := range c.nodes[:2] {
					if n.Mute() != nil {
						t.Error("a node whose clock is right is mute")
					}
					eventually(t, 30*time.Second, "the others name it", func() bool { return says(n, "the clock of "+id.ID().String()+" "+tt.ofOther) })
				}
				if tt.off > 0 {
					f, err := off.Publish(off.now(), []byte("early"), off.now().Add(time.Hour))
					if err != nil {
						t.Fatal(err)
					}
					forged := bytes.Clone(f.Raw)
					forged[len(forged)-1] ^= 1
					c.nodes[0].small(wire.AppendPacked([]byte{wire.KindPush}, forged), new(intake))
					if _, told := early.Load(string(forged)); told {
						t.Error("a forged frame of the future is told")
					}
					eventually(t, 30*time.Second, "the first hears of the frame that it refuses", func() bool { _, told := early.Load(string(f.Raw)); return told })
				}
				if err := off.stop(); err != nil {
					t.Fatal(err)
				}
				for _, n := range c.nodes[:2] {
					eventually(t, 30*time.Second, "nothing is said of who is gone", func() bool { return len(n.Faults()) == 0 })
				}
			})
		})
	}
}

// The mesh used to report that the clock was set if a caller read the clock before the process was stopped for a while.
func TestAPauseIsNoClockSetBack(t *testing.T) {
	n := newNode(t, newSecrets(t), newIdentity(t), nil)
	read := time.Now()
	back := func() (said bool) {
		for _, out := range n.todo {
			said = said || out.Back
		}
		return said
	}
	n.now = func() time.Time { return read.Add(20 * time.Second) }
	n.Expire(n.now())
	n.Expire(read)
	if back() {
		t.Error("the pause counts as a clock that was set back")
	}
	n.now = func() time.Time { return read.Add(-time.Hour) }
	n.Expire(n.now())
	if !back() {
		t.Error("the clock was set back, and that is not noticed")
	}
}
