package daemon

import (
	"context"
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/prober"
	"github.com/meshban/meshban/mesh/frame"
)

// drops is a probe of a firewall that works.
var drops = prober.Result{Control: prober.Packets, Counted: prober.Packets}

// probes makes a node's drills end with r and err. It passes on what was probed.
func (n *node) probes(r prober.Result, err error) <-chan [2]netip.Addr {
	saw := make(chan [2]netip.Addr, 16)
	n.drills.probe = func(_ context.Context, banned, control netip.Addr) (prober.Result, error) {
		saw <- [2]netip.Addr{banned, control}
		return r, err
	}
	return saw
}

// ready lets a node take part in drills without a pause.
func (n *node) ready() { n.drills.limit.SetLimit(rate.Inf) }

func verdictOf(t *testing.T, rep control.DrillReply, name string) control.DrillNode {
	t.Helper()
	i := slices.IndexFunc(rep.Nodes, func(n control.DrillNode) bool { return n.Name == name })
	if i < 0 {
		t.Fatalf("no verdict of %s: %+v", name, rep)
	}
	return rep.Nodes[i]
}

// Every node sends itself packets from an unused address, and the node that began the drill sums up the results.
func TestDrill(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	b, c := a.join(t, "b"), a.join(t, "c")
	saw := []<-chan [2]netip.Addr{a.probes(drops, nil), b.probes(drops, nil), c.probes(drops, nil)}
	// Addresses with a record are left alone.
	if r := a.ban(t, time.Hour, "192.0.2.0/25").Results[0]; r.Err != nil {
		t.Fatal(r.Err)
	}
	until(t, "all have the ban", func() bool { return b.enforces(t, "192.0.2.0/25") && c.enforces(t, "192.0.2.0/25") })
	rep, err := a.Drill(t.Context(), control.DrillRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if len(rep.Nodes) != 3 || rep.Nodes[0].Name != "a" || rep.Dropped != 3 || rep.Failed != 0 {
		t.Errorf("%+v", rep)
	}
	for _, name := range []string{"a", "b", "c"} {
		if n := verdictOf(t, rep, name); n.Verdict != control.DrillDropped || n.Why != "" || n.LatencyMS == nil {
			t.Errorf("%+v", n)
		}
	}
	if rep.P50MS == nil || rep.MaxMS == nil || *rep.P50MS > *rep.P95MS || *rep.P95MS > *rep.MaxMS {
		t.Errorf("percentiles: %v %v %v", rep.P50MS, rep.P95MS, rep.MaxMS)
	}
	last := netip.MustParsePrefix("192.0.2.128/25")
	for _, s := range saw {
		if got := <-s; got[0] != rep.Addr || got[1] == rep.Addr || !last.Contains(got[0]) || !last.Contains(got[1]) {
			t.Errorf("probed %v, want %v and another one of %v", got, rep.Addr, last)
		}
	}
	for _, n := range []*node{a, b} {
		s, err := n.Status(t.Context())
		if err != nil || s.Drill == nil || s.Drill.By != "a" || s.Drill.Verdict != control.DrillDropped || (s.Drill.Nodes == 3) != (n == a) {
			t.Errorf("%s: status: %+v, %v", n.cfg.Name, s.Drill, err)
		}
	}
	audited := false
	if err := a.Audit(t.Context(), time.Time{}, func(e control.AuditEntry) error {
		audited = audited || e.Source == sourceDrill && e.What == "ban" && e.Prefixes[0].Addr() == rep.Addr
		return nil
	}); err != nil || !audited {
		t.Errorf("the audit log has no drill: %v", err)
	}

	// Once a minute, whoever begins.
	refused := func(n *node, says string) {
		t.Helper()
		_, err := n.Drill(t.Context(), control.DrillRequest{})
		if e := control.AsError(err); e == nil || e.Code != control.CodePolicy || !strings.Contains(e.Message+e.Hint, says) {
			t.Errorf("%s: %v, want %q", n.cfg.Name, err, says)
		}
	}
	refused(a, "the next one may begin in ")
	refused(b, "a moment ago")
	b.ready()
	if rep, err = b.Drill(t.Context(), control.DrillRequest{}); err != nil || verdictOf(t, rep, "a").Verdict != control.DrillTooSoon || rep.Failed != 0 {
		t.Errorf("%+v, %v", rep, err)
	}

	// What fails is said.
	b.probes(prober.Result{Arrived: 3, Control: 3}, nil)
	c.probes(prober.Result{}, errors.New("no\nrights"))
	for _, n := range []*node{a, b, c} {
		n.ready()
	}
	if rep, err = a.Drill(t.Context(), control.DrillRequest{}); err != nil || rep.Failed != 2 || rep.Dropped != 1 {
		t.Errorf("%+v, %v", rep, err)
	}
	if n := verdictOf(t, rep, "b"); n.Verdict != control.DrillNotDropped || !strings.Contains(n.Why, "got through") {
		t.Errorf("%+v", n)
	}
	if n := verdictOf(t, rep, "c"); n.Verdict != control.DrillUnknown || strings.Contains(n.Why, "\n") || !strings.HasSuffix(n.Why, "rights") {
		t.Errorf("%+v", n)
	}

	// A certificate may forbid it: the node itself refuses, and so do the others, whatever it says.
	id := b.self.String()
	if _, err := a.Caps(t.Context(), control.CapsRequest{Node: id, Caps: &control.Caps{NoDrill: true}}); err != nil {
		t.Fatal(err)
	}
	until(t, "b knows", func() bool { return !b.mayDrill(frame.ID(b.self)) && !a.mayDrill(frame.ID(b.self)) })
	refused(b, "meshban ca caps b --default")
	a.ready()
	if got := a.tellDrill(time.Now(), frame.ID(b.self), "192.0.2.201"); got.State != control.DrillNotAllowed {
		t.Errorf("%+v", got)
	}
	if got := a.tellDrill(time.Now(), frame.ID(c.self), "203.0.113.1"); got.State != control.DrillNotAllowed {
		t.Errorf("an address that somebody may have: %+v", got)
	}
	if got := a.tellDrill(time.Now(), frame.ID(c.self), "192.0.2.202"); got.State != drillRunning {
		t.Errorf("a drill that is allowed: %+v", got)
	}
	until(t, "nothing was said of it", func() bool {
		got := a.tellDrill(time.Now(), frame.ID(c.self), "192.0.2.202")
		return got.State == control.DrillNotDropped && strings.Contains(got.Why, "No record")
	})
}

// status shows the last drill also after a restart. A node that is paused says so.
func TestDrillOfAPausedNodeAndAfterARestart(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	a.pause(t, control.PauseRequest{For: control.Duration(time.Hour), Reason: "is it meshban?"})
	rep, err := a.Drill(t.Context(), control.DrillRequest{})
	if n := verdictOf(t, rep, "a"); err != nil || rep.Failed != 1 || n.Verdict != control.DrillPaused || !strings.Contains(n.Why, "is it meshban?") {
		t.Errorf("%+v, %v", rep, err)
	}
	before := a.drillStatus()
	a.stop()
	a = start(t, a.home, a.cfg)
	if after := a.drillStatus(); before == nil || before.Failed != 1 || !reflect.DeepEqual(before, after) {
		t.Errorf("%+v after a restart, before it %+v", after, before)
	}
}

// A drill that by chance has the address of an earlier one is not answered with that one's verdict.
func TestAVerdictIsOfItsOwnDrill(t *testing.T) {
	s, now, by, addr := newDrills(), time.Now(), frame.ID{1}, netip.MustParseAddr("192.0.2.200")
	s.start(now, by, addr)
	s.last.Self.State = control.DrillDropped
	for _, c := range []struct {
		after time.Duration
		want  bool
	}{{drillLimit, true}, {drillEvery, false}} {
		if _, ok := s.state(now.Add(c.after), by, addr); ok != c.want {
			t.Errorf("after %v: %v, want %v", c.after, ok, c.want)
		}
	}
}

// Without a free address there is no drill.
func TestDrillTouchesNoRecord(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	if r := a.ban(t, time.Hour, "192.0.2.0/24").Results[0]; r.Err != nil {
		t.Fatal(r.Err)
	}
	_, err := a.Drill(t.Context(), control.DrillRequest{})
	if e := control.AsError(err); e == nil || e.Rule != "no address" {
		t.Errorf("%v", err)
	}
	if a.drills.limit.Tokens() < 1 {
		t.Error("a drill that was refused counts")
	}
}

// A drill is no sighting; only its own address and source make one.
func TestIsDrill(t *testing.T) {
	for _, c := range []struct {
		prefix, source string
		want           bool
	}{
		{"192.0.2.7/32", sourceDrill, true},
		{"192.0.2.7/32", "cli", false},
		{"192.0.2.0/31", sourceDrill, false},
		{"203.0.113.7/32", sourceDrill, false}, // a peer that calls its bans drills does not hide them
	} {
		change := ban.Change{Prefix: netip.MustParsePrefix(c.prefix), Source: c.source}
		if got := isDrill(change); got != c.want || emits(change) == got && change.Prefix.IsSingleIP() {
			t.Errorf("%+v: %t", c, got)
		}
	}
}

func TestDrillAnswersAreClean(t *testing.T) {
	told, err := readTold([]byte(`{"backend":"x","drill":{"state":"evil\u001b[1m","why":"a\nb","latency_ms":1e12}}`))
	if d := told.Drill; err != nil || d.State != control.DrillUnknown || *d.LatencyMS != 10_000 {
		t.Errorf("%+v, %v", told.Drill, err)
	}
	if rate.Every(drillEvery) != newDrills().limit.Limit() {
		t.Error("not one drill a minute")
	}
}
