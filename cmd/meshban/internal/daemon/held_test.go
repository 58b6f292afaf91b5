package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/mesh/frame"
)

// tighten changes the caps of a running node, as a reload does.
func (n *node) tighten(change func(*config.Config)) {
	n.state.View(func(*ban.Table) {
		change(&n.Daemon.cfg)
		n.state.Gate.SetBreaker(allowance(n.Daemon.cfg.Breaker))
		n.cfg = n.Daemon.cfg
	})
}

func smallBreaker(c *config.Config) {
	c.Breaker = config.Allowance{Rate: 1, Burst: 20, Imports: 40}
}

// storm bans count addresses of 11.x on n in one go.
func (n *node) storm(t *testing.T, x byte, count int, source string) {
	t.Helper()
	req := control.BanRequest{For: control.Duration(time.Hour), Source: source}
	for i := range count {
		req.Addrs = append(req.Addrs, netip.PrefixFrom(netip.AddrFrom4([4]byte{11, x, byte(i >> 8), byte(i)}), 32))
	}
	if _, err := n.Ban(t.Context(), req); err != nil {
		t.Fatal(err)
	}
}

// waits returns how many bans wait on n.
func (n *node) waits() (count int) {
	n.state.View(func(t *ban.Table) { count = t.Waiting() })
	return count
}

func (n *node) problem(t *testing.T, part string) bool {
	t.Helper()
	s, err := n.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(strings.Join(s.Problems, "\n"), part)
}

func (n *node) decide(t *testing.T, action string, prefixes ...string) int {
	t.Helper()
	req := control.DecideRequest{Action: action}
	for _, p := range prefixes {
		req.Prefixes = append(req.Prefixes, netip.MustParsePrefix(p))
	}
	rep, err := n.Decide(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return rep.Decided
}

func TestBreakerHoldsReleasesAndDrops(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	b := a.join(t, "b")
	b.tighten(smallBreaker)
	watch, cancel := context.WithCancel(t.Context())
	var held atomic.Int64
	watched := make(chan error, 1)
	go func() {
		watched <- b.Watch(watch, func(e control.Event) error {
			if e.Name == "held" {
				held.Add(1)
			}
			return nil
		})
	}()
	until(t, "the watcher", b.hub.busy)
	a.storm(t, 1, 100, "cli")
	until(t, "80 of 100 held", func() bool { return b.waits() == 80 })
	if c := b.counts(); c.Active != 20 || c.Held != 80 {
		t.Errorf("%+v", c)
	}
	until(t, "80 events of held bans", func() bool { return held.Load() == 80 })
	cancel()
	if err := <-watched; err != nil {
		t.Error(err)
	}
	if !b.problem(t, "held: 80 bans of peers wait for you") || a.problem(t, "held:") {
		t.Error("the alarm is not raised where bans wait, or where none does")
	}
	if !strings.Contains(b.log.String(), "wait for you") {
		t.Error("not logged")
	}
	if d := a.meshStatus().Digest; d != b.meshStatus().Digest {
		t.Error("what is held is not held in the mesh alike")
	}

	// Own bans still take effect, even for an address whose ban is held.
	b.ban(t, time.Hour, "192.0.2.1/32")
	b.ban(t, time.Minute, "11.1.0.99/32")
	if !b.takes(t, "192.0.2.1/32") || !b.takes(t, "11.1.0.99/32") {
		t.Error("own bans are not enforced")
	}
	if e, ok := b.entry(t, "11.1.0.98/32"); !ok || e.State != control.StateHeld || e.Origins[0] != "a" {
		t.Errorf("list: %+v, %v", e, ok)
	}

	// After a restart, held bans are still held and decisions still stand.
	if n := b.decide(t, control.ActionDrop, "11.1.0.98/32", "11.1.0.32/28"); n != 17 {
		t.Errorf("dropped %d", n)
	}
	if n := b.decide(t, control.ActionRelease, "11.1.0.97/32", "11.1.0.64/28"); n != 17 {
		t.Errorf("released %d", n)
	}
	check := func(when string) {
		t.Helper()
		for prefix, want := range map[string]string{
			"11.1.0.97/32": control.StateEnforced, "11.1.0.66/32": control.StateEnforced, "11.1.0.98/32": "", "11.1.0.33/32": "",
			"11.1.0.96/32": control.StateHeld, "11.1.0.0/32": control.StateEnforced,
		} {
			until(t, fmt.Sprintf("%s: %s is %q", when, prefix, want), func() bool {
				e, _ := b.entry(t, prefix)
				return e.State == want
			})
		}
		if n := b.waits(); n != 46 {
			t.Errorf("%s: %d wait", when, n)
		}
	}
	check("decided")
	b.stop()
	b = start(t, b.home, b.cfg)
	check("after a restart")
	if !b.problem(t, "held: 46 bans") {
		t.Error("no alarm after a restart")
	}
	if n := b.decide(t, control.ActionRelease); n != 46 {
		t.Errorf("released %d", n)
	}
	if b.problem(t, "held:") || b.counts().Active != 100-17+1 {
		t.Errorf("all decided: %+v", b.counts())
	}
	_, err := b.Decide(t.Context(), control.DecideRequest{Action: control.ActionDrop})
	var refused *control.Error
	if !errors.As(err, &refused) || refused.Code != control.CodeNotFound {
		t.Errorf("nothing is held: %v", err)
	}
}

func TestImportsPassTheBreaker(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	b := a.join(t, "b")
	b.tighten(smallBreaker)
	a.storm(t, 1, 50, "import")
	until(t, "imports", func() bool { c := b.counts(); return c.Active == 40 && c.Held == 10 })
	a.storm(t, 2, 20, "cli")
	until(t, "imports leave the rest alone", func() bool { return b.counts().Active == 60 })
}

// By default, nodes accept a million bans from one node, and another million from a second one.
func TestAMillionIsTakenByDefault(t *testing.T) {
	t.Parallel()
	n := first(t, "a")
	n.state.View(func(table *ban.Table) { takesAMillion(t, n, table) }) // the admission reads the node's caps
}

func takesAMillion(t *testing.T, n *node, table *ban.Table) {
	now, caps := time.Now(), n.capsLocked(ban.Origin{1})
	admission := ban.NewAdmission(ban.AdmissionConfig{Self: n.self, Caps: n.capsLocked, Breaker: allowance(n.cfg.Breaker)})
	for i := range 2 * million {
		r := ban.Record{
			Op: ban.Op{Kind: ban.KindBan, Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)}), 32),
				Until: now.Add(time.Hour), Source: ban.SourceImport},
			Origin: ban.Origin{byte(1 + i%2)}, Version: ban.Version{Epoch: 1, Seq: uint64(i + 1)}, Issued: now,
		}
		if err := admission.Admit(now, table, &r); err != nil || r.Hold != ban.HoldNone {
			t.Fatalf("ban %d: %v, %v", i, r.Hold, err)
		}
	}
	if caps.Active < million+million/10 {
		t.Errorf("an import of a million leaves room for %d other bans", caps.Active-million)
	}
}

func TestOriginIsToldOfItsCaps(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	a.tighten(func(c *config.Config) { c.Peers.Burst, c.Peers.Rate = 10, 1 })
	a.storm(t, 1, 10, "cli")
	if a.problem(t, "caps:") {
		t.Error("warned within the caps")
	}
	a.storm(t, 2, 5, "cli")
	if !a.problem(t, "caps: 5 ops of this node go beyond what peers take") {
		s, err := a.Status(t.Context())
		t.Errorf("not told: %q, %v", s.Problems, err)
	}
	if !a.takes(t, "11.2.0.4/32") {
		t.Error("its own ban is not enforced at home")
	}
}

func TestPeerMayNotUnbanWhereConfigured(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	b := a.join(t, "b")
	b.tighten(func(c *config.Config) { c.Peers.UnbanAny = false })
	b.ban(t, time.Hour, "192.0.2.1/32")
	until(t, "the ban at a", func() bool { return a.enforces(t, "192.0.2.1/32") })
	if _, err := a.Unban(t.Context(), control.UnbanRequest{Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")}}); err != nil {
		t.Fatal(err)
	}
	a.ban(t, time.Hour, "192.0.2.2/32") // travels behind the unban
	until(t, "what a said later", func() bool { return b.enforces(t, "192.0.2.2/32") })
	if !b.takes(t, "192.0.2.1/32") || a.enforces(t, "192.0.2.1/32") {
		t.Error("the unban counts at b, or not at a")
	}
	if n := b.refused(ban.RuleOthers); n != 1 {
		t.Errorf("%d refusals counted", n)
	}
}

// An op refused because too many wait must not count after a restart, or an attacker would only have to send more.
func TestARestartDoesNotReleaseWhatWasRefused(t *testing.T) {
	t.Parallel()
	n := first(t, "a")
	now := time.Now()
	at := func(i int, index uint16) ban.Record {
		return ban.Record{
			Op:     ban.Op{Kind: ban.KindBan, Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)}), 32), Until: now.Add(time.Hour)},
			Origin: ban.Origin{7}, Version: ban.Version{Epoch: 1, Seq: 1, Index: index}, Issued: now,
		}
	}
	n.tighten(func(c *config.Config) { c.Breaker = config.Allowance{Rate: 1, Burst: 5, Imports: 1} })
	n.state.Change(now, func(table *ban.Table) []ban.Change {
		for i := range ban.MaxHeld {
			r := at(i, 0)
			r.Origin, r.Version.Seq, r.Hold = ban.Origin{8}, uint64(i+1), ban.HoldRate
			table.Merge(now, []ban.Record{r})
		}
		for i := range uint16(8) {
			r := at(1<<20+int(i), i)
			if err := n.admitLocked(now, table, &r); (err != nil) != (i >= 5) {
				t.Errorf("op %d: %v, %v", i, r.Hold, err)
			}
		}
		if text := n.heldProblemLocked(table); !strings.Contains(text, "3 more were refused") {
			t.Errorf("status: %s", text)
		}
		return nil
	})
	if err := n.store.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	stored, err := n.storedHolds()
	if err != nil {
		t.Fatal(err)
	}
	judge := func(i uint16) (h ban.Hold, err error) {
		n.state.View(func(table *ban.Table) {
			r := at(1<<20+int(i), i)
			err = stored.judgeLocked(now, table, &r)
			h = r.Hold
		})
		return h, err
	}
	if h, err := judge(4); err != nil || h != ban.HoldNone {
		t.Errorf("what counted: %v, %v", h, err)
	}
	if _, err := judge(5); err == nil {
		t.Error("what was refused is taken where there is still no room")
	}
	n.state.Change(now, func(table *ban.Table) []ban.Change {
		rs, _ := table.HeldBefore(0, 1)
		rs[0].Hold = ban.HoldDropped
		return table.Merge(now, rs)
	})
	if h, err := judge(5); err != nil || h != ban.HoldBreaker {
		t.Errorf("what was refused, where there is room: %v, %v", h, err)
	}
	// A release overrides the mark.
	stored.holds[storedOp{holdOf(&ban.Record{Origin: ban.Origin{7}, Version: ban.Version{Epoch: 1, Seq: 1}}), 5}] = ban.HoldNone
	if h, err := judge(5); err != nil || h != ban.HoldNone {
		t.Errorf("what was released: %v, %v", h, err)
	}
}

// Frames arrive together, and the later ones repeat the bans of the first, as an import after `ban -` does. The repeats
// are not charged to their origin, and the bans stay in force.
func TestBansSaidAgainInOneDeliveryCountOnce(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	const burst = 10
	a.tighten(func(c *config.Config) { c.Peers.Burst, c.Peers.Rate = burst, 1 })
	now := time.Now()
	var ops []ban.Op
	for _, prefix := range crowd(burst, 4) {
		ops = append(ops, ban.Op{Kind: ban.KindBan, Prefix: prefix, Until: now.Add(time.Hour), Source: "cli"})
	}
	var frames []frame.Frame
	for seq := range uint64(3) {
		payload, err := ban.AppendOps(nil, ops)
		if err != nil {
			t.Fatal(err)
		}
		frames = append(frames, frame.Frame{Origin: frame.ID{9}, Epoch: 1, Seq: seq + 1, Issued: now, Expires: now.Add(time.Hour), Payload: payload})
	}
	a.deliver(frames)
	if c := a.counts(); c.Active != burst || c.Held != 0 {
		t.Errorf("%+v, want %d active and none held", c, burst)
	}
}

// A peer's unbans and unallows with marks that this node has not reached yet cancel none of this node's next bans and
// allows, also after a restart.
func TestNobodyCancelsTheNextOwnBan(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	b := a.join(t, "b")
	now := time.Now()
	epoch := a.mesh.Epoch()
	within := netip.MustParsePrefix("192.0.2.0/24")
	for _, kind := range []ban.Kind{ban.KindUnban, ban.KindUnallow} {
		for _, m := range []ban.Mark{{Origin: a.self, Epoch: epoch, Seq: 1 << 40}, {Origin: a.self, Epoch: epoch + 3600, Seq: 1}} {
			if err := b.publish(now, []ban.Op{{Kind: kind, Prefix: within, Until: endOf(now, time.Hour), Marks: []ban.Mark{m}}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	until(t, "a has the frames", func() bool { return a.mesh.Digest() == b.mesh.Digest() })
	if r := a.ban(t, time.Hour, "192.0.2.1/32").Results[0]; r.Err != nil || !a.takes(t, "192.0.2.1/32") {
		t.Errorf("a ban: %+v, %v", r, r.Err)
	}
	allowed, err := a.Allow(t.Context(), control.AllowRequest{Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.7/32")}})
	if err != nil || allowed.Results[0].Err != nil {
		t.Errorf("an allow: %+v, %v", allowed, err)
	}
	a.stop()
	a = start(t, a.home, a.cfg)
	if r := a.ban(t, time.Hour, "192.0.2.2/32").Results[0]; r.Err != nil || !a.takes(t, "192.0.2.1/32") || !a.takes(t, "192.0.2.2/32") {
		t.Errorf("after a restart: %+v, %v", r, r.Err)
	}
}
