package daemon

import (
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/mesh/frame"
)

// reloads gives a node a new configuration, as SIGHUP does, and waits until the node has it.
func (n *node) reloads(t *testing.T, text string) {
	t.Helper()
	if err := os.WriteFile(n.home.Config(), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	before := strings.Count(n.log.String(), "took over the configuration")
	n.reload <- syscall.SIGHUP
	until(t, "the configuration is taken over", func() bool {
		return strings.Count(n.log.String(), "took over the configuration") > before
	})
}

func (n *node) why(t *testing.T, prefix string) control.WhyReply {
	t.Helper()
	r, err := n.Why(t.Context(), netip.MustParsePrefix(prefix))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// finding returns the status of a record in a why answer.
func finding(r control.WhyReply, kind, prefix string) string {
	for _, f := range r.Findings {
		if f.Kind == kind && f.Prefix.Prefix.String() == prefix {
			return f.Status
		}
	}
	return ""
}

func (n *node) active(t *testing.T, want int) {
	t.Helper()
	until(t, "the bans in force", func() bool { return n.counts().Active == want })
}

// A reload used to apply only to later ops: refused ops stayed refused, and ops that the new configuration refuses
// stayed in force.
func TestReloadJudgesAgain(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	b := a.join(t, "b")
	const wide, long, fine = "203.0.0.0/20", "192.0.2.1/32", "192.0.2.2/32"
	a.ban(t, time.Hour, wide, fine)
	a.ban(t, 48*time.Hour, long)
	b.active(t, 2)

	t.Run("width", func(t *testing.T) {
		if s := finding(b.why(t, wide), "ban", wide); !strings.HasPrefix(s, "refused (prefix too wide): ") || !strings.Contains(s, "bans.widest_ipv4 of this node") {
			t.Errorf("why says of the wide ban: %q", s)
		}
		if s := b.why(t, "203.0.1.1/32").Summary; !strings.Contains(s, "refused (prefix too wide)") {
			t.Errorf("why says of an address inside: %q", s)
		}
		b.reloads(t, "bans: {widest_ipv4: 16}\n")
		if !b.takes(t, wide) || finding(b.why(t, wide), "ban", wide) != "enforced" {
			t.Errorf("a ban that is narrow enough now: %+v", b.why(t, wide))
		}
		b.reloads(t, "bans: {widest_ipv4: 32}\n")
		b.active(t, 2)
		r := b.why(t, wide)
		if s := finding(r, "ban", wide); !strings.HasPrefix(s, "refused (prefix too wide)") || finding(r, control.KindEnded, wide) != "" {
			t.Errorf("a ban that is too wide now: %+v", r)
		}
		b.reloads(t, "")
		b.active(t, 2)
	})
	t.Run("length", func(t *testing.T) {
		b.reloads(t, "bans: {max_for: 1d}\n")
		b.active(t, 1)
		if s := finding(b.why(t, long), "ban", long); !strings.HasPrefix(s, "refused (too long)") {
			t.Errorf("why says of the long ban: %q", s)
		}
		b.reloads(t, "peers: {max_for: 3d}\n")
		b.active(t, 2)
		a.reloads(t, "bans: {max_for: 1d}\n") // its own bans too
		until(t, "a's own long ban is over", func() bool { return !a.enforces(t, long) })
		a.reloads(t, "")
		until(t, "it counts again", func() bool { return a.enforces(t, long) })
	})
	t.Run("unbans", func(t *testing.T) {
		b.reloads(t, "peers: {unban_any: false}\n")
		b.ban(t, time.Hour, "192.0.2.3/32", "192.0.2.4/32")
		until(t, "a has them", func() bool { return a.enforces(t, "192.0.2.3/32") && a.enforces(t, "192.0.2.4/32") })
		if _, err := a.Unban(t.Context(), control.UnbanRequest{Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.3/32")}}); err != nil {
			t.Fatal(err)
		}
		until(t, "b has refused it", func() bool { return finding(b.why(t, "192.0.2.3/32"), "unban", "192.0.2.3/32") != "" })
		if s := finding(b.why(t, "192.0.2.3/32"), "unban", "192.0.2.3/32"); !strings.Contains(s, "peers.unban_any of this node") || !b.takes(t, "192.0.2.3/32") {
			t.Errorf("an unban that is not taken: %q", s)
		}
		b.reloads(t, "")
		until(t, "it lifts now", func() bool { return !b.enforces(t, "192.0.2.3/32") })
		b.reloads(t, "peers: {unban_any: false}\n")
		until(t, "it lifts no longer", func() bool { return b.enforces(t, "192.0.2.3/32") })
		b.reloads(t, "")
		until(t, "it lifts again", func() bool { return !b.enforces(t, "192.0.2.3/32") })
	})
}

// Raising a cap puts the bans that it held in force, as far as there is room; lowering one puts the bans for which
// there is no room on hold. Bans that the operator dropped stay dropped.
func TestReloadJudgesCapsAgain(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	b := a.join(t, "b")
	b.reloads(t, "peers: {burst: 5, rate: 1}\n")
	a.storm(t, 1, 8, "test")
	until(t, "three wait", func() bool { return b.counts().Active == 5 && b.waits() == 3 })
	if n := b.decide(t, control.ActionDrop, b.heldPrefix(t)); n != 1 {
		t.Fatalf("%d dropped", n)
	}
	b.reloads(t, "peers: {burst: 6, rate: 1}\n")
	if c := b.counts(); c.Active != 6 || b.waits() != 1 {
		t.Errorf("one more at once: %+v, %d wait", c, b.waits())
	}
	b.reloads(t, "peers: {burst: 100}\n")
	if c := b.counts(); c.Active != 7 || b.waits() != 0 {
		t.Errorf("a hundred at once: %+v, %d wait", c, b.waits())
	}
	b.reloads(t, "peers: {burst: 100, active: 4}\n")
	if c := b.counts(); c.Active != 4 || b.waits() != 3 {
		t.Errorf("four in force: %+v, %d wait", c, b.waits())
	}
	b.reloads(t, "peers: {burst: 100, active: 7}\n") // the dropped one counts too
	if c := b.counts(); c.Active != 6 || b.waits() != 1 {
		t.Errorf("six in force: %+v, %d wait", c, b.waits())
	}
	b.reloads(t, "")
	if c := b.counts(); c.Active != 7 || b.waits() != 0 {
		t.Errorf("all in force: %+v, %d wait", c, b.waits())
	}
	b.reloads(t, "breaker: {rate: 1, burst: 1}\n")
	a.storm(t, 2, 3, "test")
	until(t, "the breaker holds two or three", func() bool { return b.counts().Active+b.waits() == 10 && b.waits() >= 2 })
	b.reloads(t, "")
	if c := b.counts(); c.Active != 10 || b.waits() != 0 {
		t.Errorf("a wider breaker: %+v, %d wait", c, b.waits())
	}
}

// heldPrefix returns the prefix of a ban that waits.
func (n *node) heldPrefix(t *testing.T) (prefix string) {
	t.Helper()
	if err := n.Held(t.Context(), func(e control.HeldEntry) error { prefix = e.Prefix.Prefix.String(); return nil }); err != nil {
		t.Fatal(err)
	}
	return prefix
}

// Bans that were in force before escalation was turned on count as offences too.
func TestReloadCountsFormerOffences(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	a.ban(t, time.Hour, "192.0.2.1/32")
	a.reloads(t, "escalation: {factor: 2}\n")
	count := 0
	a.state.View(func(*ban.Table) {
		count = a.state.Offences.Count(time.Now(), netip.MustParseAddr("192.0.2.1"), time.Hour)
	})
	if count != 1 {
		t.Errorf("%d offences, want 1", count)
	}
}

// A ban without a length, and an import, must neither shorten a ban nor replace its reason; a ban with --for sets both,
// and reports the former ones.
func TestBanSaysWhatItWas(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	addr := netip.MustParsePrefix("192.0.2.1/32")
	say := func(length time.Duration, reason, source string) control.Result {
		t.Helper()
		r, err := a.Ban(t.Context(), control.BanRequest{Addrs: []netip.Prefix{addr}, For: control.Duration(length), Reason: reason, Source: source})
		if err != nil || r.Results[0].Err != nil {
			t.Fatal(err, r.Results[0].Err)
		}
		return r.Results[0]
	}
	holds := func(when string, length time.Duration, reason string) {
		t.Helper()
		e, ok := a.entry(t, addr.String())
		if left := time.Until(e.Until.Time); !ok || left > length || left < length-patience || e.Reason != reason {
			t.Errorf("%s: %v left, %q; want %v, %q", when, left, e.Reason, length, reason)
		}
	}
	if r := say(12*time.Hour, "scans ssh", "cli"); r.Note != "" {
		t.Errorf("the first ban: %q", r.Note)
	}
	for _, c := range []struct {
		name   string
		length time.Duration
		reason string
		source string
		note   string
		left   time.Duration
		is     string
	}{
		{"ok: no length", 0, "", "cli", `"scans ssh"; --for sets another end and reason`, 12 * time.Hour, "scans ssh"},
		{"ok: no length, a reason", 0, "other", "cli", "is banned already until", 12 * time.Hour, "scans ssh"},
		{"ok: a short import", time.Hour, "a list", ban.SourceImport, "", 12 * time.Hour, "scans ssh"},
		{"ok: a long import", 24 * time.Hour, "a list", ban.SourceImport, "", 24 * time.Hour, "scans ssh"},
		{"ok: a length", time.Hour, "less", "cli", `"scans ssh"`, time.Hour, "less"},
		{"ok: another length", 2 * time.Hour, "", "api", `"less"`, 2 * time.Hour, ""},
	} {
		r := say(c.length, c.reason, c.source)
		if !strings.Contains(r.Note, c.note) || c.note == "" && r.Note != "" {
			t.Errorf("%s: note %q", c.name, r.Note)
		}
		if left := time.Until(r.Until.Time); left > c.left || left < c.left-patience {
			t.Errorf("%s: says %v left, want %v", c.name, left, c.left)
		}
		holds(c.name, c.left, c.is)
	}
}

// `meshban why` used to say nothing about a ban once it was over, and nonsense about a prefix with bans inside.
func TestWhyTellsOfThePast(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	b := a.join(t, "b")
	a.ban(t, time.Hour, "192.0.2.2/32", "192.0.2.3/32", "192.0.2.64/28")
	until(t, "a prefix with bans inside", func() bool {
		r := b.why(t, "192.0.2.0/24")
		return r.Verdict == control.VerdictNotDropped && strings.Contains(r.Summary, " and 2 more are banned") && len(r.Findings) == 3
	})
	a.ban(t, time.Second, "192.0.2.1/32")
	until(t, "a ban that has ended", func() bool {
		r := b.why(t, "192.0.2.1/32")
		return strings.Contains(r.Summary, "the ban until ") && finding(r, control.KindEnded, "192.0.2.1/32") == "has ended" && r.Findings[0].Origin == "a"
	})
	if _, err := a.Unban(t.Context(), control.UnbanRequest{Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.2/32")}, Reason: "a friend"}); err != nil {
		t.Fatal(err)
	}
	b.active(t, 2)
	if s := b.why(t, "198.51.100.9/32").Summary; !strings.Contains(s, "Nothing is known of bans that ended before "+control.FormatPast(b.past.since)) {
		t.Errorf("why says of what it does not know: %q", s)
	}
	since := b.past.since
	b.stop()
	b = start(t, b.home, b.cfg)
	if f := b.why(t, "192.0.2.1/32").Findings; len(f) != 1 || f[0].Kind != control.KindEnded || f[0].Status != "has ended" || f[0].Origin != "a" {
		t.Errorf("after a restart: %+v", f)
	}
	if !b.past.since.Equal(since) || b.store.Value(valuePast) != nil && b.store.Stats().Waiting == 0 {
		t.Errorf("remembers since %v, want %v; an agent that is killed would bring back what is old", b.past.since, since)
	}
	b.active(t, 2)
	later := time.Now().Add(3 * time.Hour) // by then the ban and the unban are forgotten
	b.state.Settle(later)
	var past, none []control.Finding
	b.state.View(func(*ban.Table) {
		past = b.pastLocked(later, netip.MustParsePrefix("192.0.2.2/32"), nil)
		none = b.pastLocked(later.Add(pastKept), netip.MustParsePrefix("192.0.2.2/32"), nil)
	})
	if len(past) != 1 || !strings.HasPrefix(past[0].Status, "lifted at ") || !strings.HasSuffix(past[0].Status, ` by a, "a friend"`) {
		t.Errorf("a ban that was lifted: %+v", past)
	}
	if len(none) != 0 {
		t.Errorf("more than a day later: %+v", none)
	}
}

// A ban refused because a clock is wrong is shown, with the rule, until it counts.
func TestWhyTellsOfTheFuture(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	b := a.join(t, "b")
	const addr = "192.0.2.1/32"
	op := ban.Op{Kind: ban.KindBan, Prefix: netip.MustParsePrefix(addr), Until: time.Now().Add(time.Hour), Source: "cli"}
	payload, err := ban.AppendOps(nil, []ban.Op{op})
	if err != nil {
		t.Fatal(err)
	}
	b.tooEarly(frame.Frame{Origin: frame.ID(a.self), Epoch: 1, Seq: 1, Issued: time.Now().Add(90*time.Minute + 200*time.Millisecond), Payload: payload})
	r := b.why(t, addr)
	if s := finding(r, "ban", addr); !strings.HasPrefix(s, "refused (from the future): it is dated 1h30m ahead of this node's clock, and 5m is allowed; the clock of a, or this one, is wrong") ||
		!strings.Contains(r.Summary, s) || r.Verdict != control.VerdictNotDropped {
		t.Errorf("%+v", r)
	}
	a.ban(t, time.Hour, addr)
	until(t, "it counts", func() bool { return finding(b.why(t, addr), "ban", addr) == "enforced" })
}
