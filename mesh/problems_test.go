package mesh

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/internal/roster"
)

// fault returns the text of the current fault of a kind, or "".
func (n *testNode) fault(kind Problem) string {
	for _, f := range n.Faults() {
		if f.Kind == kind {
			return f.Text
		}
	}
	return ""
}

// closedPort returns an address where nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return l.Addr().String()
}

// A node whose join list led nowhere logged one line and called itself alive and in sync. Its fault now names each entry
// with the reason, and ends once one answers.
func TestNobodyOnTheJoinListAnswers(t *testing.T) {
	t.Parallel()
	secrets := newSecrets(t)
	first := newNode(t, secrets, newIdentity(t), nil).run(t)
	hang, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and closes at once
	if err != nil {
		t.Fatal(err)
	}
	defer hang.Close()
	go func() {
		for {
			conn, err := hang.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	cases := []struct {
		name, host, why string
	}{
		{"a closed port", closedPort(t), "connection refused"},
		{"a name that does not resolve", "web9", roster.TriedUnresolved},
		{"another program", hang.Addr().String(), "another program"},
		{"another mesh", newNode(t, newSecrets(t), newIdentity(t), nil).run(t).Addr().String(), "another mesh's key"},
	}
	lookup := func(_ context.Context, host string) ([]netip.Addr, error) {
		if host == "web1" {
			return []netip.Addr{first.Addr().Addr()}, nil
		}
		return nil, errors.New("no such host")
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			n := newNode(t, secrets, newIdentity(t), func(cfg *Config) { cfg.Join, cfg.Lookup = []string{c.host}, lookup }).run(t)
			eventually(t, 30*time.Second, "the fault is told", func() bool {
				text := n.fault(ProblemJoin)
				return strings.Contains(text, c.host+" (") && strings.Contains(text, c.why) && strings.Contains(text, "correct join")
			})
			eventually(t, 30*time.Second, "the fault is logged", func() bool {
				return strings.Contains(strings.Join(n.problemsSeen(), "\n"), "join: nobody on the join list answers: "+c.host)
			})
			if err := n.SetJoin([]string{c.host, "web1:" + portOf(first.Addr())}); err != nil {
				t.Fatal(err)
			}
			eventually(t, 30*time.Second, "the fault is over", func() bool { return n.fault(ProblemJoin) == "" && n.Peers() > 0 })
		})
	}
}

// When the only host of a join list was stopped, the others used to warn that nobody answers.
func TestCleanStopIsNoFault(t *testing.T) {
	bubble(t, func(t *testing.T) {
		log := new(lockedText)
		c := newCluster(t, 2, func(i int, cfg *Config) {
			if i == 1 {
				cfg.Logger = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
			}
		})
		eventually(t, 30*time.Second, "both know each other", c.allAlive)
		if err := c.nodes[0].stop(); err != nil {
			t.Fatal(err)
		}
		eventually(t, time.Minute, "it was looked for", func() bool { return strings.Count(log.String(), "cannot join") >= 4 })
		n := c.nodes[1]
		if said := n.fault(ProblemJoin); said != "" || len(n.problemsSeen()) > 0 || strings.Contains(log.String(), "level=WARN") {
			t.Errorf("says %q, %q and logs\n%s", said, n.problemsSeen(), log)
		}
	})
}

func portOf(a netip.AddrPort) string {
	_, port, _ := strings.Cut(a.String(), ":")
	return port
}

// The founder has no join list, but members of earlier runs.
func TestNoMemberOfEarlierRunsAnswers(t *testing.T) {
	t.Parallel()
	gone := newIdentity(t)
	n := newNode(t, newSecrets(t), newIdentity(t), func(c *Config) {
		c.Peers = []Peer{{ID: gone.ID(), Name: "web2", Addr: netip.MustParseAddrPort(closedPort(t)), Seen: time.Now()}}
	}).run(t)
	eventually(t, 30*time.Second, "the fault is told", func() bool {
		return strings.Contains(n.fault(ProblemJoin), "none of the members of earlier runs answers (1)")
	})
}
