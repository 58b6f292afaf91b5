package daemon

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/fw"
)

// countsAll is a kernel in which each ban has dropped as many packets as its address has in the last byte.
type countsAll struct{ takesAll }

func (countsAll) Hits(context.Context) (fw.Hits, error) {
	return func(e fw.Entry) fw.Dropped {
		n := uint64(e.Prefix.Addr().AsSlice()[3])
		return fw.Dropped{Packets: n, Bytes: 60 * n}
	}, nil
}

// list and why tell what each ban in force has dropped, if the config has it counted; else list says how to.
func TestHits(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	a.ban(t, time.Hour, "203.0.113.7/32", "203.0.113.8/32", "203.0.113.9/32")
	if _, err := a.Allow(t.Context(), control.AllowRequest{Prefixes: control.Prefixes{netip.MustParsePrefix("203.0.113.9/32")}, For: control.Duration(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	none := func(control.ListEntry) error { return nil }
	if e := control.AsError(a.List(t.Context(), true, none)); e == nil || e.Code != control.CodeFailed || !strings.Contains(e.Hint, "counters: true") {
		t.Errorf("without counters: %+v", e)
	}
	if rep, err := a.Why(t.Context(), netip.MustParsePrefix("203.0.113.7/32")); err != nil || rep.Findings[0].Dropped != nil {
		t.Errorf("without counters: %+v, %v", rep, err)
	}
	a.stop()
	a.cfg.Firewall.Counters = true
	a = startWith(t, a.home, a.cfg, func(d *Daemon) { d.enforceWith(t, countsAll{takesAll{fw.NewNone()}}) })
	got := map[string]uint64{}
	if err := a.List(t.Context(), true, func(e control.ListEntry) error {
		if e.Dropped != nil {
			got[e.Prefix.String()] = e.Packets
		}
		return nil
	}); err != nil || len(got) != 2 || got["203.0.113.7"] != 7 || got["203.0.113.8"] != 8 {
		t.Errorf("%v, %v", got, err)
	}
	if e, _ := a.entry(t, "203.0.113.7/32"); e.Dropped != nil {
		t.Errorf("counted without being asked: %+v", e)
	}
	rep, err := a.Why(t.Context(), netip.MustParsePrefix("203.0.113.7/32"))
	if err != nil || len(rep.Findings) != 1 || rep.Findings[0].Dropped == nil || rep.Findings[0].Packets != 7 || rep.Findings[0].Bytes != 420 {
		t.Errorf("%+v, %v", rep, err)
	}
	if rep, err := a.Why(t.Context(), netip.MustParsePrefix("203.0.113.9/32")); err != nil || rep.Findings[0].Dropped != nil || rep.Findings[1].Dropped != nil {
		t.Errorf("an allowed one: %+v, %v", rep, err)
	}
}

// countsSlowly is a kernel whose counters take for ever to read.
type countsSlowly struct{ takesAll }

func (countsSlowly) Hits(ctx context.Context) (fw.Hits, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// why answers without the counters if reading them takes too long.
func TestWhyDoesNotWaitForCounters(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	a.stop()
	a.cfg.Firewall.Counters = true
	a = startWith(t, a.home, a.cfg, func(d *Daemon) { d.enforceWith(t, countsSlowly{takesAll{fw.NewNone()}}) })
	a.ban(t, time.Hour, "203.0.113.7/32")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	rep, err := a.Why(ctx, netip.MustParsePrefix("203.0.113.7/32"))
	if err != nil || ctx.Err() != nil || len(rep.Findings) != 1 || rep.Findings[0].Dropped != nil {
		t.Errorf("%+v, %v, %v", rep, err, ctx.Err())
	}
}
