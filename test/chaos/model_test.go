//go:build linux && netns

package chaos

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var (
	onePrefix = netip.MustParsePrefix("198.18.0.1/32")
	someTime  = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
)

// said returns an acknowledged command that took a second.
func said(by string, at time.Duration) command {
	return command{by: by, start: someTime.Add(at), end: someTime.Add(at + time.Second), acked: true}
}

// listed returns a list with onePrefix banned until a time.
func listed(until time.Duration, ids ...string) map[netip.Prefix]entry {
	return map[netip.Prefix]entry{onePrefix: {Until: someTime.Add(until), State: "enforced", OriginIDs: ids}}
}

// The oracle finds what is missing and what should be gone, and demands nothing that it cannot know.
func TestOracle(t *testing.T) {
	const hour = time.Hour
	nothing := map[netip.Prefix]entry{}
	weak, failed, raced := said("a", 0), said("a", 0), said("a", 0)
	weak.weak, failed.acked, raced.raced = true, false, true
	for _, tt := range []struct {
		name string
		do   func(o *oracle)
		list map[netip.Prefix]entry
		at   time.Duration
		want string // "" = no finding
	}{
		{"ok: banned and listed", func(o *oracle) { o.banned(said("a", 0), hour, onePrefix) }, listed(hour), 2 * time.Second, ""},
		{"bad: an acknowledged ban is lost", func(o *oracle) { o.banned(said("a", 0), hour, onePrefix) }, nothing, 2 * time.Second, "missing"},
		{"bad: so after a kill", func(o *oracle) { o.banned(said("a", 0), hour, onePrefix); o.killed("a") }, nothing, 2 * time.Second, "missing"},
		{"ok: a kill with a full disk may lose it", func(o *oracle) { o.banned(weak, hour, onePrefix); o.killed("a") }, nothing, 2 * time.Second, ""},
		{"bad: a full disk alone does not lose it", func(o *oracle) { o.banned(weak, hour, onePrefix); o.killed("b") }, nothing, 2 * time.Second, "missing"},
		{"ok: it has ended", func(o *oracle) { o.banned(said("a", 0), time.Minute, onePrefix) }, nothing, time.Minute, ""},
		{"ok: its end is near", func(o *oracle) { o.banned(said("a", 0), time.Minute, onePrefix) }, listed(time.Minute), time.Minute + 3*time.Second, ""},
		{"bad: it outlives its end", func(o *oracle) { o.banned(said("a", 0), time.Minute, onePrefix) }, listed(time.Minute), time.Minute + 5*time.Second, "must not be in force"},
		{"bad: a lifted ban is back", func(o *oracle) { o.banned(said("a", 0), hour, onePrefix); o.lifted(said("b", time.Second), onePrefix) }, listed(hour), 2 * time.Second, "must not be in force"},
		{"bad: a ban after an unban is lost", func(o *oracle) { o.lifted(said("b", 0), onePrefix); o.banned(said("a", time.Second), hour, onePrefix) }, nothing, 3 * time.Second, "missing"},
		{"ok: nobody knows of a failed command", func(o *oracle) { o.banned(failed, hour, onePrefix) }, listed(hour), 2 * time.Second, ""},
		{"ok: nor of a race", func(o *oracle) { o.banned(said("b", 0), hour, onePrefix); o.lifted(raced, onePrefix) }, nothing, 2 * time.Second, ""},
		{"bad: a revoked node's ban", func(o *oracle) { o.banned(said("a", 0), hour, onePrefix); o.revoke("a") }, listed(hour), 2 * time.Second, "must not be in force"},
		{"bad: one that it says later", func(o *oracle) { o.revoke("a"); o.banned(said("a", 0), hour, onePrefix) }, listed(hour), 2 * time.Second, "must not be in force"},
		{"bad: with it goes another node's", func(o *oracle) {
			o.banned(said("a", 0), hour, onePrefix)
			o.banned(said("b", 0), hour, onePrefix)
			o.revoke("a")
		}, nothing, 2 * time.Second, "missing"},
		{"ok: what a revoked node has lifted may be back", func(o *oracle) {
			o.banned(said("b", 0), hour, onePrefix)
			o.lifted(said("a", time.Second), onePrefix)
			o.revoke("a")
		}, listed(hour), 2 * time.Second, ""},
		{"ok: so if the command raced", func(o *oracle) {
			o.banned(said("b", 0), hour, onePrefix)
			o.lifted(raced, onePrefix)
			o.settle(nothing)
			o.revoke("a")
		}, listed(hour), 2 * time.Second, ""},
		{"bad: no node banned it", func(o *oracle) {}, listed(hour), 0, "no node banned it"},
		{"bad: what was settled is lost", func(o *oracle) { o.banned(failed, hour, onePrefix); o.settle(listed(hour, "a")) }, nothing, 2 * time.Second, "missing"},
		{"bad: what was settled is back", func(o *oracle) { o.banned(failed, hour, onePrefix); o.settle(nothing) }, listed(hour), 2 * time.Second, "must not be in force"},
	} {
		o := newOracle()
		tt.do(o)
		found := o.judge(tt.list, someTime.Add(tt.at), someTime.Add(tt.at))
		if tt.want == "" && len(found) > 0 || tt.want != "" && (len(found) != 1 || !strings.Contains(found[0].what, tt.want)) {
			t.Errorf("%s: %v, want %q", tt.name, found, tt.want)
		}
	}
}

// An element in a kernel is compared with the latest end that any command asked for.
func TestOutlived(t *testing.T) {
	o := newOracle()
	o.begin(onePrefix)
	seen := map[netip.Prefix]bool{onePrefix: true}
	at := func(d time.Duration) int { return len(o.outlived(seen, someTime.Add(d))) }
	if at(time.Hour) != 0 {
		t.Error("a command is under way, and yet there is a finding")
	}
	o.banned(said("a", 0), time.Minute, onePrefix)
	if at(time.Minute+3*time.Second) != 0 || at(time.Minute+5*time.Second) != 1 {
		t.Error("the end is not where it should be")
	}
}

// A kernel is compared with the lists read before and after it.
func TestKernelFault(t *testing.T) {
	list, none := listed(time.Hour), map[netip.Prefix]entry{}
	has, empty := map[netip.Prefix]bool{onePrefix: true}, map[netip.Prefix]bool{}
	held := map[netip.Prefix]entry{onePrefix: {State: "held"}}
	for _, tt := range []struct {
		name          string
		before, after map[netip.Prefix]entry
		elements      map[netip.Prefix]bool
		want          string
	}{
		{"ok: both", list, list, has, ""},
		{"ok: neither", none, none, empty, ""},
		{"ok: it has just ended", list, none, empty, ""},
		{"ok: it has just ended in the list", list, none, has, ""},
		{"bad: only listed", list, list, empty, "not in the kernel"},
		{"bad: only in the kernel", none, none, has, "not listed"},
		{"bad: held", held, held, has, "it is held"},
	} {
		got := kernelFault(tt.before, tt.after, tt.elements).what
		if (tt.want == "") != (got == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// A seed always gives the same plans, and those of the run in CI have every kind of step and fault.
func TestPlan(t *testing.T) {
	const rounds = 4
	draw := func() (all []plan) {
		r := rand.New(rand.NewPCG(*seedFlag, 0))
		for round := range rounds {
			p := newPlan(r, round)
			for i := range p.episodes {
				p.episodes[i].on = nil // functions do not compare
			}
			all = append(all, p)
		}
		return all
	}
	plans := draw()
	if !reflect.DeepEqual(plans, draw()) {
		t.Error("two plans of one seed differ")
	}
	seen := map[string]bool{}
	for _, p := range plans {
		for i, steps := range p.steps {
			for j, s := range steps {
				seen[s.do] = true
				if i == kept && (s.do == doKill || s.do == doCrash || s.do == doRestart || s.do == doLocked) {
					t.Errorf("%s of the node that is never killed", s.do)
				}
				if j > 0 && s.at < steps[j-1].at {
					t.Errorf("step %d comes before the one before it", j)
				}
			}
		}
		for _, e := range p.episodes {
			kind, _, _ := strings.Cut(e.kind, ", ")
			seen[kind] = true
		}
	}
	for _, want := range []string{
		doBan, doUnban, doRace, doImport, doKill, doCrash, doRestart, doFreeze, doFlush, doFull, doLocked, doMove, doRotate, doRevoke,
		"loss", "delay", "duplicates", "reordering", "corruption", "partition", "one way", "UDP only", "TCP only", "MTU hole",
	} {
		if !seen[want] {
			t.Errorf("%d rounds of seed %d have no %q", rounds, *seedFlag, want)
		}
	}
}

// udpFrame returns an Ethernet frame with a UDP packet.
func udpFrame(payload string) []byte {
	f := make([]byte, ethHeader+20+8, ethHeader+20+8+len(payload))
	copy(f, macPrefix)
	f[5] = 2
	binary.BigEndian.PutUint16(f[12:], unix.ETH_P_IP)
	f[ethHeader], f[ethHeader+9] = 0x45, unix.IPPROTO_UDP
	return append(f, payload...)
}

// sum returns the sum of a frame's 16-bit words, from which the Internet checksum is made.
func sum(frame []byte) (s uint32) {
	for ; len(frame) >= 2; frame = frame[2:] {
		s += uint32(binary.BigEndian.Uint16(frame))
	}
	return s
}

// Damage shows in the checksum or only in the payload, both often enough; it never changes the Ethernet header.
func TestDamage(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	var bySum, byPayload int
	for range 1000 {
		whole, f := udpFrame("0123456789abcdef"), udpFrame("0123456789abcdef")
		damage(f, parse(f), r)
		switch {
		case string(f[:ethHeader]) != string(whole[:ethHeader]):
			t.Fatal("the Ethernet header has changed")
		case sum(f) != sum(whole):
			bySum++
		case string(f) != string(whole):
			byPayload++
		}
	}
	if bySum < 300 || byPayload < 300 {
		t.Errorf("%d of 1000 are seen by the checksum, %d by the payload alone", bySum, byPayload)
	}
	arp := udpFrame("0123456789abcdef")
	binary.BigEndian.PutUint16(arp[12:], unix.ETH_P_ARP)
	whole := string(arp)
	if damage(arp, parse(arp), r); string(arp) != whole {
		t.Error("ARP, which has no checksum, was damaged")
	}
}

// A frame goes to its addressee and is subject to all faults of its direction, combined.
func TestSwitch(t *testing.T) {
	f := udpFrame("x")
	if !addressed(f, 1) || addressed(f, 0) {
		t.Error("a frame for the second node is not for it alone")
	}
	f[0] |= 1
	if !addressed(f, 0) || !addressed(f, 3) {
		t.Error("a broadcast is not for all")
	}
	w := &network{ports: make([]*os.File, 2)}
	w.set([]episode{
		{fault: fault{cut: true}, on: func(from, to int) bool { return from == 0 }},
		{fault: fault{mtu: 900, loss: 0.5}, on: func(from, to int) bool { return true }},
		{fault: fault{mtu: 700, loss: 0.1}, on: func(from, to int) bool { return true }},
	})
	got := *w.faults.Load()
	if want := (fault{mtu: 700, loss: 0.5}); got[1][0] != want {
		t.Errorf("back: %+v, want %+v", got[1][0], want)
	}
	if want := (fault{mtu: 700, loss: 0.5, cut: true}); got[0][1] != want {
		t.Errorf("there: %+v, want %+v", got[0][1], want)
	}
}

// Even growth of memory gives a slope that does not depend on the first third.
func TestSlope(t *testing.T) {
	var steady, leak []sample
	for i := range 30 {
		at, start := time.Duration(i)*time.Minute, int64(max(0, 10-i))<<20
		steady = append(steady, sample{at, 40<<20 - start})
		leak = append(leak, sample{at, 40<<20 - start + int64(i)*(200<<10)})
	}
	if got := slope(steady); got != 0 {
		t.Errorf("steady memory grows by %d", got)
	}
	if got, want := slope(leak), int64(2000<<10); got < want-10 || got > want+10 {
		t.Errorf("memory grows by %d, want %d", got, want)
	}
}
