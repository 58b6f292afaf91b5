package mesh

import (
	"context"
	"crypto/ed25519"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/enrol"
	"github.com/meshban/meshban/mesh/internal/meshtest"
	"github.com/meshban/meshban/mesh/pki"
)

// queried returns a mesh of members that answer, whose last node is not certified, and the number of answers by node.
func queried(t *testing.T, nodes int, answer func(i int, ctx context.Context, question string) ([]byte, error)) (c *cluster, answered []atomic.Int64) {
	a := meshtest.Authority(t)
	answered = make([]atomic.Int64, nodes)
	c = newCluster(t, nodes, func(i int, cfg *Config) {
		copy(cfg.Secrets.Authority[:], a.Public())
		if i == 0 {
			cfg.Authority = a
		}
		cfg.Answer = func(ctx context.Context, _ frame.ID, question []byte) ([]byte, error) {
			answered[i].Add(1)
			return answer(i, ctx, string(question))
		}
	})
	eventually(t, 30*time.Second, "everybody knows everybody", c.allAlive)
	for _, n := range c.nodes[1 : nodes-1] {
		if _, err := c.nodes[0].Certify(n.id.Public(), "name", pki.DefaultCaps()); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 30*time.Second, "all members are certified", func() bool {
		for _, n := range c.nodes {
			for _, other := range c.nodes[:nodes-1] {
				if !n.Trusts(other.id.ID()) {
					return false
				}
			}
		}
		return true
	})
	return c, answered
}

func echo(_ int, _ context.Context, question string) ([]byte, error) {
	return []byte("re: " + question), nil
}

// Members answer members, in the order in which they were asked; one that cannot be reached delays nobody beyond its limit.
func TestQuery(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, _ := queried(t, 5, echo)
		cut := c.addrs[2]
		c.hub.setCut(func(from, to netip.AddrPort) bool { return to == cut || from == cut })
		ids := []frame.ID{c.nodes[3].id.ID(), c.nodes[2].id.ID(), c.nodes[1].id.ID(), {7}}
		start := time.Now()
		got := c.nodes[0].Query(t.Context(), ids, []byte("what?"))
		if took := time.Since(start); took > queryTimeout+time.Second {
			t.Errorf("took %v", took)
		}
		for i, a := range got {
			if answers := i == 0 || i == 2; a.ID != ids[i] || answers != (string(a.Text) == "re: what?") || answers != (a.Err == nil) {
				t.Errorf("answer %d: %q, %v", i, a.Text, a.Err)
			}
		}
		if !errors.Is(got[3].Err, errNotAlive) {
			t.Errorf("an unknown node: %v", got[3].Err)
		}
		if a := c.nodes[0].Query(t.Context(), ids[:1], make([]byte, MaxQuestion+1))[0]; a.Err == nil {
			t.Error("asked more than MaxQuestion")
		}
	})
}

// Questions of an uncertified or revoked node are not answered, and its answers are not accepted.
func TestOnlyMembersQuery(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, answered := queried(t, 4, echo)
		stranger, bad := c.nodes[3], c.nodes[2]
		if a := stranger.Query(t.Context(), []frame.ID{c.nodes[0].id.ID()}, nil)[0]; a.Err == nil {
			t.Errorf("a stranger was told %q", a.Text)
		}
		if a := c.nodes[0].Query(t.Context(), []frame.ID{stranger.id.ID()}, nil)[0]; a.Err == nil {
			t.Errorf("a stranger said %q", a.Text)
		}
		if _, err := c.nodes[0].Revoke(bad.id.ID(), "", time.Time{}, ""); err != nil {
			t.Fatal(err)
		}
		if a := bad.Query(t.Context(), []frame.ID{c.nodes[0].id.ID()}, nil)[0]; a.Err == nil {
			t.Errorf("a revoked node was told %q", a.Text)
		}
		if a := c.nodes[0].Query(t.Context(), []frame.ID{bad.id.ID()}, nil)[0]; !errors.Is(a.Err, errNotAlive) {
			t.Errorf("a revoked node was asked: %q, %v", a.Text, a.Err)
		}
		if n := answered[0].Load() + answered[3].Load(); n != 0 {
			t.Errorf("%d answers", n)
		}
	})
}

// askPastLimits asks like a captured node whose program ignores all limits.
func askPastLimits(ctx context.Context, n *testNode, id frame.ID, at netip.AddrPort, text []byte) ([]byte, error) {
	conn, err := n.dialMember(ctx, at, func(key ed25519.PublicKey) error {
		if frame.IDOf(key) != id {
			return errOtherNode
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.NetConn().Close() }()
	if err := enrol.WriteMessage(conn, query{MeshID: n.cfg.Secrets.MeshID, Text: text}.encode()); err != nil {
		return nil, err
	}
	b, err := enrol.ReadMessage(conn)
	if err != nil {
		return nil, err
	}
	return decodeQueryAnswer(b)
}

// A captured node that asks endlessly causes few answers, and keeps nobody else from being answered.
func TestQueriesOfOneAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, answered := queried(t, 4, echo)
		asked, bad, honest := c.nodes[0], c.nodes[1], c.nodes[2]
		const seconds = 10
		refused := 0
		for range seconds {
			for range 50 {
				if _, err := askPastLimits(t.Context(), bad, asked.id.ID(), c.addrs[0], nil); err != nil {
					refused++
				}
			}
			if a := honest.Query(t.Context(), []frame.ID{asked.id.ID()}, nil)[0]; a.Err != nil {
				t.Errorf("an honest question: %v", a.Err)
			}
			<-time.After(time.Second)
		}
		if n := answered[0].Load() - seconds; n > queryBurst+(seconds+1)*queryRate {
			t.Errorf("%d answers made, %d refused", n, refused)
		}
		// The asker's own limit is the same, so an honest asker is told why.
		often := 0
		for range 3 * queryBurst {
			if errors.Is(honest.Query(t.Context(), []frame.ID{asked.id.ID()}, nil)[0].Err, ErrAskedTooOften) {
				often++
			}
		}
		if often < queryBurst {
			t.Errorf("%d of %d questions were too many", often, 3*queryBurst)
		}
	})
}

// At most answersOf questions of one member are answered at a time, however long that takes.
func TestAnswersAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var mu sync.Mutex
		now, most := 0, 0
		c, _ := queried(t, 3, func(_ int, ctx context.Context, _ string) ([]byte, error) {
			mu.Lock()
			now++
			most = max(most, now)
			mu.Unlock()
			<-ctx.Done()
			mu.Lock()
			now--
			mu.Unlock()
			return nil, ctx.Err()
		})
		var wg sync.WaitGroup
		for range 4 * answersOf {
			wg.Go(func() { _, _ = askPastLimits(t.Context(), c.nodes[1], c.nodes[0].id.ID(), c.addrs[0], nil) })
		}
		wg.Wait()
		if most != answersOf {
			t.Errorf("%d at once, want %d", most, answersOf)
		}
	})
}

// Messages that no member sends are refused, and an answer that is too long reaches nobody.
func TestQueryMessages(t *testing.T) {
	good := query{MeshID: [16]byte{1}, Text: []byte("?")}.encode()
	if q, err := decodeQuery(good); err != nil || string(q.Text) != "?" {
		t.Errorf("%+v, %v", q, err)
	}
	for name, b := range map[string][]byte{
		"bad: empty":            {},
		"bad: trailing":         append(slices.Clone(good), 0),
		"bad: truncated":        good[:len(good)-1],
		"bad: other version":    enrol.KeysRequest{}.Encode(),
		"bad: too long":         query{Text: make([]byte, MaxQuestion+1)}.encode(),
		"bad: an answer's form": encodeQueryAnswer(nil),
	} {
		if _, err := decodeQuery(b); err == nil {
			t.Error(name)
		}
	}
	if _, err := decodeQueryAnswer(encodeQueryAnswer(make([]byte, MaxAnswer+1))); err == nil {
		t.Error("an answer of more than MaxAnswer bytes")
	}
	bubble(t, func(t *testing.T) {
		c, _ := queried(t, 3, func(int, context.Context, string) ([]byte, error) {
			return []byte(strings.Repeat("x", MaxAnswer+1)), nil
		})
		if a := c.nodes[1].Query(t.Context(), []frame.ID{c.nodes[0].id.ID()}, nil)[0]; a.Err == nil {
			t.Errorf("an answer of %d bytes", len(a.Text))
		}
	})
}
