package mesh

import (
	"net/netip"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/filter"
	"github.com/meshban/meshban/mesh/pki"
)

func bulkMesh(t *testing.T) *Mesh {
	m, err := New(Config{Identity: signers[1], Secrets: pki.Secrets{GossipKey: [32]byte{1}}, Epoch: 1, Bind: netip.MustParseAddrPort("127.0.0.1:0")})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// chunkOf returns a chunk of n frames, of which those from bad on are not signed by their origin.
func chunkOf(t *testing.T, from frame.ID, session uint64, origin pki.Identity, first, n, bad int) []byte {
	m := wireSync{kind: wireChunk, from: from, session: session, num: 1}
	now := time.Now()
	for i := range n {
		raw := testFrame(t, origin, 1, uint64(first+i), now, time.Hour, "x").Raw
		if i >= bad {
			raw[len(raw)-1] ^= 1
		}
		m.frames = append(m.frames, raw)
	}
	return m.encode()
}

// openSession opens a peer's session with a node that does not run, and returns the node's name for it. The node's clock
// advances, so that no other peer is expected to stream any more.
func openSession(t *testing.T, m *Mesh, id frame.ID) uint64 {
	now := m.now().Add(3 * time.Second)
	m.now = func() time.Time { return now }
	return visit(t, m, id)
}

func drainBulk(m *Mesh) {
	for len(m.later) > 0 {
		m.drainLater(<-m.later)
	}
	for m.bulkSlice() {
	}
}

// Chunks that belong to no session are dropped before anything in them is read, whatever their size and whosever name they
// bear.
func TestForeignChunksAreDropped(t *testing.T) {
	m := bulkMesh(t)
	peer := frame.ID{7}
	v := openSession(t, m, peer)
	for i := range uint64(100) {
		for _, n := range []int{1, 30} {
			delegate{m}.NotifyMsg(chunkOf(t, peer, v+1+i, signers[0], 1, n, 0))
		}
	}
	if n := m.bulk.len(); n != 0 {
		t.Errorf("%d chunks wait", n)
	}
	drainBulk(m)
	if got := m.Stats(); got.Refused["unasked"] != 200 || got.Refused["signature"] != 0 || got.Received != 0 {
		t.Errorf("refused %v, received %d", got.Refused, got.Received)
	}
	delegate{m}.NotifyMsg(chunkOf(t, peer, v, signers[0], 1, 30, 30))
	drainBulk(m)
	if got := m.Stats(); got.Held != 30 {
		t.Errorf("%d frames are held of a chunk that was asked for", got.Held)
	}
}

// The first bad signature ends the chunk, the session and its waiting chunks, and for a while nothing is compared with the
// peer. Other peers are not affected.
func TestBadSignatureEndsAChunk(t *testing.T) {
	m := bulkMesh(t)
	bad, good := frame.ID{7}, frame.ID{8}
	v := openSession(t, m, bad)
	for i := range 4 {
		delegate{m}.NotifyMsg(chunkOf(t, bad, v, signers[0], 1+100*i, 100, 40))
	}
	drainBulk(m)
	got := m.Stats()
	if got.Refused["signature"] != 1 || got.Held != 40 || got.Received > 80 {
		t.Errorf("refused %v, held %d, received %d", got.Refused, got.Held, got.Received)
	}
	if got.Refused["unasked"] != 3 {
		t.Errorf("of three more chunks %d were refused", got.Refused["unasked"])
	}
	for after, want := range map[time.Duration]bool{30 * time.Second: false, 59 * time.Second: false, 61 * time.Second: true} {
		if answersChecks(t, m, bad, m.now().Add(after)) != want {
			t.Errorf("after %v the peer may begin a session: want %v", after, want)
		}
	}
	w := openSession(t, m, good)
	delegate{m}.NotifyMsg(chunkOf(t, good, w, signers[0], 1000, 30, 30))
	drainBulk(m)
	if got := m.Stats().Held; got != 70 {
		t.Errorf("%d frames are held, want 70", got)
	}
}

// Peers take turns, and none has more than its share of the waiting chunks.
func TestBulkTakesTurns(t *testing.T) {
	m := bulkMesh(t)
	greedy, modest := frame.ID{7}, frame.ID{8}
	v, w := openSession(t, m, greedy), openSession(t, m, modest)
	for i := range 2 * maxBulkOf {
		delegate{m}.NotifyMsg(chunkOf(t, greedy, v, signers[0], 1+200*i, 200, 200))
	}
	if n := m.bulk.len(); n != maxBulkOf {
		t.Errorf("%d chunks of one peer wait, want %d", n, maxBulkOf)
	}
	delegate{m}.NotifyMsg(chunkOf(t, modest, w, signers[2], 1, 30, 30))
	slices := 0
	arrived := func() bool {
		for range m.Frames(signers[2].ID()) {
			return true
		}
		return false
	}
	for !arrived() {
		if slices++; !m.bulkSlice() {
			t.Fatal("the chunk of the other peer is gone")
		}
	}
	if slices > 2 {
		t.Errorf("the other peer's turn came after %d slices", slices)
	}
}

// A peer is charged for frames of its own and for chunks that bring nothing, but not for frames that others have signed.
func TestChunksAreCharged(t *testing.T) {
	for _, tt := range []struct {
		name   string
		peer   frame.ID
		most   int
		origin pki.Identity
	}{
		{"bad: its own", signers[0].ID(), 100, signers[0]},
		{"ok: of others", frame.ID{7}, 1000, signers[0]},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := bulkMesh(t)
			m.bulkCost = filter.NewBuckets[frame.ID](0.001, 100)
			v := openSession(t, m, tt.peer)
			for i := range 5 {
				delegate{m}.NotifyMsg(chunkOf(t, tt.peer, v, tt.origin, 1+200*i, 200, 200))
			}
			drainBulk(m)
			if got := m.Stats(); got.Held > tt.most || got.Held < tt.most*9/10 || (got.Limited > 0) != (tt.most < 1000) {
				t.Errorf("held %d, limited %d times", got.Held, got.Limited)
			}
		})
	}
}
