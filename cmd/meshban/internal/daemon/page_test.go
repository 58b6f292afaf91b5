package daemon

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/ui"
	"github.com/meshban/meshban/fw"
)

// The counts turn with the clock, and forget what is more than a day ago.
func TestPaceForgetsAfterADay(t *testing.T) {
	start := time.Date(2026, 11, 27, 13, 50, 30, 0, time.UTC)
	fresh := func(source string) ban.Change {
		return ban.Change{Event: ban.EventBan, Enforce: true, Source: source}
	}
	var p paces
	p.add(start, []ban.Change{fresh("line:sshd"), fresh("cli"), {Event: ban.EventRefresh, Enforce: true}, {Event: ban.EventBan}})
	p.add(start.Add(-time.Hour), []ban.Change{fresh("cli")}) // a clock that was set back
	total := func(at time.Time) (n, inSources int) {
		pace := p.read(at)
		if len(pace.Minutes) != ui.PaceMinutes {
			t.Fatalf("%d minutes", len(pace.Minutes))
		}
		for _, m := range pace.Minutes {
			n += m
		}
		for _, s := range pace.Sources {
			inSources += s.N
		}
		return n, inSources
	}
	for _, c := range []struct {
		after       time.Duration
		n, inSource int
	}{{0, 3, 3}, {time.Hour, 3, 3}, {24*time.Hour - time.Minute, 3, 0}, {24 * time.Hour, 0, 0}, {100 * time.Hour, 0, 0}} {
		n, inSource := total(start.Add(c.after))
		if n != c.n {
			t.Errorf("%v later: %d bans, want %d", c.after, n, c.n)
		}
		if c.after != 24*time.Hour-time.Minute && inSource != c.inSource { // sources go by the hour
			t.Errorf("%v later: %d in sources, want %d", c.after, inSource, c.inSource)
		}
	}
}

// Peers choose the sources: they must not fill the memory.
func TestPaceBoundsSources(t *testing.T) {
	var p paces
	now := time.Now()
	for i := range 10 * pacedSources {
		p.add(now, []ban.Change{{Event: ban.EventBan, Enforce: true, Source: fmt.Sprint("line:", i)}})
	}
	got := p.read(now).Sources
	if len(got) != pacedSources+1 {
		t.Errorf("%d sources are told apart, want %d and the others", len(got), pacedSources)
	}
	n := 0
	for _, s := range got {
		n += s.N
	}
	if n != 10*pacedSources {
		t.Errorf("%d bans in sources, want %d", n, 10*pacedSources)
	}
}

// Each node tells how long a ban took into its kernel.
func TestWayHasEveryKernel(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	b := a.join(t, "b")
	if w := b.Way(t.Context()); w.Origin != "" || len(w.MS) != 0 {
		t.Errorf("before the first ban: %+v", w)
	}
	if r := a.ban(t, time.Hour, "192.0.2.1/32").Results[0]; r.Err != nil {
		t.Fatalf("%+v", r.Err)
	}
	for _, n := range []*node{a, b} {
		var w ui.Way
		until(t, "both nodes have told", func() bool { w = n.Way(t.Context()); return len(w.MS) == 2 })
		if w.Prefix.String() != "192.0.2.1" || w.Origin != "a" || w.MS[a.self.String()] < 0 || w.MS[b.self.String()] <= 0 || w.MS[b.self.String()] > 60_000 {
			t.Errorf("%+v", w)
		}
	}
}

// Only the last bans are told.
func TestWaysAreBounded(t *testing.T) {
	var p paces
	now := time.Now()
	for i := range 10 {
		p.took(ban.Change{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 32), Issued: now}, now.Add(time.Millisecond))
	}
	got := p.lastWays()
	if len(got) != maxToldWays || got[0].prefix.Addr().String() != "192.0.2.9" || got[0].took != time.Millisecond {
		t.Errorf("%+v", got)
	}
}

// A search by state finds what the list shows in that state, and nothing else.
func TestFindByState(t *testing.T) {
	t.Parallel()
	none := first(t, "none")
	none.stop()
	none = startWith(t, none.home, none.cfg, func(d *Daemon) { d.enforceWith(t, fw.NewNone()) })
	for _, c := range []struct {
		n    *node
		want map[string]int
	}{
		{none, map[string]int{"": 3, control.StateNotEnforced: 2, ban.StateAllowed.String(): 1}},
		{first(t, "kernel"), map[string]int{"": 3, ban.StateEnforced.String(): 2, ban.StateAllowed.String(): 1}},
	} {
		c.n.ban(t, time.Hour, "203.0.113.7/32", "203.0.113.8/32", "203.0.113.9/32")
		if _, err := c.n.Allow(t.Context(), control.AllowRequest{Prefixes: control.Prefixes{netip.MustParsePrefix("203.0.113.9/32")}, For: control.Duration(time.Hour)}); err != nil {
			t.Fatal(err)
		}
		for _, state := range []string{"", ban.StateEnforced.String(), control.StateNotEnforced, control.StatePending, ban.StateAllowed.String()} {
			found := 0
			if err := c.n.Find(t.Context(), ui.Search{State: state}, func(control.ListEntry) error { found++; return nil }); err != nil || found != c.want[state] {
				t.Errorf("%s: %d are %q, want %d: %v", c.n.cfg.Name, found, state, c.want[state], err)
			}
		}
	}
}
