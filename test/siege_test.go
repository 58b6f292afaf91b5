//go:build linux && netns

package test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/test/rig"
)

// tries is how often an attack is made whose figures are bad.
const tries = 3

// siegeCase is one attack and what must come of it.
type siegeCase struct {
	name   string
	attack string
	ban    func(s *siege, victim netip.Addr) string // the prefixes that the attack is after; nil: the victim
	counts string                                   // a metric of the honest nodes that must grow
	tells  string                                   // what a problem in their status must begin with; "": none need be
	banned bool                                     // the victim may be dropped
	after  func(t *testing.T, s *siege)
}

var siegeCases = []siegeCase{
	{name: "forged origin", attack: "forge", counts: `meshban_frames_refused_total{reason="signature"}`, tells: "forged:"},
	{name: "frames from the future", attack: "future", counts: `meshban_frames_refused_total{reason="future"}`},
	{name: "expired frames", attack: "expired", counts: `meshban_frames_refused_total{reason="expired"}`},
	{name: "over-wide prefixes", attack: "wide", counts: `meshban_refused_ops_total{rule="prefix too wide"}`},
	{name: "equivocation", attack: "equivocate", banned: true, tells: "equivocation:", ban: func(_ *siege, v netip.Addr) string {
		return fmt.Sprintf("%v/32,%v/32", v, fresh())
	}},
	{name: "addresses of peers and the whole internet", attack: "bans", counts: `meshban_refused_ops_total{rule="prefix too wide"}`,
		ban: func(s *siege, _ netip.Addr) string {
			list := "0.0.0.0/0,::/0,10.77.0.0/24"
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
	{name: "frames that last for a year", attack: "hoard", counts: "meshban_limited_packets_total", tells: "flood:"},
	{name: "10,000 bans a second", attack: "storm", counts: "meshban_limited_packets_total", tells: "flood:", after: boundedBans},
	{name: "0.0.0.0/1 in /8s and /24s", attack: "half", counts: `meshban_refused_ops_total{rule="prefix too wide"}`, tells: "held:", after: boundedBans},
}

// A certified member does what it can, one attack after the other, and the honest nodes go on as before. So does a mesh
// beside them on the same machine, whose figures tell what is the attack's from what is the machine's.
func TestHostile(t *testing.T) {
	s := besiegeBeside(t, 3, 3)
	during(time.Second) // the start is over
	s.calm = s.measure(t, calmBans)
	before := make([]resources, len(s.honest))
	for i, n := range s.honest {
		before[i] = n.resources(t)
	}
	t.Logf("before: %v", s.calm)
	for _, c := range siegeCases {
		t.Run("bad: "+c.name, func(t *testing.T) { s.try(t, c) })
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
	var p *rig.Proc
	var under, beside figures
	for try := 1; ; try++ {
		p = s.attack(t, c.attack, "-ban", list)
		under, beside = s.measureBeside(t, attackBans)
		if e := must(p.Wait(afterwards))(t); e.Code != exitDone {
			t.Errorf("the attack ended with %+v: %s", e, p.Stderr())
		}
		if !c.banned {
			s.spared(t, pairs)
		}
		err := errors.Join(s.slower(under), s.slower(beside))
		if err == nil {
			break
		}
		if try == tries {
			t.Error(err)
			break
		}
		// The machine itself may have become slower since: once more, beside what it does now.
		t.Log(err)
		s.calm = s.measure(t, calmBans/2)
	}
	s.agree(t)
	rss := 0
	for i, n := range s.honest {
		rss = max(rss, n.peakRSS(t))
		if got := n.metrics(t)[c.counts]; c.counts != "" && got <= had[i] {
			t.Errorf("%s: %s was %.0f and is %.0f", n.Name, c.counts, had[i], got)
		}
		if said := n.status(t).Problems; c.tells != "" && !strings.Contains("\n"+strings.Join(said, "\n"), "\n"+c.tells) {
			t.Errorf("%s: no problem %q among %q", n.Name, c.tells, said)
		}
	}
	if c.after != nil {
		c.after(t, s)
	}
	t.Logf("%v (beside: %v; before: %v); at most %d MiB; %s", under, beside, s.calm, rss>>10, strings.TrimSpace(strings.TrimPrefix(p.Stdout(), "ready\n")))
}

// noEscapes says that nothing that an operator reads holds a control character.
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

// boundedBans says that one member has got no further than its caps.
func boundedBans(t *testing.T, s *siege) {
	const most = 5000 + 60 // at once, and what comes back in a second or two
	for _, n := range s.honest {
		st := n.status(t)
		const others = calmBans + 30*attackBans // what was measured
		if st.Bans.Active > most+others || st.Firewall.Enforced > st.Bans.Active {
			t.Errorf("%s: %+v, %+v", n.Name, st.Bans, st.Firewall)
		}
		t.Logf("%s: %+v", n.Name, st.Bans)
	}
}
