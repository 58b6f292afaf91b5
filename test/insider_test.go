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

const (
	// crowd4 and crowd6 are the numbers of honest IPv4 and IPv6 bans in a crowd, in networks of their own: 100,000 in all.
	crowd4, crowd6 = 70_000, 30_000
	// crowdLimit bounds how long the honest nodes take to enforce a crowd.
	crowdLimit = 3 * time.Minute
	// liftsOfOne is how many of others' bans one member may lift at once and during an attack; liftsOfAll is how many all
	// members together may lift.
	liftsOfOne, liftsOfAll = 5000 + 200, 20_000 + 6000
	// revokeLimit bounds a revocation, and the return of all bans that it restores: see commandLimit.
	revokeLimit = commandLimit
)

// eachBackend sets up three honest nodes, each with another firewall backend.
func eachBackend(config string) setup {
	return setup{nodes: 3, config: config, before: func(n *node) {
		if n.Index <= 3 {
			n.args = append(n.args, "--firewall", []string{"ipset", "nftables", "iptables"}[n.Index-1])
		}
	}}
}

// neededStays checks that a lookout saw no fault, and that `meshban why` on each node says that it drops nothing it needs.
func neededStays(t *testing.T, s *siege, seen sights) {
	t.Helper()
	for _, err := range seen.errs {
		t.Error(err)
	}
	why(t, s)
	t.Log(seen)
}

// A member sends more allows than a kernel's list of exceptions takes, of addresses that sort before all others, and bans
// the networks of the members, of the gateway, and of a logged-in administrator.
func TestAllowsPushNothingNeededOut(t *testing.T) {
	s := besiegeWith(t, 0, eachBackend(""))
	s.look = s.lookOut(t)
	seen := s.look.during(t, func() {
		p := s.attack(t, "allow", "-for", "12s", "-life", "1m", "-ban", s.look.needed("10.77.0.0/24"))
		must(p.Wait(3 * afterwards))(t)
		during(time.Second)
	})
	neededStays(t, s, seen)
	s.agree(t)
}

// The same if the operators themselves allow many addresses.
func TestHonestAllowsPushNothingNeededOut(t *testing.T) {
	var config, ops strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&config, "%v, ", netip.AddrFrom4([4]byte{1, 1, byte(i >> 7), byte(i << 1)}))
	}
	s := besiegeWith(t, 0, eachBackend("allow: ["+strings.TrimSuffix(config.String(), ", ")+"]"))
	for i := range 1000 {
		fmt.Fprintf(&ops, " 1.2.%d.%d", i>>7, i<<1&255)
	}
	s.look = s.lookOut(t)
	seen := s.look.during(t, func() {
		for i, n := range s.honest {
			must(n.Shell("meshban allow --for 1h " + strings.ReplaceAll(ops.String(), " 1.2.", fmt.Sprintf(" 1.%d.", 2+i))))(t)
		}
		p := s.attack(t, "bans", "-for", "3s", "-ban", s.look.needed("10.77.0.0/24"))
		must(p.Wait(afterwards))(t)
		during(time.Second)
	})
	neededStays(t, s, seen)
	s.agree(t)
}

// A member signs a claim that it is reached at an address that is not its own. That puts the address on no list: a ban
// of it counts.
func TestClaimedAddress(t *testing.T) {
	t.Parallel()
	s := besiege(t, 3)
	victim := fresh()
	pairs := s.watchHonest(t, victim)
	p := s.attack(t, "elsewhere", "-ban", victim.String()+"/32", "-for", untilEnded)
	eventually(t, syncLimit, func() error { // the claim has arrived
		for _, n := range s.honest {
			if !strings.Contains(n.run(t, "members", "--json"), victim.String()) {
				return fmt.Errorf("%s has no member at %v", n.Name, victim)
			}
		}
		return nil
	})
	for _, n := range s.honest {
		if got := n.covered(t, victim); got != "" {
			t.Errorf("%s never bans %s", n.Name, got)
		}
	}
	start := time.Now()
	r := must(s.honest[1].Run("meshban", "ban", victim.String(), "--for", "10m"))(t)
	if r.Code != exitDone {
		t.Fatalf("a ban of a claimed address: exit code %d: %s", r.Code, r.Stderr)
	}
	enforced(t, pairs, start)
	finish(t, p)
}

// crowd has two honest nodes import bans and waits until every kernel has them.
func (s *siege) crowd(t *testing.T) {
	t.Helper()
	var four, six strings.Builder
	for i := range crowd4 {
		fmt.Fprintf(&four, "20.%d.%d.%d\n", i>>16, i>>8&255, i&255)
	}
	for i := range crowd6 {
		fmt.Fprintf(&six, "2001:db8:ffff::%x:%x\n", i>>8, i&255)
	}
	for i, text := range []string{four.String(), six.String()} {
		check(t, s.honest[i].WriteFile("/root/crowd", text))
		must(s.honest[i].Shell("meshban import /root/crowd --for 1h"))(t)
	}
	s.crowded(t, crowd4+crowd6)
}

// crowded waits until every node enforces at least n bans.
func (s *siege) crowded(t *testing.T, n int) {
	t.Helper()
	eventually(t, crowdLimit, func() error {
		for _, h := range s.honest {
			if st := h.status(t); st.Firewall.Enforced < n {
				return fmt.Errorf("%s enforces %d, want %d", h.Name, st.Firewall.Enforced, n)
			}
		}
		return nil
	})
}

// crowdWide are prefixes that contain many bans of a crowd, crowdNarrow ones that contain some of them.
const (
	crowdWide   = "20.0.0.0/8,20.0.0.0/16,2001:db8::/32"
	crowdNarrow = "20.0.1.0/24,20.0.2.0/24,2001:db8:ffff::/48"
)

var crowdCases = []siegeCase{
	{name: "allows and unallows of wide prefixes in turns", attack: "sway",
		ban: func(*siege, netip.Addr) string { return crowdWide }, after: crowdStands},
	{name: "allows and unallows of narrow prefixes in turns", attack: "sway",
		ban: func(*siege, netip.Addr) string { return crowdNarrow }},
	{name: "unbans of wide prefixes", attack: "lift", ban: func(*siege, netip.Addr) string { return crowdWide }, after: crowdStands},
	{name: "unbans of a /48 that is full", attack: "lift", ban: func(*siege, netip.Addr) string { return "2001:db8:ffff::/48" }, tells: "held:", after: crowdStands},
	{name: "others' bans lifted one by one", attack: "each", args: []string{"-for", "3s"}, tells: "held:",
		ban: func(*siege, netip.Addr) string { return "20.0.0.0/16,2001:db8:ffff::/64" }, after: crowdStands},
}

// crowdStands checks that the attacking members have lifted no more than their caps.
func crowdStands(t *testing.T, s *siege) {
	for _, n := range s.honest {
		st := n.status(t)
		if st.Firewall.Enforced < crowd4+crowd6-min(s.attacks*liftsOfOne, liftsOfAll) {
			t.Errorf("%s enforces only %d of %d: %+v", n.Name, st.Firewall.Enforced, crowd4+crowd6, st.Bans)
		}
		t.Logf("%s: %+v, %+v", n.Name, st.Bans, st.Firewall)
	}
}

// A member lifts and allows prefixes that contain 100,000 honest bans.
func TestHostileAgainstManyBans(t *testing.T) {
	s := besiege(t, 3)
	s.crowd(t)
	s.look = s.lookOut(t)
	t.Logf("calm: %v", s.look.during(t, func() { s.calm = s.measure(t, calmBans) }))
	defer func() { t.Log(s.table()) }()
	for _, c := range crowdCases {
		t.Run("bad: "+c.name, func(t *testing.T) { s.try(t, c) })
	}
}

// A member has unbanned the same prefixes, which contain others' bans, thousands of times; then it is revoked. What it
// lifted counts again, and neither a command nor a fresh ban waits for that.
func TestRevokeIsNoBomb(t *testing.T) {
	const honestBans = 2000
	s := besiege(t, 3)
	var list strings.Builder
	for i := range honestBans / 2 {
		fmt.Fprintf(&list, "10.200.%d.%d\n2001:db8:fffe::%x\n", i>>7, i&127, 1+i)
	}
	check(t, s.honest[1].WriteFile("/root/list", list.String()))
	must(s.honest[1].Shell("meshban import /root/list --for 1h"))(t)
	s.crowded(t, honestBans)
	s.look = s.lookOut(t)
	calm := s.look.during(t, func() { s.calm = s.measure(t, calmBans/2) })
	t.Logf("calm: %v, %v", s.calm, calm)
	prefixes := "10.0.0.0/8,10.200.0.0/24,2001:db8:fffe::/48,10.200.1.0/24,10.200.2.0/24,10.200.3.0/24"
	p := s.attack(t, "bomb", "-ban", prefixes, "-for", "3s", "-life", "10m")
	must(p.Wait(afterwards))(t)
	id := s.idOf(t, p)
	s.agree(t)
	var revoked *rig.Proc
	var under figures
	var lost error
	begin := time.Now()
	seen := s.look.during(t, func() {
		revoked = must(s.honest[0].Start(rig.Cmd{Argv: []string{"meshban", "revoke", id}}))(t)
		under, _, lost = s.measureBeside(attackBans)
	})
	if e, err := revoked.Wait(revokeLimit); err != nil || e.Code != exitDone {
		t.Errorf("revoke: %+v, %v: %s", e, err, revoked.Stderr())
	}
	if lost != nil {
		t.Error(lost)
	}
	if err := s.slower(under, figures{}); err != nil {
		t.Error(err)
	}
	for _, err := range seen.errs {
		t.Error(err)
	}
	s.crowded(t, honestBans) // they count again
	took := time.Since(begin)
	if took > 2*revokeLimit {
		t.Errorf("the lifted bans count again only after %v", took)
	}
	s.agree(t)
	t.Logf("%v (before: %v), %v; all counts again after %v", under, s.calm, seen, took.Round(time.Millisecond))
}
