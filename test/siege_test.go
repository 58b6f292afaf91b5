//go:build linux && netns

package test

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshban/meshban/test/rig"
)

// tries is how many times an attack with bad figures is made.
const tries = 3

// hostileName is the start of the name in every hostile member's certificate; claimedName is the name that it claims.
const hostileName, claimedName = "hostile", "web9"

// siegeCase is one attack and its required result.
type siegeCase struct {
	name   string
	attack string
	args   []string                                 // further arguments of the hostile program
	ban    func(s *siege, victim netip.Addr) string // the prefixes that the attack targets; nil: the victim
	counts string                                   // a metric of the honest nodes that must grow
	tells  string                                   // prefix of a problem that their status must show; "": none
	nobody bool                                     // the problem names nobody: anybody could have caused it
	banned bool                                     // the victim may be dropped
	pushed bool                                     // bans must arrive by pushes, not only by sync
	after  func(t *testing.T, s *siege)
}

// honestNet contains the honest nodes of a siege of three, but not the attacker's host, which nothing protects.
const honestNet = "10.77.0.0/30"

// fresh24s returns the networks that contain the measured bans of this test.
func fresh24s() string {
	var list []string
	for i := range 1 + (usedAddrs.Load()+500)/250 {
		list = append(list, fmt.Sprintf("198.18.%d.0/24", i))
	}
	return strings.Join(list, ",")
}

var siegeCases = []siegeCase{
	{name: "forged origin", attack: "forge", counts: `meshban_frames_refused_total{reason="signature"}`, tells: "forged:", nobody: true},
	{name: "forged source", attack: "source", counts: "meshban_limited_packets_total", tells: "forged: packets come as if from", nobody: true,
		pushed: true, after: nobodyFloods},
	{name: "frames from the future", attack: "future", counts: `meshban_frames_refused_total{reason="future"}`},
	{name: "expired frames", attack: "expired", counts: `meshban_frames_refused_total{reason="expired"}`},
	{name: "over-wide prefixes", attack: "wide", counts: `meshban_refused_ops_total{rule="prefix too wide"}`},
	{name: "equivocation", attack: "equivocate", banned: true, tells: "equivocation:", ban: func(_ *siege, v netip.Addr) string {
		return fmt.Sprintf("%v/32,%v/32", v, fresh())
	}},
	{name: "addresses of peers and the whole internet", attack: "bans", counts: `meshban_refused_ops_total{rule="prefix too wide"}`,
		ban: func(s *siege, _ netip.Addr) string {
			list := "0.0.0.0/0,::/0," + honestNet
			for _, n := range s.honest {
				list += fmt.Sprintf(",%v/32", n.Mesh)
			}
			return list
		}},
	{name: "malformed messages of every length", attack: "malformed", counts: `meshban_frames_refused_total{reason="format"}`},
	{name: "giant frames and messages", attack: "giant", counts: `meshban_frames_refused_total{reason="format"}`},
	{name: "messages that crash memberlist", attack: "crash", counts: `meshban_frames_refused_total{reason="format"}`},
	{name: "names with control characters", attack: "names", after: noEscapes},
	{name: "made-up members with metadata of 512 bytes", attack: "sybil"},
	{name: "slander: others are dead", attack: "slander"},
	{name: "lying digests", attack: "lies"},
	{name: "endless sync", attack: "endless"},
	{name: "checks in the names of others", attack: "checks"},
	{name: "frames that nobody asked for are asked for", attack: "wants", counts: `meshban_frames_refused_total{reason="unasked"}`},
	{name: "vectors as large as can be", attack: "vectors", counts: `meshban_frames_refused_total{reason="format"}`},
	{name: "chunks that nobody signed", attack: "chunks", counts: `meshban_frames_refused_total{reason="unasked"}`},
	{name: "frames that last for a year", attack: "hoard", counts: "meshban_limited_packets_total", tells: "flood:"},
	{name: "10,000 bans a second", attack: "storm", counts: "meshban_limited_packets_total", tells: "flood:", after: boundedBans},
	{name: "0.0.0.0/1 in /8s and /24s", attack: "half", counts: `meshban_refused_ops_total{rule="prefix too wide"}`, tells: "held:", after: boundedBans},
	{name: "more allows than a kernel takes, and bans of what is needed", attack: "allow", args: []string{"-for", "4s", "-life", "6s"},
		ban: func(s *siege, _ netip.Addr) string { return s.look.needed(honestNet) }, after: why},
	{name: "port lists", attack: "ports", args: []string{"-size", "64"}},
	{name: "bans and revokes in turns", attack: "flap"},
	{name: "revokes of nothing", attack: "tombs"},
	{name: "the same bans again and again", attack: "refresh"},
	{name: "bans with long reasons", attack: "words"},
	{name: "bans for a moment", attack: "moments"},
	{name: "unbans of nothing", attack: "cancels"},
	{name: "marks of 2^63-1", attack: "marks", ban: func(*siege, netip.Addr) string { return fresh24s() }},
	{name: "marks a little ahead", attack: "ahead", ban: func(*siege, netip.Addr) string { return fresh24s() }},
	{name: "accusations that cannot be denied", attack: "doom", after: func(t *testing.T, s *siege) { s.inSync(t, syncLimit) }},
}

// why checks that `meshban why` on each node says that what it needs is not dropped.
func why(t *testing.T, s *siege) {
	for _, n := range s.honest {
		for _, addr := range []netip.Addr{s.honest[0].Mesh, n.Mesh, n.Probe, netip.MustParseAddr("10.78.0.254")} {
			if out := n.run(t, "why", addr.String()); !strings.Contains(out, addr.String()+": not dropped") {
				t.Errorf("%s: why %v: %s", n.Name, addr, out)
			}
		}
	}
}

// nobodyFloods checks that no honest node is accused of a flood.
func nobodyFloods(t *testing.T, s *siege) {
	for _, n := range s.honest {
		for _, p := range n.status(t).Problems {
			for _, accused := range s.honest {
				if strings.HasPrefix(p, "flood: "+accused.Mesh.String()) {
					t.Errorf("%s: %s", n.Name, p)
				}
			}
		}
	}
}

// synced returns how many frames have come by sync to the nodes whose peers' bans are measured.
func (s *siege) synced(t *testing.T) (n float64) {
	t.Helper()
	return s.honest[0].metrics(t)["meshban_frames_synced_total"] + s.honest[2].metrics(t)["meshban_frames_synced_total"]
}

var apart = flag.Bool("siege.apart", false, "measure the bans of a node that has a processor of its own, as machines have")

// pinned returns what sets up the second node of a mesh, whose bans are measured, on the first processor, and moves the rest of
// the test to the others.
func pinned(t *testing.T) (before func(*node)) {
	t.Helper()
	last := runtime.NumCPU() - 1
	if last == 0 {
		t.Fatal("-siege.apart needs two processors")
	}
	out, err := exec.Command("taskset", "-a", "-c", "-p", fmt.Sprintf("1-%d", last), strconv.Itoa(os.Getpid())).CombinedOutput()
	if err != nil {
		t.Fatalf("taskset: %v: %s", err, out)
	}
	return func(n *node) {
		if n.Index == 2 {
			must(n.Do("taskset", "-a", "-c", "-p", "0", "1"))(t) // process 1 starts all others of the host
		}
	}
}

// A certified member makes one attack after the other, and the honest nodes go on as before. A mesh of bystanders
// runs on the same machine: its figures tell the effects of the attack from those of the machine.
func TestHostile(t *testing.T) {
	beside, honest := 3, setup{nodes: 3}
	if *apart {
		beside, honest.before = 0, pinned(t)
	}
	s := besiegeWith(t, beside, honest)
	s.look = s.lookOut(t)
	during(time.Second) // the start is over
	t.Logf("calm: %v", s.look.during(t, func() { s.calm = s.measure(t, calmBans) }))
	defer func() { t.Log(s.table()) }()
	before := make([]resources, len(s.honest))
	for i, n := range s.honest {
		before[i] = n.resources(t)
	}
	t.Logf("before: %v", s.calm)
	for _, c := range siegeCases {
		if !t.Run("bad: "+c.name, func(t *testing.T) { s.try(t, c) }) {
			s.goroutines(t)
			t.FailNow() // later attacks would only show what this one left behind
		}
	}
	for i, n := range s.honest {
		if !n.agent.Running() {
			t.Fatalf("%s: the agent is gone\n%s", n.Name, n.agent.Tail(30))
		}
		peak := n.peakRSS(t)
		t.Logf("%s: %d MiB resident at most, %.0f goroutines and %d files before", n.Name, peak>>10, before[i].goroutines, before[i].files)
		if peak > attackedRSS {
			t.Errorf("%s: %d KiB resident at most, want %d", n.Name, peak, attackedRSS)
		}
		eventually(t, afterwards, func() error {
			if now := n.resources(t); now.goroutines > before[i].goroutines+5 || now.files > before[i].files+5 {
				return fmt.Errorf("%s: %+v before, %+v after", n.Name, before[i], now)
			}
			return nil
		})
	}
	t.Logf("in the end: %v", s.measure(t, attackBans))
}

// goroutines ends every honest agent and logs its goroutines.
func (s *siege) goroutines(t *testing.T) {
	t.Helper()
	for _, n := range s.honest {
		check(t, n.agent.Signal(unix.SIGQUIT))
		if _, err := n.agent.Wait(startLimit); err != nil {
			t.Errorf("%s: %v", n.Name, err)
		}
		t.Logf("%s:\n%s", n.Name, n.agent.Tail(3000))
	}
}

// try makes one attack and judges it.
func (s *siege) try(t *testing.T, c siegeCase) {
	victim := fresh()
	pairs := s.watchHonest(t, victim)
	defer pairs.Stop()
	list := victim.String() + "/32"
	if c.ban != nil {
		list = c.ban(s, victim)
	}
	had := make([]float64, len(s.honest))
	for i, n := range s.honest {
		had[i] = n.metrics(t)[c.counts]
	}
	args := append([]string{"-ban", list}, c.args...)
	noticed := c.counts != "" || c.tells != ""
	if noticed {
		args = append(args, "-for", untilEnded)
	}
	var p *rig.Proc
	var under, beside figures
	var seen sights
	for try := 1; ; try++ {
		var lost, late error
		synced := s.synced(t)
		seen = s.look.during(t, func() {
			p = s.attack(t, c.attack, args...)
			begun := time.Now()
			under, beside, lost = s.measureBeside(attackBans)
			if n := s.synced(t) - synced; c.pushed && n >= attackBans {
				late = fmt.Errorf("%.0f frames came by sync while %d bans were sent to two nodes", n, attackBans)
			}
			if noticed {
				during(time.Until(begun.Add(attackLasts)))
				s.notice(t, c, had)
				finish(t, p)
			} else if e := must(p.Wait(afterwards))(t); e.Code != exitDone {
				t.Errorf("the attack ended with %+v: %s", e, p.Stderr())
			}
		})
		if !c.banned {
			s.spared(t, pairs)
		}
		err := errors.Join(append(seen.errs, lost, late, s.slower(under, beside))...)
		if err == nil {
			break
		}
		if try == tries || lost != nil {
			t.Error(err)
			break
		}
		t.Log(err) // try again, as the machine may have been busy
	}
	sent := rateOf(t, p)
	digests := s.agree(t)
	if c.after != nil {
		c.after(t, s)
	}
	s.rows = append(s.rows, fmt.Sprintf("| %s | %d | %.1f -> %.1f | %.1f -> %.1f | %.0f (%s) | %d | %d | %s | %d/%d, %d, %.0f ms |", c.name, sent,
		ms(s.calm.median), ms(under.median), ms(s.calm.own), ms(under.own), ms(seen.command), seen.which, seen.grown>>10, seen.rss>>10,
		digests, seen.lost, seen.sent, seen.probed, ms(seen.echo)))
	t.Logf("%v (beside: %v; before: %v); %v; %s", under, beside, s.calm, seen, strings.TrimSpace(strings.TrimPrefix(p.Stdout(), "ready\n")))
}

// rateOf returns how many messages an attack that has ended sent in a second.
func rateOf(t *testing.T, p *rig.Proc) int {
	t.Helper()
	said := must(jsonLines[struct {
		Messages int
		Seconds  float64
	}](strings.TrimPrefix(p.Stdout(), "ready\n")))(t)
	if len(said) != 1 || said[0].Seconds <= 0 {
		t.Fatalf("the attack printed %q", p.Stdout())
	}
	return int(float64(said[0].Messages) / said[0].Seconds)
}

// notice waits until every honest node has counted the attack and reports it.
func (s *siege) notice(t *testing.T, c siegeCase, had []float64) {
	t.Helper()
	for i, n := range s.honest {
		if c.counts != "" {
			eventually(t, afterwards, func() error {
				if got := n.metrics(t)[c.counts]; got <= had[i] {
					return fmt.Errorf("%s: %s was %.0f and is %.0f", n.Name, c.counts, had[i], got)
				}
				return nil
			})
		}
		if c.tells != "" {
			s.told(t, n, c)
		}
	}
}

// told waits until the node's status shows the attack and names the attacker by its certified name. Except for what is
// held, the number in the name may be that of an earlier attacker: all hostile members share an address, which a node
// reports at most once a minute.
func (s *siege) told(t *testing.T, n *node, c siegeCase) {
	t.Helper()
	name := hostileName
	if strings.HasPrefix(c.tells, "held:") {
		name = s.attacker() + " "
	}
	eventually(t, afterwards, func() error {
		said := n.status(t).Problems
		for _, p := range said {
			if strings.HasPrefix(p, c.tells) && (c.nobody || strings.Contains(p, name) && !strings.Contains(p, claimedName)) {
				return nil
			}
		}
		return fmt.Errorf("%s: no problem %q that names %s among %q", n.Name, c.tells, name, said)
	})
}

// table returns the results of every attack so far.
func (s *siege) table() string {
	return strings.Join(append([]string{
		"| attack | messages a second | ban elsewhere, calm -> attacked (median, ms) | ban at home | longest command (ms) | MiB more | MiB at most | digests | pings lost, probes lost, ssh |",
		"|---|---|---|---|---|---|---|---|---|",
	}, s.rows...), "\n")
}

// noEscapes checks that nothing that an operator reads contains a control character.
func noEscapes(t *testing.T, s *siege) {
	for _, n := range s.honest {
		for _, args := range [][]string{{"members"}, {"members", "--json"}, {"status"}, {"list"}} {
			if out := n.run(t, args...); strings.ContainsFunc(out, func(r rune) bool { return r < ' ' && r != '\n' || r == 0x7f }) {
				t.Errorf("%s: %v: %q", n.Name, args, out)
			}
		}
		if log := n.agent.Tail(500); strings.ContainsAny(log, "\x1b\a\r") {
			t.Errorf("%s: the log holds an escape: %q", n.Name, log)
		}
	}
}

// boundedBans checks that one member's bans stay within its caps.
func boundedBans(t *testing.T, s *siege) {
	const most = 5000 + 60 // the burst, and the refill of a second or two
	for _, n := range s.honest {
		st := n.status(t)
		const others = calmBans + 30*attackBans // measured bans
		if st.Bans.Active > most+others || st.Firewall.Enforced > st.Bans.Active {
			t.Errorf("%s: %+v, %+v", n.Name, st.Bans, st.Firewall)
		}
		t.Logf("%s: %+v", n.Name, st.Bans)
	}
}
