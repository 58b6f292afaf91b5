//go:build linux && netns

package fw

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// damage is what another program may do to our part of the kernel. IPT in its script stands for the iptables command.
type damage struct {
	script string
	opens  bool // banned addresses get through
	bends  string
}

// ruleDamages apply to backends with iptables rules.
var ruleDamages = []damage{
	{"IPT -t raw -F", true, ""},
	{"IPT -t raw -D PREROUTING 1", true, ""},
	{"IPT -t raw -I PREROUTING -s 203.0.113.99 -j ACCEPT", false, "IPT -t raw -D PREROUTING -s 203.0.113.99 -j ACCEPT"},
	{"IPT -t raw -I PREROUTING -j ACCEPT", true, "IPT -t raw -D PREROUTING -j ACCEPT"},
	{"IPT -t raw -A PREROUTING ! -i lo -j MESHBAN", false, ""},
	{"IPT -t raw -F MESHBAN", true, ""},
	{"IPT -t raw -F MESHBAN-HIT", true, ""},
	{"IPT -t raw -D MESHBAN 1", true, ""},
	{"IPT -t raw -I MESHBAN-HIT -j RETURN", true, ""},
	{"IPT -t raw -F; IPT -t raw -X", true, ""},
}

// destroy removes rules and sets. In the nf_tables variant, sets stay in use for a moment after their rules are gone.
const destroy = "for c in IPT IP6T; do $c -t raw -F; $c -t raw -X; done; " +
	"n=0; until ipset destroy 2>/dev/null; do n=$((n+1)); test $n -lt 500; done"

var damages = map[string][]damage{
	NameIPSet: append([]damage{
		{destroy, true, ""},
		{destroy + "; ipset create meshban4 hash:net; ipset create meshban6a hash:ip family inet6", true, ""},
		{"ipset create foreign hash:net timeout 7; IPT -t raw -F MESHBAN; ipset swap foreign meshban4n", true, ""},
	}, ruleDamages...),
	NameIPTables: ruleDamages,
	NameNFTables: {
		{"nft flush ruleset", true, ""},
		{"nft delete table inet meshban; nft add table inet meshban", true, ""},
		{"nft flush chain inet meshban v4", true, ""},
		{"nft flush chain inet meshban hit-v4", true, ""},
		{"nft insert rule inet meshban prerouting accept", true, ""},
		{"nft insert rule inet meshban hit-v4 return", true, ""},
		{"nft flush chain inet meshban prerouting; nft delete chain inet meshban prerouting; " +
			"nft add chain inet meshban prerouting '{ type filter hook prerouting priority 300; }'", true, ""},
	},
}

func TestDriftIsSeenAndMended(t *testing.T) {
	eachVariant(t, func(t *testing.T, r *rig, v variant) {
		b := r.open(v, OutboundDrop)
		all := state(entry("192.0.2.1"), entry("2001:db8::1"))
		mustReplace(t, b, all)
		list := damages[v.backend]
		if strings.HasSuffix(v.iptables, "-nft") && v.backend != NameNFTables {
			list = append(list, damage{"nft flush ruleset", true, ""})
		}
		for _, d := range list {
			r.want(false, "192.0.2.1")
			script := strings.NewReplacer("IPT", v.iptables, "IP6T", commandName(v.iptables, true, false))
			sh(t, script.Replace(d.script))
			problems, err := b.Check(ctx)
			if err != nil || len(problems) == 0 {
				t.Errorf("after %q: problems %q, %v", d.script, problems, err)
			}
			t.Logf("%s: %q", d.script, problems)
			if d.opens != r.udpReaches("192.0.2.1", 22) {
				t.Errorf("after %q: reaches = %v", d.script, !d.opens)
			}
			mustReplace(t, b, all)
			r.want(false, "192.0.2.1")
			r.want(false, "2001:db8::1")
			if problems, err := b.Check(ctx); err != nil || len(problems) > 0 {
				t.Errorf("after mending %q: problems %q, %v", d.script, problems, err)
			}
			if d.bends != "" {
				sh(t, script.Replace(d.bends))
			}
		}
		r.want(false, "192.0.2.1")
		r.want(true, "192.0.2.2")
	})
}

func TestTableThatCannotBeMendedIsMadeAnew(t *testing.T) {
	t.Run("nftables", func(t *testing.T) {
		if !inside(t) {
			return
		}
		r := newRig(t)
		b := r.open(variant{"nftables", NameNFTables, "iptables-nft"}, OutboundDrop)
		all := state(entry("192.0.2.1"))
		mustReplace(t, b, all)
		sh(t, "nft add chain inet meshban alien; nft add rule inet meshban alien ip saddr @"+nftSetName(false, kindAddr, b.(*nft).generation)+" drop")
		if err := b.Replace(ctx, time.Now(), all); err == nil {
			t.Fatal("a set in use by someone else was deleted")
		}
		r.want(false, "192.0.2.1")
		mustReplace(t, b, all)
		r.want(false, "192.0.2.1")
		if problems, err := b.Check(ctx); err != nil || len(problems) > 0 {
			t.Errorf("problems %q, %v", problems, err)
		}
	})
}

// runSyncer starts a Syncer that checks every tick and has loaded the snapshot. repaired receives its repairs; stop ends it.
func runSyncer(t *testing.T, b Backend, tick time.Duration, snapshot func() State) (s *Syncer, repaired chan []string, stop func()) {
	t.Helper()
	repaired = make(chan []string, 10)
	s, err := NewSyncer(SyncerConfig{
		Backend: b, Snapshot: snapshot, CheckEvery: tick, OnRepair: func(problems []string) { repaired <- problems },
	})
	if err != nil {
		t.Fatal(err)
	}
	return s, repaired, start(t, s)
}

// start runs s and loads the snapshot; stop ends s.
func start(t *testing.T, s *Syncer) (stop func()) {
	t.Helper()
	running, cancel := context.WithCancel(ctx)
	ended := make(chan error)
	go func() { ended <- s.Run(running) }()
	if err := s.Replace(ctx); err != nil {
		t.Fatal(err)
	}
	return func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// refusing is a backend that can be made to refuse exceptions.
type refusing struct {
	Backend
	refuse atomic.Bool
}

func (b *refusing) SetExceptions(ctx context.Context, x Exceptions, from *Exceptions) error {
	if b.refuse.Load() {
		return syscall.ENOMEM
	}
	return b.Backend.SetExceptions(ctx, x, from)
}

func TestSyncerMendsWithinATick(t *testing.T) {
	eachVariant(t, func(t *testing.T, r *rig, v variant) {
		const tick = 300 * time.Millisecond
		all := []Entry{entry("192.0.2.1"), entry("198.18.0.0/16")}
		s, repaired, stop := runSyncer(t, r.open(v, OutboundDrop), tick, func() State { return state(all...) })
		r.want(false, "192.0.2.1")

		extra := entry("192.0.2.55")
		all = append(all, extra)
		done := make(chan error)
		start := time.Now()
		var at time.Time
		s.Submit([]Update{{Entry: extra}}, func(when time.Time, err error) { at = when; done <- err })
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		t.Logf("submit to kernel: %v", at.Sub(start))
		r.want(false, "192.0.2.55")

		if v.backend == NameNFTables {
			sh(t, "nft flush ruleset")
		} else {
			sh(t, v.iptables+" -w -t raw -F")
		}
		select {
		case problems := <-repaired:
			t.Logf("mended: %q", problems)
		case <-time.After(patience):
			t.Fatal("not mended")
		}
		for _, src := range []string{"192.0.2.1", "192.0.2.55", "198.18.9.9"} {
			r.want(false, src)
		}
		if st := s.Status(); st.Repairs != 1 || st.Enforced != 3 || st.LastError != "" {
			t.Errorf("status %+v", st)
		}
		stop()
		r.want(false, "192.0.2.1") // the kernel keeps what it has
	})
}

func TestRulesEndByTheSyncer(t *testing.T) {
	eachVariant(t, func(t *testing.T, r *rig, v variant) {
		if v.backend != NameIPTables {
			return // the kernel does it, see TestKernelForgetsByItself
		}
		s, _, stop := runSyncer(t, r.open(v, OutboundDrop), 0, func() State { return state() })
		short := Entry{Prefix: prefix("192.0.2.1"), Until: time.Now().Add(3 * time.Second)}
		done := make(chan error)
		s.Submit([]Update{{Entry: short}, {Entry: entry("192.0.2.2")}}, func(_ time.Time, err error) { done <- err })
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if r.udpReaches("192.0.2.1", 22) && time.Now().Before(short.Until) {
			t.Error("192.0.2.1 gets through")
		}
		eventually(t, patience, "192.0.2.1 is let go", func() bool { return r.udpReaches("192.0.2.1", 22) })
		r.want(false, "192.0.2.2")
		stop()
	})
}

// Lifting the narrower of two prefixes with the same address used to make ip6tables-nft remove the rule of the wider one:
// banned addresses got through, and lifted ones stayed dropped.
func TestLiftingAPrefixLeavesTheWiderOne(t *testing.T) {
	eachVariant(t, func(t *testing.T, r *rig, v variant) {
		b := r.open(v, OutboundDrop)
		mustReplace(t, b, state(entry("2001:db8::/122"), entry("2001:db8::/125"), entry("198.18.0.0/26"), entry("198.18.0.0/29")))
		for _, lifted := range []string{"2001:db8::/125", "198.18.0.0/29"} {
			must(t, b, Update{Entry: entry(lifted), Remove: true})
		}
		for _, src := range []string{"2001:db8::1", "2001:db8::30", "198.18.0.1", "198.18.0.60"} {
			r.want(false, src)
		}
		if problems, err := b.Check(ctx); err != nil || len(problems) > 0 {
			t.Errorf("problems %q, %v", problems, err)
		}
		must(t, b, Update{Entry: entry("2001:db8::/122"), Remove: true}, Update{Entry: entry("2001:db8::8/125")})
		r.want(true, "2001:db8::30")
		r.want(false, "2001:db8::9")
	})
}

func TestOnlyTheNewestRulesStay(t *testing.T) {
	eachVariant(t, func(t *testing.T, r *rig, v variant) {
		if v.backend != NameIPTables {
			return
		}
		b := r.open(v, OutboundDrop)
		until := time.Now().Add(time.Minute)
		var entries []Entry
		for i := range 1200 {
			a := prefix("10.0.0.0").Addr().As4()
			a[2], a[3] = byte(i>>8), byte(i)
			entries = append(entries, Entry{Prefix: prefix(netipString(a)), Until: until.Add(time.Duration(i) * time.Second)})
		}
		entries = append(entries, Entry{Prefix: prefix("192.0.2.1"), Until: until}, Entry{Prefix: prefix("192.0.2.2"), Until: until.Add(time.Hour)})
		var partial *PartialError
		if err := b.Replace(ctx, time.Now(), state(entries...)); !errors.As(err, &partial) || len(partial.Refused) != len(entries)-maxRuleEntries {
			t.Fatal(err)
		}
		r.want(true, "192.0.2.1")
		r.want(false, "192.0.2.2")
		var updates []Update
		for _, e := range entries[:999] {
			updates = append(updates, Update{Entry: e})
		}
		if err := b.Apply(ctx, time.Now(), updates); !errors.As(err, &partial) || len(partial.Refused) != 201 {
			t.Fatal(err)
		}
		r.want(false, "192.0.2.2")
		oldest := netipString([4]byte{10, 0, 0, 0})
		refuses(t, b.Apply(ctx, time.Now(), []Update{{Entry: entry("192.0.2.3")}, {Entry: entry("192.0.2.4")}}), "192.0.2.2", oldest)
		r.want(true, "192.0.2.2")
		r.want(false, "192.0.2.3")
		if n := strings.Count(sh(t, v.iptables+" -t raw -S MESHBAN"), "-g MESHBAN-HIT"); n != maxRuleEntries {
			t.Errorf("%d rules", n)
		}
		if problems, err := b.Check(ctx); err != nil || len(problems) > 0 {
			t.Errorf("problems %q, %v", problems, err)
		}
		sh(t, v.iptables+" -t raw -D MESHBAN 7")
		for i := range updates {
			updates[i].Remove = true
		}
		must(t, b, updates...)
		if problems, err := b.Check(ctx); err != nil || len(problems) > 0 {
			t.Errorf("a missing rule is not written again: problems %q, %v", problems, err)
		}
	})
}
