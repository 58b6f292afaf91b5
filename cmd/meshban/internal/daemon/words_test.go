package daemon

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// The log has what this node bans and lifts, not what it hears from others; an enrolment names the node by its short id.
func TestTheLogNamesWhatThisNodeSays(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	b := a.join(t, "b")
	a.ban(t, 30*time.Minute, "192.0.2.7/32")
	until(t, "the ban on b", func() bool { return b.enforces(t, "192.0.2.7/32") })
	if _, err := a.Unban(t.Context(), control.UnbanRequest{Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.7/32")}}); err != nil {
		t.Fatal(err)
	}
	a.write(t, "HOST 192.0.2.8 PORT 22\n")
	for _, want := range []string{"level=INFO msg=ban prefix=192.0.2.7 ", "level=INFO msg=unban prefix=192.0.2.7 ", "level=INFO msg=ban prefix=192.0.2.8 ", "id=" + b.self.Short() + " "} {
		until(t, "in the log: "+want, func() bool { return strings.Contains(a.log.String(), want) })
	}
	if text := a.log.String(); strings.Contains(text, b.self.String()) {
		t.Error("a whole id is in the log")
	}
	if text := b.log.String(); strings.Contains(text, "msg=ban ") {
		t.Error("a ban of another node is in the log")
	}
}

// Two bans of some ports are both in the summary of why.
func TestWhyNamesAllPorts(t *testing.T) {
	a := first(t, "a")
	prefix := netip.MustParsePrefix("192.0.2.9/32")
	for _, ports := range []string{"22/tcp", "80"} {
		if r, err := a.Ban(t.Context(), control.BanRequest{Addrs: []netip.Prefix{prefix}, Ports: ports, For: control.Duration(time.Hour)}); err != nil || r.Results[0].Err != nil {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	reply, err := a.Why(t.Context(), prefix)
	if err != nil || !strings.Contains(reply.Summary, "on ports 22/tcp until ") || !strings.Contains(reply.Summary, "on ports 80 until ") {
		t.Errorf("%q, %v", reply.Summary, err)
	}
}

// A clean stop logs no warning, on the stopped node or on another.
func TestCleanStopWarnsNobody(t *testing.T) {
	a := first(t, "a")
	b := a.join(t, "b")
	b.stop()
	until(t, "a notices", func() bool { return strings.Contains(a.log.String(), "event=leave name=b") })
	a.stop()
	for line := range strings.Lines(a.log.String() + b.log.String()) {
		if (strings.Contains(line, "level=WARN") || strings.Contains(line, "level=ERROR")) && !strings.Contains(line, "NOTHING IS BLOCKED") {
			t.Error(line)
		}
	}
}

// A problem that is reported again while it lasts leaves status soon after its last report. A problem that is
// reported once shows its age.
func TestProblemsThatAreOver(t *testing.T) {
	p, now := newProblems(), time.Now()
	p.setFor("dropped", "a queue was full", "", briefly)
	p.add("flood", "web4", "")
	for _, c := range []struct {
		after time.Duration
		want  []string
	}{
		{time.Minute, []string{"dropped: a queue was full", "flood: web4"}},
		{4 * time.Minute, []string{"dropped: a queue was full (4 minutes ago)", "flood: web4 (4 minutes ago)"}},
		{6 * time.Minute, []string{"flood: web4 (6 minutes ago)"}},
	} {
		if got := p.list(now.Add(c.after)); !slices.Equal(got, c.want) {
			t.Errorf("after %v: %q, want %q", c.after, got, c.want)
		}
	}
}

// The summary gives a reason that people understand (not "counts."). It never gives a ban inside a prefix as the
// reason why the prefix is let through.
func TestWhyItIsLetThrough(t *testing.T) {
	a := first(t, "a")
	prefix := netip.MustParsePrefix
	if _, err := a.Allow(t.Context(), control.AllowRequest{Prefixes: []netip.Prefix{prefix("203.0.113.64/28")}, Reason: "office"}); err != nil {
		t.Fatal(err)
	}
	a.ban(t, time.Hour, "198.51.100.7/32", "198.51.100.9/32")
	for of, want := range map[string]string{
		"203.0.113.65/32": `This node lets 203.0.113.65 through: it is on the allow list (a, "office").`,
		"203.0.113.0/24":  "This node lets 203.0.113.0/24 through: nothing bans all of it.",
		"127.0.0.1/32":    "This node lets 127.0.0.1 through: it is on the never-ban list (loopback).",
		"198.51.100.0/24": "This node lets 198.51.100.0/24 through: no ban covers all of it, but inside it 198.51.100.7 and 1 more are banned.",
		"192.0.2.99/32":   "No record of the mesh bears on 192.0.2.99: this node lets it through. Nothing is known of bans that ended before " + control.FormatPast(a.started) + ".",
	} {
		if reply, _ := a.explain(prefix(of)); reply.Summary != want {
			t.Errorf("%s: %q, want %q", of, reply.Summary, want)
		}
	}
}

// An agent that drops nothing says what to do about that.
func TestNoneHasARemedy(t *testing.T) {
	for _, tt := range []struct {
		name     string
		root     bool
		backends []string
		want     string
	}{
		{"ok: not root", false, []string{"ipset", "nftables", "iptables", "none"}, "run the agent as root"},
		{"ok: asked for", true, []string{"none"}, "write `firewall: {backends: auto}` into meshban.yaml"},
		{"ok: nothing works", true, []string{"ipset", "nftables", "iptables", "none"}, "install nftables"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := noneRemedy(tt.root, tt.backends); !strings.Contains(got, tt.want) {
				t.Errorf("%q, want %q in it", got, tt.want)
			}
		})
	}
}
