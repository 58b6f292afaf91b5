//go:build linux && netns

package test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/test/rig"
)

// metric returns one of a node's metrics, or 0 if it is missing.
func (n *node) metric(t testing.TB, name string) (value float64) {
	t.Helper()
	const get = `exec 3<>/dev/tcp/127.0.0.1/9100 && printf 'GET /metrics HTTP/1.0\r\n\r\n' >&3 && cat <&3`
	r := must(n.Run("bash", "-c", get))(t)
	if r.Code != 0 || !strings.Contains(r.Stdout, "meshban_bans_active") {
		t.Fatalf("%s: metrics: exit code %d\n%s%s", n.Name, r.Code, r.Stdout, r.Stderr)
	}
	for line := range strings.Lines(r.Stdout) {
		if text, ok := strings.CutPrefix(line, name+" "); ok {
			must(fmt.Sscan(text, &value))(t)
		}
	}
	return value
}

// Other nodes enforce a node's bans only as far as its certificate allows: by rate, by width, by length, and by whether it
// may lift others' bans. They hold or refuse the excess, count and show it, and tell the node's own operator; operators
// may release what is held. A member's caps change at once, and in both directions.
func TestCapsOfACertificate(t *testing.T) {
	t.Parallel()
	const rate = 10
	m := newMesh(t, setup{nodes: 3, config: "metrics: 127.0.0.1:9100", invite: []string{
		"--rate", fmt.Sprint(rate), "--widest-ipv4", "30", "--max-for", "1h", "--no-unban-any", "--no-import",
	}})
	first, bad, good := m.nodes[0], m.nodes[1], m.nodes[2]
	// The invitation was for both members; from here on, one of them has no caps.
	if out := first.run(t, "ca", "caps", good.Name, "--default"); !strings.Contains(out, "each node's config") {
		t.Errorf("ca caps: %s", out)
	}
	for _, n := range m.nodes {
		eventually(t, banLimit, func() error {
			for of, want := range map[*node]string{bad: "rate 10, widest_ipv4 30, max_for 1h, no unban_any, no import", good: "each node's config", first: "each node's config"} {
				if out := n.run(t, "ca", "caps", of.Name); !strings.Contains(out, want) {
					return fmt.Errorf("%s says of %s: %s", n.Name, of.Name, out)
				}
			}
			return nil
		})
	}
	if r := good.exit(t, exitFailed, "ca", "caps", bad.Name, "--default"); !strings.Contains(r.Stderr, "ca.key") {
		t.Errorf("caps changed without the authority's key: %s", r.Stderr)
	}

	others := func(p rig.Pairs) rig.Pairs { return rig.Pairs{p[0], p[2]} }
	at := func(p rig.Pairs) rig.Pairs { return p[1:2] }
	honest, ordinary, long, wide, late := fresh(), fresh(), fresh(), freshNet(), fresh()
	watched := map[netip.Addr]rig.Pairs{}
	for _, src := range []netip.Addr{honest, ordinary, long, wide.Addr(), late} {
		watched[src] = m.watch(t, src)
	}
	begun := time.Now()
	start := begun
	good.run(t, "ban", honest.String(), "--for", "2h") // longer than bad is allowed to
	bad.run(t, "ban", ordinary.String(), "--for", "30m")
	enforced(t, watched[honest], start)
	enforced(t, watched[ordinary], start)
	silent := time.Now()

	start = time.Now()
	if out := bad.exit(t, exitDone, "ban", wide.String(), "--for", "30m"); !strings.Contains(out.Stdout+out.Stderr, "on this node only") {
		t.Errorf("ban of a wide prefix: %+v", out)
	}
	bad.run(t, "ban", long.String(), "--for", "2h")
	if out := bad.exit(t, exitPolicy, "unban", honest.String()); !strings.Contains(out.Stderr, "refused by") {
		t.Errorf("unban of other nodes' bans: %+v", out)
	}
	enforced(t, at(watched[wide.Addr()]), start)
	enforced(t, at(watched[long]), start)
	open(t, at(watched[honest]), start, banLimit)

	// More than a minute's worth at once; importing a list does not evade the cap.
	var storm strings.Builder
	for i := range 20 {
		fmt.Fprintf(&storm, "11.0.0.%d\n", i)
	}
	check(t, bad.WriteFile("/root/storm", storm.String()+late.String()+"\n"))
	must(bad.Shell("meshban ban - --for 30m </root/storm && meshban import /root/storm --for 30m"))(t)
	enforced(t, at(watched[late]), time.Now())
	m.inSync(t, syncLimit) // either list may come first; nodes that hold different numbers differ by a refill
	for _, n := range []*node{first, good} {
		eventually(t, banLimit, func() error {
			if e, ok := n.entry(t, late.String()); !ok || e.State != "held" {
				return fmt.Errorf("%s lists %+v, %v", n.Name, e, ok)
			}
			return nil
		})
		s := n.status(t)
		refilled := 1 + int(rate*time.Since(begun).Minutes())
		if s.Bans.Held < 21-rate-refilled || s.Bans.Active > rate+2+refilled || !strings.Contains(strings.Join(s.Problems, "\n"), "held:") {
			t.Errorf("%s: %+v, %q", n.Name, s.Bans, s.Problems)
		}
		for name, want := range map[string]float64{
			`meshban_refused_ops_total{rule="prefix too wide"}`: 1, `meshban_refused_ops_total{rule="too long"}`: 1,
			`meshban_refused_ops_total{rule="bans of others"}`: 1,
		} {
			if got := n.metric(t, name); got != want {
				t.Errorf("%s: %s is %v, want %v", n.Name, name, got, want)
			}
		}
		if got := n.metric(t, `meshban_held_bans_total{by="rate of its origin"}`); got < float64(s.Bans.Held) {
			t.Errorf("%s counts %v held, %d wait", n.Name, got, s.Bans.Held)
		}
	}
	for _, src := range []netip.Addr{long, wide.Addr(), late} {
		answering(t, others(watched[src]))
	}
	check(t, others(watched[honest]).Silent(silent))

	// Its own operator learns of it from the others, which report it at most once a minute.
	who, held := first.Name, first.status(t).Bans.Held
	if more := good.status(t).Bans.Held; more > held {
		who, held = good.Name, more
	}
	told := time.Now()
	eventually(t, 3*time.Minute, func() error {
		problems := strings.Join(bad.status(t).Problems, "\n")
		for _, want := range []string{
			fmt.Sprintf("peers: %s and another node hold %d ops of this node (rate of its origin); `meshban held release --from %s`", who, held, bad.Name),
			"and another node refuse 3 ops of this node (prefix too wide, too long, bans of others)",
		} {
			if !strings.Contains(problems, want) {
				return fmt.Errorf("%q is not in %q", want, problems)
			}
		}
		return nil
	})
	t.Logf("told after %v", time.Since(told).Round(time.Millisecond))
	if got := bad.metric(t, "meshban_own_bans_held_by_peers"); got != float64(held) {
		t.Errorf("own bans held by peers: %v, want %d", got, held)
	}
	for name, want := range map[string]float64{"prefix too wide": 2, "too long": 2, "bans of others": 2} {
		if got := bad.metric(t, fmt.Sprintf("meshban_own_ops_stopped_by_peers_total{rule=%q}", name)); got != want {
			t.Errorf("stopped by peers, %s: %v, want %v", name, got, want)
		}
	}
	for _, n := range []*node{first, good} {
		if p := strings.Join(n.status(t).Problems, "\n"); strings.Contains(p, "peers:") {
			t.Errorf("%s shows a false warning: %q", n.Name, p)
		}
	}

	start = time.Now()
	first.run(t, "held", "release", "--from", bad.Name)
	enforced(t, watched[late][:1], start)
	answering(t, watched[late][2:])

	// With wider caps its new ops count at once, and so does what was held for the old ones, also after a restart.
	start = time.Now()
	first.run(t, "ca", "caps", bad.Name, "--rate", "100000")
	eventually(t, banLimit, func() error {
		if out := good.run(t, "ca", "caps", bad.Name); !strings.Contains(out, "rate 100000") {
			return fmt.Errorf("%s says %s", good.Name, out)
		}
		return nil
	})
	enforced(t, watched[late][2:], start)
	silent = time.Now()
	good.kill(t)
	good.start(t)
	m.inSync(t, syncLimit)
	src, lifted := fresh(), fresh()
	pairs, again := m.watch(t, src), m.watch(t, lifted)
	start = time.Now()
	bad.run(t, "ban", src.String(), "--for", "2h")
	good.run(t, "ban", lifted.String())
	enforced(t, pairs, start)
	enforced(t, again, start)
	start = time.Now()
	bad.run(t, "unban", lifted.String())
	open(t, again, start, banLimit)
	check(t, watched[late][2:].Silent(silent))
}
