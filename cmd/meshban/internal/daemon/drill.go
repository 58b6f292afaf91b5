package daemon

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/prober"
	"github.com/meshban/meshban/fw"
	"github.com/meshban/meshban/mesh"
	"github.com/meshban/meshban/mesh/frame"
)

// A drill bans an unused address for a few seconds, and every node sends itself packets from it. The node that begins the
// drill asks the others until each has reported what became of its packets.

const (
	// sourceDrill is the source of a drill's ban, which lasts for drillFor. valueDrill is the name of the last drill in the
	// store.
	sourceDrill, valueDrill = "drill", "drill"
	drillFor                = 10 * time.Second
	// drillEvery is the least time between two drills in which a node takes part, whoever begins them.
	drillEvery = time.Minute
	// drillWait bounds how long a node waits for the ban, drillLimit how long the node where it began waits for the others;
	// it asks again after drillPoll.
	drillWait, drillLimit, drillPoll = 3 * time.Second, 9 * time.Second, 300 * time.Millisecond
	// drillRunning is the state of a drill that has no verdict yet.
	drillRunning = "running"
	// maxTook bounds the drills whose times are kept.
	maxTook = 64
)

// drillNet is TEST-NET-1 (RFC 5737): no machine on the Internet has such an address.
var drillNet = netip.MustParsePrefix("192.0.2.0/24")

// isDrill reports whether a change is a drill's, and so nobody's sighting.
func isDrill(c ban.Change) bool {
	return c.Source == sourceDrill && c.Prefix.IsSingleIP() && drillNet.Contains(c.Prefix.Addr())
}

// toldDrill is what a node says of its part in a drill.
type toldDrill struct {
	State     string   `json:"state"` // drillRunning, or a verdict such as control.DrillDropped
	Why       string   `json:"why,omitempty"`
	LatencyMS *float64 `json:"latency_ms,omitempty"` // from the decision, by the clock where it began, to the kernel, by this one's
}

// drills is what this node knows of drills.
type drills struct {
	// probe sends this machine packets from an address that is banned and one that is not. Tests replace it.
	probe func(ctx context.Context, banned, control netip.Addr) (prober.Result, error)
	limit *rate.Limiter
	begin chan netip.Addr // startDrill sends, serveDrills receives; nobody closes it. Never full: limit is far slower

	mu   sync.Mutex // guards what follows
	last drill
	took map[netip.Addr]time.Duration // from a drill's decision to this kernel
}

// drill is one drill, as this node takes part in it, and as it is stored.
type drill struct {
	At   time.Time  `json:"at"` // zero: there was none
	By   frame.ID   `json:"by"`
	Addr netip.Addr `json:"addr"`
	Self toldDrill  `json:"self"`
	// Of all nodes, if it began here and has ended.
	Nodes   int `json:"nodes,omitempty"`
	Dropped int `json:"dropped,omitempty"`
	Failed  int `json:"failed,omitempty"`
}

// loadDrill recalls the last drill of an earlier run.
func (d *Daemon) loadDrill() {
	saved := d.store.Value(valueDrill)
	if saved == nil {
		return
	}
	var last drill
	if err := json.Unmarshal(saved, &last); err != nil {
		d.log.Warn("could not read the stored drill: it is forgotten", "err", err)
		return
	}
	if last.Self.State == drillRunning {
		last.Self = toldDrill{State: control.DrillUnknown, Why: "it did not finish in time"}
	}
	d.drills.last = last
}

// endDrill changes the last drill, here and on disk.
func (d *Daemon) endDrill(change func(*drill)) {
	d.drills.mu.Lock()
	defer d.drills.mu.Unlock()
	change(&d.drills.last)
	if value, err := json.Marshal(d.drills.last); err == nil { // it always encodes
		d.store.Set(valueDrill, value)
	}
}

func newDrills() *drills {
	return &drills{
		limit: rate.NewLimiter(rate.Every(drillEvery), 1), begin: make(chan netip.Addr, 1), took: make(map[netip.Addr]time.Duration),
	}
}

// kernelTook notes that the kernel has taken a drill's ban.
func (s *drills) kernelTook(c ban.Change, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.took) >= maxTook {
		clear(s.took)
	}
	s.took[c.Prefix.Addr()] = max(0, at.Sub(c.Issued))
}

// state returns what this node has to say about a drill under way or just over: an older one may have had the same address.
func (s *drills) state(now time.Time, by frame.ID, addr netip.Addr) (t toldDrill, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last.Self, s.last.By == by && s.last.Addr == addr && now.Sub(s.last.At) < drillEvery
}

// start begins a drill on this node.
func (s *drills) start(now time.Time, by frame.ID, addr netip.Addr) toldDrill {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case s.begin <- addr:
	default:
		return toldDrill{State: control.DrillTooSoon}
	}
	s.last = drill{At: now, By: by, Addr: addr, Self: toldDrill{State: drillRunning}}
	return s.last.Self
}

// tellDrill returns what to tell a member about a drill of its own, and begins it when it is first asked.
func (d *Daemon) tellDrill(now time.Time, from frame.ID, text string) *toldDrill {
	addr, err := netip.ParseAddr(text)
	if err != nil || !drillNet.Contains(addr) {
		return &toldDrill{State: control.DrillNotAllowed, Why: "only addresses of " + drillNet.String() + " are for drills"}
	}
	if t, ok := d.drills.state(now, from, addr); ok {
		return &t
	}
	t := toldDrill{State: control.DrillTooSoon}
	if !d.mayDrill(from) {
		t = toldDrill{State: control.DrillNotAllowed, Why: "its certificate does not allow it"}
	} else if d.drills.limit.AllowN(now, 1) {
		t = d.drills.start(now, from, addr)
	}
	return &t
}

// mayDrill reports whether a member's certificate allows drills.
func (d *Daemon) mayDrill(id frame.ID) (may bool) {
	d.state.View(func(*ban.Table) { may = !d.granted[ban.Origin(id)].NoDrill })
	return may
}

// serveDrills takes part in drills until ctx ends.
func (d *Daemon) serveDrills(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case addr := <-d.drills.begin:
			t := d.takePart(ctx, addr)
			if ctx.Err() != nil {
				return nil // cut off: no verdict
			}
			d.endDrill(func(last *drill) { last.Self = t })
		}
	}
}

// takePart waits for a drill's ban and sends this machine packets from its address.
func (d *Daemon) takePart(ctx context.Context, addr netip.Addr) (t toldDrill) {
	if d.fw.Status().Backend == fw.NameNone {
		return toldDrill{State: control.DrillNoFirewall}
	}
	if text := d.pauseText(); text != "" {
		return toldDrill{State: control.DrillPaused, Why: cleanText(text)}
	}
	prefix := netip.PrefixFrom(addr, addr.BitLen())
	if !d.awaitHeld(ctx, prefix) {
		reply, _ := d.explain(prefix)
		return toldDrill{State: control.DrillNotDropped, Why: cleanText(reply.Summary)}
	}
	free, ok := d.freeAddr()
	if !ok {
		return toldDrill{State: control.DrillUnknown, Why: "no address of " + drillNet.String() + " is left for the control packet"}
	}
	r, err := d.drills.probe(ctx, addr, free)
	if err != nil {
		return toldDrill{State: control.DrillUnknown, Why: cleanText(err.Error())}
	}
	dropped, why := r.Verdict()
	if t = (toldDrill{State: control.DrillNotDropped, Why: why}); dropped {
		t.State = control.DrillDropped
	}
	d.drills.mu.Lock()
	defer d.drills.mu.Unlock()
	if took, ok := d.drills.took[addr]; ok {
		t.LatencyMS = new(float64(took.Microseconds()) / 1000)
	}
	return t
}

// awaitHeld waits at most drillWait and reports whether the kernel holds a ban.
func (d *Daemon) awaitHeld(ctx context.Context, prefix netip.Prefix) bool {
	ctx, cancel := context.WithTimeout(ctx, drillWait)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if ok, _ := d.holds(prefix, ban.Ports{}); ok {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
}

// freeAddr returns an address of drillNet that no record touches.
func (d *Daemon) freeAddr() (addr netip.Addr, ok bool) {
	raw, start := drillNet.Addr().As4(), rand.IntN(254)
	d.state.View(func(t *ban.Table) {
		for i := range 254 {
			raw[3] = byte(1 + (start+i)%254)
			addr = netip.AddrFrom4(raw)
			if len(t.Why(netip.PrefixFrom(addr, addr.BitLen()))) == 0 {
				ok = true
				return
			}
		}
	})
	return addr, ok
}

// probeFirewall sends this machine packets past the firewall in use.
func (d *Daemon) probeFirewall(ctx context.Context, banned, control netip.Addr) (prober.Result, error) {
	return prober.Probe(ctx, banned, control, func(ctx context.Context) (uint64, error) {
		v4, _, err := d.fw.Dropped(ctx)
		return v4.Packets, err
	})
}

// Drill implements control.Agent.
func (d *Daemon) Drill(ctx context.Context, _ control.DrillRequest) (control.DrillReply, error) {
	now, none := time.Now(), control.DrillReply{}
	if !d.mayDrill(frame.ID(d.self)) {
		return none, &control.Error{
			Code: control.CodePolicy, Rule: "certificate", Message: "this node's certificate does not allow drills",
			Hint: fmt.Sprintf("on a node that has ca.key: `meshban ca caps %s --default`", d.names.handle(d.self)),
		}
	}
	addr, ok := d.freeAddr()
	if !ok {
		return none, &control.Error{
			Code: control.CodePolicy, Rule: "no address", Message: fmt.Sprintf("every address of %s is banned, allowed or never banned", drillNet),
			Hint: fmt.Sprintf("`meshban why %s` shows by what", drillNet),
		}
	}
	slot := d.drills.limit.ReserveN(now, 1)
	if wait := slot.DelayFrom(now); wait > 0 {
		slot.CancelAt(now)
		return none, &control.Error{
			Code: control.CodePolicy, Rule: "one drill a minute", Message: "a drill was done here a moment ago",
			Hint: fmt.Sprintf("`meshban status` shows its result; the next one may begin in %d s", int(wait.Seconds())+1),
		}
	}
	prefix := netip.PrefixFrom(addr, addr.BitLen())
	rep, err := d.Ban(ctx, control.BanRequest{Addrs: control.Prefixes{prefix}, For: control.Duration(drillFor), Reason: "drill", Source: sourceDrill})
	if err == nil && rep.Results[0].Err != nil && rep.Results[0].State != control.StateNotEnforced {
		err = rep.Results[0].Err
	}
	if err != nil {
		slot.CancelAt(now) // there was no drill
		return none, err
	}
	d.drills.start(now, frame.ID(d.self), addr)
	reply := control.DrillReply{Addr: addr, Nodes: d.askDrill(ctx, addr)}
	sumUp(&reply)
	d.endDrill(func(last *drill) {
		if last.Addr == addr {
			last.Nodes, last.Dropped, last.Failed = len(reply.Nodes), reply.Dropped, reply.Failed
		}
	})
	d.log.Info("drill", "addr", addr, "nodes", len(reply.Nodes), "dropped", reply.Dropped)
	return reply, nil
}

// askDrill waits for every node's verdict, this one's too.
func (d *Daemon) askDrill(ctx context.Context, addr netip.Addr) []control.DrillNode {
	ctx, cancel := context.WithTimeout(ctx, drillLimit)
	defer cancel()
	list, ids := d.otherMembers()
	told := make(map[frame.ID]toldDrill)
	for pending, self := ids, true; self || len(pending) > 0; {
		var later []frame.ID
		for i, h := range d.ask(ctx, askLimit, pending, question{Drill: addr.String()}) {
			id := pending[i]
			switch {
			case h.err != nil:
				later = append(later, id)
				told[id] = toldDrill{State: control.DrillUnknown, Why: h.silence()}
			case h.Drill == nil:
				told[id] = toldDrill{State: control.DrillUnknown, Why: "its version knows no drills"}
			case h.Drill.State == drillRunning:
				later = append(later, id)
				told[id] = toldDrill{State: control.DrillUnknown, Why: "it did not finish in time"}
			default:
				told[id] = *h.Drill
			}
		}
		pending = later
		t, _ := d.drills.state(time.Now(), frame.ID(d.self), addr)
		if self = t.State == drillRunning; self {
			told[frame.ID(d.self)] = toldDrill{State: control.DrillUnknown, Why: "it did not finish in time"}
		} else {
			told[frame.ID(d.self)] = t
		}
		select {
		case <-ctx.Done():
			pending, self = nil, false
		case <-time.After(drillPoll):
		}
	}
	nodes := []control.DrillNode{d.drillNode(frame.ID(d.self), told[frame.ID(d.self)])}
	for _, m := range list {
		t, asked := told[m.ID]
		switch {
		case m.State == mesh.StateLeft:
			continue
		case !asked && !isLiving(m):
			t = toldDrill{State: control.DrillAway, Why: m.State.String()}
		case !asked:
			t = toldDrill{State: control.DrillUnknown, Why: "not certified"}
		case t.LatencyMS != nil: // its clock may be ahead of the one that the decision was timed by
			t.LatencyMS = new(max(0, *t.LatencyMS-float64(d.mesh.ClockAhead(m.ID).Microseconds())/1000))
		}
		nodes = append(nodes, d.drillNode(m.ID, t))
	}
	slices.SortStableFunc(nodes[1:], func(a, b control.DrillNode) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	return nodes
}

func (d *Daemon) drillNode(id frame.ID, t toldDrill) control.DrillNode {
	return control.DrillNode{Name: d.names.of(ban.Origin(id)), ID: id.String(), Verdict: t.State, Why: t.Why, LatencyMS: t.LatencyMS}
}

// sumUp counts the verdicts, and takes percentiles of the times.
func sumUp(reply *control.DrillReply) {
	var times []float64
	for _, n := range reply.Nodes {
		switch n.Verdict {
		case control.DrillDropped:
			reply.Dropped++
			if n.LatencyMS != nil {
				times = append(times, *n.LatencyMS)
			}
		case control.DrillNotDropped, control.DrillPaused, control.DrillUnknown:
			reply.Failed++
		}
	}
	if len(times) == 0 {
		return
	}
	slices.Sort(times)
	at := func(percent int) *float64 { return &times[(len(times)*percent+99)/100-1] } // nearest rank
	reply.P50MS, reply.P95MS, reply.MaxMS = at(50), at(95), at(100)
}

// drillStatus returns what status shows of the last drill, or nil.
func (d *Daemon) drillStatus() *control.DrillStatus {
	d.drills.mu.Lock()
	defer d.drills.mu.Unlock()
	last := d.drills.last
	if last.At.IsZero() {
		return nil
	}
	return &control.DrillStatus{
		At: last.At.UTC().Truncate(time.Millisecond), By: d.names.of(ban.Origin(last.By)), ByID: last.By.String(), Addr: last.Addr,
		Verdict: last.Self.State, Why: last.Self.Why, LatencyMS: last.Self.LatencyMS,
		Nodes: last.Nodes, Dropped: last.Dropped, Failed: last.Failed,
	}
}

// clean makes what a node says of its drill fit to be shown.
func (t *toldDrill) clean() {
	known := []string{
		drillRunning, control.DrillDropped, control.DrillNotDropped, control.DrillPaused, control.DrillNoFirewall, control.DrillTooSoon,
		control.DrillNotAllowed, control.DrillUnknown,
	}
	if t.Why = cleanText(t.Why); !slices.Contains(known, t.State) {
		t.State, t.Why = control.DrillUnknown, "its answer is of another version"
	}
	if ms := t.LatencyMS; ms != nil {
		*ms = min(max(0, *ms), float64(drillFor.Milliseconds()))
	}
}
