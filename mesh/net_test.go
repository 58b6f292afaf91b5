package mesh

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/filter"
	"github.com/meshban/meshban/mesh/internal/replica"
	"github.com/meshban/meshban/mesh/pki"
)

// testNode is a Mesh with its callbacks recorded.
type testNode struct {
	*Mesh
	id   pki.Identity
	stop func() error // ends Run and returns its error

	mu        sync.Mutex
	delivered []frame.Frame
	stored    map[frame.Ref][]byte
	problems  []string
	events    []MemberEvent
	remember  []Peer
}

func newIdentity(tb testing.TB) pki.Identity {
	tb.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		tb.Fatal(err)
	}
	return pki.IdentityOf(key)
}

func newSecrets(tb testing.TB) pki.Secrets {
	tb.Helper()
	s, err := pki.NewSecrets()
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// newNode makes a node that is not running; edit may change its configuration.
func newNode(tb testing.TB, secrets pki.Secrets, id pki.Identity, edit func(*Config)) *testNode {
	tb.Helper()
	n := &testNode{id: id, stored: make(map[frame.Ref][]byte)}
	cfg := Config{
		Identity: id, Secrets: secrets, Name: "node-" + id.ID().Short(), Version: "test", Epoch: 1,
		Bind:   netip.MustParseAddrPort("127.0.0.1:0"),
		Logger: slog.New(slog.DiscardHandler),
		Deliver: func(fs []frame.Frame) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.delivered = append(n.delivered, fs...)
		},
		Admitted: func(fs []frame.Frame) {
			n.mu.Lock()
			defer n.mu.Unlock()
			for _, f := range fs {
				n.stored[f.Ref()] = f.Raw
			}
		},
		Expired: func(refs []frame.Ref) {
			n.mu.Lock()
			defer n.mu.Unlock()
			for _, r := range refs {
				delete(n.stored, r)
			}
		},
		OnMember: func(e MemberEvent) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.events = append(n.events, e)
		},
		OnProblem: func(kind Problem, detail string) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.problems = append(n.problems, string(kind)+": "+detail)
		},
		PeersChanged: func(p []Peer) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.remember = p
		},
	}
	if edit != nil {
		edit(&cfg)
	}
	m, err := New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	n.Mesh = m
	return n
}

// run starts a node and waits until its sockets are open; the test's end stops it.
func (n *testNode) run(tb testing.TB) *testNode {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	n.stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	tb.Cleanup(func() {
		if err := n.stop(); err != nil {
			tb.Errorf("Run: %v", err)
		}
	})
	select {
	case <-n.Ready():
	case err := <-done:
		done <- err
		tb.Fatalf("Run ended at once: %v", err)
	case <-time.After(30 * time.Second):
		tb.Fatal("not ready after 30 s")
	}
	return n
}

func (n *testNode) deliveredCount() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.delivered)
}

func (n *testNode) problemsSeen() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]string(nil), n.problems...)
}

// aliveCount returns how many members a node considers alive, including itself.
func (n *testNode) aliveCount() int {
	count := 0
	for _, m := range n.Members() {
		if m.State == StateAlive {
			count++
		}
	}
	return count
}

// eventually polls ok until it holds or the time is over.
func eventually(tb testing.TB, within time.Duration, what string, ok func() bool) {
	tb.Helper()
	tick := time.NewTicker(max(within/1000, time.Millisecond))
	defer tick.Stop()
	end := time.NewTimer(within)
	defer end.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-end.C:
			tb.Fatalf("not within %v: %s", within, what)
		}
	}
}

func sameDigest(nodes []*testNode) bool {
	for _, n := range nodes {
		if n.Digest() != nodes[0].Digest() {
			return false
		}
	}
	return true
}

func publish(tb testing.TB, n *testNode, text string, life time.Duration) frame.Frame {
	tb.Helper()
	now := time.Now()
	f, err := n.Publish(now, []byte(text), now.Add(life))
	if err != nil {
		tb.Fatalf("publish %q: %v", text, err)
	}
	return f
}

func TestSockets(t *testing.T) {
	t.Parallel()
	secrets := newSecrets(t)
	var nodes []*testNode
	for i := range 3 {
		nodes = append(nodes, newNode(t, secrets, newIdentity(t), func(c *Config) {
			c.Bind = netip.MustParseAddrPort(fmt.Sprintf("127.0.0.%d:0", i+1))
			c.Name = fmt.Sprintf("n%d", i)
			if i > 0 {
				c.Join = []string{nodes[0].Addr().String()}
			}
		}).run(t))
	}
	for _, n := range nodes {
		eventually(t, 30*time.Second, "all members are alive", func() bool { return n.aliveCount() == 3 })
	}
	f := publish(t, nodes[1], "hello", time.Hour)
	for _, n := range []*testNode{nodes[0], nodes[2]} {
		eventually(t, 30*time.Second, "the frame arrives", func() bool { return n.deliveredCount() == 1 })
		n.mu.Lock()
		if got := n.delivered[0]; string(got.Payload) != "hello" || got.Ref() != f.Ref() {
			t.Errorf("delivered %+v", got)
		}
		n.mu.Unlock()
	}
	if nodes[1].deliveredCount() != 0 {
		t.Error("a node's own frame was delivered to it")
	}
	if !sameDigest(nodes) {
		t.Error("digests differ")
	}
	for _, n := range nodes {
		eventually(t, 30*time.Second, "all are known to be in sync", func() bool {
			for _, m := range n.Members() {
				if !m.InSync {
					return false
				}
			}
			return true
		})
	}
	start := time.Now()
	if err := nodes[2].stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took >= filter.StreamTimeout {
		t.Errorf("leaving took %v", took)
	}
	eventually(t, 30*time.Second, "the leaving is seen", func() bool {
		for _, m := range nodes[0].Members() {
			if m.ID == nodes[2].id.ID() {
				return m.State == StateLeft
			}
		}
		return false
	})
	if _, err := nodes[2].Publish(time.Now(), nil, time.Now().Add(time.Hour)); err != ErrStopped {
		t.Errorf("publish after the end: %v", err)
	}
}

// Everything that Run started is gone when it ends, except memberlist's last ping, which waits for its timer.
func TestRunLeavesNothing(t *testing.T) {
	before := runtime.NumGoroutine()
	secrets := newSecrets(t)
	a := newNode(t, secrets, newIdentity(t), nil).run(t)
	b := newNode(t, secrets, newIdentity(t), func(c *Config) { c.Join = []string{a.Addr().String(), "127.0.0.9:1"} }).run(t)
	eventually(t, 30*time.Second, "both are alive", func() bool { return a.aliveCount() == 2 && b.aliveCount() == 2 })
	if _, err := net.Dial("tcp", a.Addr().String()); err != nil { // stays open and silent
		t.Fatal(err)
	}
	last := publish(t, a, "on the way out", time.Hour)
	for _, n := range []*testNode{a, b} {
		start := time.Now()
		if err := n.stop(); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took >= filter.StreamTimeout {
			t.Errorf("Run took %v to end", took)
		}
	}
	b.mu.Lock()
	if _, ok := b.stored[last.Ref()]; !ok {
		t.Error("what was published just before the end did not go out")
	}
	b.mu.Unlock()
	eventually(t, 2*maxAwareness*replica.ProbeInterval, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= before })
}

// A node with much to catch up on gets a fresh frame long before it has finished.
func TestFreshFramePassesSync(t *testing.T) {
	const old = 3000
	secrets := newSecrets(t)
	source := newNode(t, secrets, newIdentity(t), nil)
	now := time.Now()
	var raws [][]byte
	for seq := range uint64(old) {
		f, err := signers[0].Sign(frame.Frame{MeshID: secrets.MeshID, Epoch: 1, Seq: seq + 1, Issued: now, Expires: now.Add(time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		raws = append(raws, f.Raw)
	}
	if err := source.Restore(slices.Values(raws)); err != nil {
		t.Fatal(err)
	}
	source.run(t)
	taker := newNode(t, secrets, newIdentity(t), func(c *Config) { c.Join = []string{source.Addr().String()} }).run(t)
	eventually(t, 20*time.Second, "the sync has begun", func() bool { return taker.deliveredCount() > 0 })
	fresh := publish(t, source, "fresh", time.Hour)
	eventually(t, time.Minute, "everything is there", func() bool { return taker.deliveredCount() == old+1 })
	at := slices.IndexFunc(taker.delivered, func(f frame.Frame) bool { return f.Ref() == fresh.Ref() })
	t.Logf("the fresh frame came as number %d of %d", at, old+1)
	if at > old/2 {
		t.Errorf("the fresh frame came as number %d of %d", at, old+1)
	}
	if s := taker.Stats(); s.Synced != old || s.Dropped != 0 {
		t.Errorf("%d frames by sync, %d messages dropped; want %d, 0", s.Synced, s.Dropped, old)
	}
}
