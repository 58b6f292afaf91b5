//go:build linux && netns

package test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/test/rig"
)

const (
	apiConfig = "firewall: {backends: [none]}\napi: {listen: \"127.0.0.1:8080\"}\nmetrics: 127.0.0.1:9946"
	// bouncerMedian is far above what a held answer takes and far below what a bouncer that polls every 10 s needs.
	bouncerMedian = time.Second
	// bouncedBans are what a bouncer finds at its start.
	bouncedBans = 100_000
	// bouncedMemory is what serving them may add to the agent, in KiB, and bouncedLimit how long the answer may take.
	bouncedMemory, bouncedLimit = 60 << 10, 30 * time.Second
)

// bouncers is a mesh whose last node drops nothing itself, but has CrowdSec's bouncers, as Debian has them.
type bouncers struct {
	*mesh
	first, second, last *node
	key                 string
}

func newBouncers(t *testing.T) *bouncers {
	t.Helper()
	count := 0
	m := newMesh(t, setup{nodes: 3, before: func(n *node) {
		if count++; count == 3 {
			n.configure(t, apiConfig)
		}
	}})
	b := &bouncers{m, m.nodes[0], m.nodes[1], m.nodes[2], ""}
	b.key = strings.TrimSpace(b.last.run(t, "key", "add", "bouncer"))
	return b
}

// example returns what `meshban help crowdsec` shows of a bouncer's configuration.
func (b *bouncers) example(t *testing.T, key string) string {
	t.Helper()
	return replaced(t, example(t, b.last, "crowdsec", "api_url:"), "THE_KEY", key)
}

// firewall starts crowdsec-firewall-bouncer and waits until it has asked.
func (b *bouncers) firewall(t *testing.T, mode, key string) *rig.Proc {
	t.Helper()
	check(t, b.last.WriteFile("/root/firewall.yaml", b.example(t, key)+fmt.Sprintf(`mode: %s
pid_dir: /root/
daemonize: false
log_mode: stdout
log_level: info
disable_ipv6: false
deny_action: DROP
deny_log: false
supported_decisions_types: [ban]
blacklists_ipv4: crowdsec-blacklists
blacklists_ipv6: crowdsec6-blacklists
ipset_type: nethash
iptables_chains: [INPUT]
nftables:
  ipv4: {enabled: true, set-only: false, table: crowdsec, chain: crowdsec-chain}
  ipv6: {enabled: true, set-only: false, table: crowdsec6, chain: crowdsec6-chain}
prometheus: {enabled: false}
`, mode)))
	before := b.requests(t)
	p := must(b.last.Start(rig.Cmd{Argv: []string{"crowdsec-firewall-bouncer", "-c", "/root/firewall.yaml"}}))(t)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the bouncer runs: %v; %s", p.Running(), p.Tail(20))
		}
	})
	eventually(t, startLimit, func() error {
		if b.requests(t) == before {
			return fmt.Errorf("the bouncer has not asked: %s", p.Tail(20))
		}
		return nil
	})
	return p
}

// metric reads one of the last node's metrics.
func (b *bouncers) metric(t *testing.T, name string) (n int) {
	t.Helper()
	for line := range strings.Lines(must(b.last.Do("busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:9946/metrics"))(t)) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			_, err := fmt.Sscan(rest, &n)
			check(t, err)
			return n
		}
	}
	t.Fatalf("there is no metric %s", name)
	return 0
}

func (b *bouncers) requests(t *testing.T) int { return b.metric(t, "meshban_api_requests_total") }

// held waits until the bouncer's request is held.
func (b *bouncers) held(t *testing.T) {
	t.Helper()
	eventually(t, startLimit, func() error {
		if n := b.metric(t, "meshban_api_answers_held"); n != 1 {
			return fmt.Errorf("%d answers are held", n)
		}
		return nil
	})
}

// pair probes the last node.
func (b *bouncers) pair(t *testing.T, src netip.Addr) rig.Pairs {
	t.Helper()
	return b.watchNode(t, src, b.last, rig.ClosedPort)
}

// A ban of one node is dropped behind an unmodified bouncer on another, at once.
func TestCrowdSecFirewallBouncer(t *testing.T) {
	t.Parallel()
	b := newBouncers(t)
	for _, mode := range []string{"nftables", "iptables"} {
		t.Run(mode, func(t *testing.T) { b.drops(t, mode) })
	}
	t.Run("wrong key", func(t *testing.T) {
		before := b.metric(t, "meshban_api_forbidden_total")
		p := b.firewall(t, "nftables", "wrong")
		eventually(t, startLimit, func() error {
			if b.metric(t, "meshban_api_forbidden_total") == before {
				return fmt.Errorf("a wrong key is not counted: %s", p.Tail(20))
			}
			return nil
		})
		if p.Running() {
			must(p.Stop())(t)
		}
		if out := p.Stdout() + p.Stderr(); !strings.Contains(out, "access forbidden") || strings.Contains(out, "panic") {
			t.Errorf("the bouncer says: %s", out)
		}
	})
}

func (b *bouncers) drops(t *testing.T, mode string) {
	p := b.firewall(t, mode, b.key)
	b.held(t)
	var took []time.Duration
	var last netip.Addr
	var pairs rig.Pairs
	for range 9 {
		b.held(t)
		last = fresh()
		pairs = b.pair(t, last)
		start := b.first.write(t, last, "22")
		took = append(took, rig.Last(must(pairs.Enforced(banLimit))(t)).Sub(start))
	}
	slices.Sort(took)
	t.Logf("from the line on another node to the bouncer's kernel: median %.1f ms, longest %.1f ms", ms(took[4]), ms(took[8]))
	if took[4] > bouncerMedian {
		t.Errorf("the median is %v", took[4])
	}
	b.held(t)
	before := b.requests(t)
	during(5 * time.Second)
	if n := b.requests(t) - before; n > 1 {
		t.Errorf("an idle bouncer asked %d times in 5 s", n)
	}

	start := time.Now()
	b.first.run(t, "unban", last.String())
	open(t, pairs, start, banLimit)

	src := fresh()
	pairs = b.pair(t, src)
	start = time.Now()
	b.second.run(t, "ban", src.String(), "--for", "1h")
	enforced(t, pairs, start)
	start = time.Now()
	b.first.run(t, "allow", src.String())
	open(t, pairs, start, banLimit)

	// A longer ban is ignored by the bouncer until its own has ended.
	src = fresh()
	pairs = b.pair(t, src)
	start = time.Now()
	b.first.run(t, "ban", src.String(), "--for", "3s")
	enforced(t, pairs, start)
	b.first.run(t, "ban", src.String(), "--for", "1h")
	during(time.Until(start.Add(12 * time.Second))) // the former end, and both repeats
	check(t, pairs.Silent(start.Add(11*time.Second)))

	// The agent is away while one ban ends and another begins.
	next := fresh()
	more := b.pair(t, next)
	b.last.stop(t)
	b.first.run(t, "unban", src.String())
	start = time.Now()
	b.first.run(t, "ban", next.String(), "--for", "1h")
	b.last.start(t)
	enforced(t, more, start)
	open(t, pairs, start, banLimit)

	// The bouncer is away while one ban ends and another begins. Its rules stay: in the foreground it ends without a word.
	must(p.Stop())(t)
	src = fresh()
	pairs = b.pair(t, src)
	b.first.run(t, "unban", next.String())
	b.first.run(t, "ban", src.String(), "--for", "1h")
	start = time.Now()
	p = b.firewall(t, mode, b.key)
	enforced(t, pairs, start)
	open(t, more, start, banLimit)
	must(p.Stop())(t)
}

// What a node has said is taken back from a bouncer when the node is revoked.
func TestCrowdSecCustomBouncer(t *testing.T) {
	t.Parallel()
	b := newBouncers(t)
	check(t, b.last.WriteFile("/root/act", "#!/bin/sh\necho \"$*\" >>/root/acts\n"))
	check(t, b.last.WriteFile("/root/acts", ""))
	must(b.last.Do("chmod", "755", "/root/act"))(t)
	check(t, b.last.WriteFile("/root/custom.yaml", `bin_path: /root/act
piddir: /root/
cache_retention_duration: 10s
daemonize: false
log_mode: stdout
log_level: info
prometheus: {enabled: false}
`+b.example(t, b.key)))
	p := must(b.last.Start(rig.Cmd{Argv: []string{"crowdsec-custom-bouncer", "-c", "/root/custom.yaml"}}))(t)
	b.held(t)
	src := fresh()
	b.second.run(t, "ban", src.String(), "--for", "1h")
	b.acts(t, "add", src.String(), p)
	b.first.run(t, "revoke", b.second.Name, "--yes")
	b.acts(t, "del", src.String(), p)
	var list struct {
		Keys []struct {
			Use struct{ Agent, Version string }
		}
	}
	check(t, json.Unmarshal([]byte(b.last.run(t, "key", "list", "--json")), &list))
	if len(list.Keys) != 1 || list.Keys[0].Use.Agent != "crowdsec-custom-bouncer" || list.Keys[0].Use.Version == "" {
		t.Errorf("key list says %+v", list)
	}
	must(p.Stop())(t)
}

// acts waits until the custom bouncer has done something about an address.
func (b *bouncers) acts(t *testing.T, what, addr string, p *rig.Proc) {
	t.Helper()
	eventually(t, banLimit, func() error {
		for line := range strings.Lines(must(b.last.ReadFile("/root/acts"))(t)) {
			if words := strings.Fields(line); len(words) > 1 && words[0] == what && words[1] == addr {
				return nil
			}
		}
		return fmt.Errorf("no %s of %s: %s", what, addr, p.Tail(20))
	})
}

// A bouncer that starts gets a long list soon, and without much memory.
func TestCrowdSecStartWithALongList(t *testing.T) {
	b := newBouncers(t)
	var list strings.Builder
	for i := range bouncedBans {
		fmt.Fprintf(&list, "20.%d.%d.%d\n", i>>16, i>>8&255, i&255)
	}
	check(t, b.first.WriteFile("/root/list", list.String()))
	must(b.first.Shell("meshban import /root/list --for 1h"))(t)
	eventually(t, crowdLimit, func() error {
		if n := b.last.status(t).Bans.Active; n < bouncedBans {
			return fmt.Errorf("%d bans", n)
		}
		return nil
	})
	before := b.last.forgetPeak(t)
	start := time.Now()
	n := strings.TrimSpace(must(b.last.Shell("busybox wget -q -O - --header 'X-Api-Key: " + b.key + "' 'http://127.0.0.1:8080/v1/decisions/stream?startup=true' | grep -o '\"type\":\"ban\"' | wc -l"))(t))
	took := time.Since(start)
	more := b.last.peakRSS(t) - before
	t.Logf("%s decisions after %v, with %d KiB more memory", n, took.Round(time.Millisecond), more)
	if n != fmt.Sprint(bouncedBans) || took > bouncedLimit || more > bouncedMemory {
		t.Errorf("%s of %d decisions, %v, %d KiB more", n, bouncedBans, took, more)
	}
}
