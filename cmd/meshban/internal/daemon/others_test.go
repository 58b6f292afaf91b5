package daemon

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/mesh"
	"github.com/meshban/meshban/mesh/frame"
)

// memberOf returns what n shows about another node.
func (n *node) memberOf(t *testing.T, name string) control.Member {
	t.Helper()
	members, err := n.Members(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range members {
		if m.Name == name {
			return m
		}
	}
	t.Fatalf("no member %s: %+v", name, members)
	return control.Member{}
}

// Nodes tell each other what they do about an address and how they are; a node that is gone is unknown.
func TestNodesTellOneAnother(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	b := a.join(t, "b")
	if r := a.ban(t, time.Hour, "192.0.2.1/32").Results[0]; r.Err != nil {
		t.Fatalf("%+v", r.Err)
	}
	until(t, "b has the ban", func() bool { return b.enforces(t, "192.0.2.1/32") })

	answer := func(addr string) (n control.NodeAnswer) {
		until(t, "a answers in time", func() bool { // which takes longer on a busy machine
			reply, err := b.Why(t.Context(), netip.MustParsePrefix(addr))
			if err != nil {
				t.Fatal(err)
			}
			if len(reply.Nodes) != 1 || reply.Nodes[0].Name != "a" || reply.Nodes[0].ID != a.self.String() {
				t.Fatalf("%s: %+v", addr, reply.Nodes)
			}
			n = reply.Nodes[0]
			return n.Why != "no answer" && n.Why != "asked too often"
		})
		return n
	}
	own, _ := a.explain(netip.MustParsePrefix("192.0.2.1/32"))
	if got := answer("192.0.2.1/32"); got.Verdict != own.Verdict || got.Fail2ban != "" {
		t.Errorf("a banned address: %+v, want what a says itself: %s", got, own.Verdict)
	}
	if got := answer("192.0.2.2/32"); got.Verdict != control.VerdictNotDropped || got.Why == "" {
		t.Errorf("an address that is not banned: %+v", got)
	}

	var m control.Member
	until(t, "a answers b", func() bool { m = b.memberOf(t, "a"); return m.HoldsCA != nil })
	if !*m.HoldsCA || m.Backend == nil || *m.Backend != a.fw.Status().Backend || m.Enforced == nil || m.Problems == nil {
		t.Errorf("a, as b shows it: %+v", m)
	}
	until(t, "b answers a", func() bool { m = a.memberOf(t, "b"); return m.HoldsCA != nil })
	if *m.HoldsCA {
		t.Errorf("b, as a shows it: %+v", m)
	}
	if m := b.memberOf(t, "b"); m.Backend == nil || m.HoldsCA == nil || *m.HoldsCA {
		t.Errorf("b, as it shows itself: %+v", m)
	}

	noCA := func(n *node) string {
		s, err := n.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range s.Problems {
			if strings.Contains(p, "ca.key") {
				return p
			}
		}
		return ""
	}
	if p := noCA(b); p != "" {
		t.Errorf("while a lives: %q", p)
	}
	a.stop()
	until(t, "b sees that a has gone", func() bool { return b.meshStatus().Alive == 1 })
	if got := answer("192.0.2.1/32"); got.Verdict != control.VerdictUnknown || got.Why == "" {
		t.Errorf("a node that is gone: %+v", got)
	}
	if m := b.memberOf(t, "a"); m.Backend != nil || m.Enforced != nil || m.Problems != nil || m.HoldsCA != nil {
		t.Errorf("a, when it is gone: %+v", m)
	}
	if p := noCA(b); !strings.Contains(p, "no living node holds ca.key") || !strings.Contains(p, "meshban ca import") {
		t.Errorf("without a node that has ca.key: %q", p)
	}
}

// The operator is reminded to export ca.key until it has been exported once.
func TestReminderOfTheExport(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	reminded := func(n *node) int {
		s, err := n.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return len(s.Reminders)
	}
	if got := reminded(a); got != 0 {
		t.Errorf("%d reminders in a mesh of one", got)
	}
	b := a.join(t, "b")
	if got := reminded(a); got != 1 {
		t.Errorf("%d reminders before the export", got)
	}
	if got := reminded(b); got != 0 {
		t.Errorf("%d reminders where the key is not", got)
	}
	if err := a.home.Export(t.TempDir()+"/ca.key", false); err != nil {
		t.Fatal(err)
	}
	if got := reminded(a); got != 0 {
		t.Errorf("%d reminders after the export", got)
	}
}

// Whatever a peer says, the output is short, printable and safe to type.
func TestWhatAPeerTellsIsCleaned(t *testing.T) {
	t.Parallel()
	evil := strings.Repeat("\x1b[2J\u202e\n", 500)
	in := told{Backend: evil, Enforced: -5, Addr: &toldAddr{
		Verdict: evil, Why: evil, Unknown: evil,
		Bans: []toldBan{{"sshd", "192.0.2.1/32"}, {"x; rm -rf /", "192.0.2.1/32"}, {"sshd", "$(reboot)"}, {"sshd", "198.51.100.1/32"}},
	}}
	for range 100 {
		in.Problems = append(in.Problems, evil)
	}
	text, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	out, err := readTold(text)
	if err != nil {
		t.Fatal(err)
	}
	a := out.Addr
	for _, s := range append([]string{out.Backend, a.Verdict, a.Why, a.Unknown}, out.Problems...) {
		if len(s) > maxToldText || strings.ContainsAny(s, "\x1b\n\u202e") {
			t.Errorf("%d bytes: %q", len(s), s)
		}
	}
	if len(out.Problems) > maxToldProblems || out.Enforced < 0 || len(a.Bans) != 2 {
		t.Errorf("%d problems, %d enforced, bans %v", len(out.Problems), out.Enforced, a.Bans)
	}
	a.Unknown = ""
	if got := a.fail2ban("web1", netip.MustParsePrefix("192.0.2.1/32")); strings.Count(got, "still bans") != 1 || !strings.Contains(got, "fail2ban-client set sshd unbanip 192.0.2.1") {
		t.Errorf("what to type: %q", got)
	}
}

// An answer fits its bound, however much there is to tell.
func TestAnAnswerFits(t *testing.T) {
	t.Parallel()
	n := first(t, "a")
	for i := range 30 {
		n.problems.set(fmt.Sprint("kind ", i), strings.Repeat("<&>\x01", 200), "")
	}
	text, err := n.answer(t.Context(), frame.ID{2}, []byte(`{"addr":"192.0.2.1/32"}`))
	if err != nil || len(text) > mesh.MaxAnswer {
		t.Errorf("%d bytes, %v", len(text), err)
	}
	if out, err := readTold(text); err != nil || out.Addr == nil || len(out.Problems) == 0 {
		t.Errorf("%+v, %v", out, err)
	}
	for _, bad := range []string{"", "[]", `{"addr":"x"}`, `{"addr":"192.0.2.1/33"}`} {
		if text, err := n.answer(t.Context(), frame.ID{2}, []byte(bad)); err == nil {
			t.Errorf("%q is answered: %s", bad, text)
		}
	}
}

// A captured node that asks about addresses without end gets few of them looked up, and takes nothing from other nodes.
func TestQuestionsAboutAddressesAreBounded(t *testing.T) {
	t.Parallel()
	o, now, bad := newOthers(), time.Now(), frame.ID{1}
	const seconds = 100
	taken := 0
	for i := range seconds * 50 {
		at := now.Add(time.Duration(i) * time.Second / 50)
		if o.takes(at, bad) {
			taken++
		}
		if i%(50*10) == 0 && !o.takes(at, frame.ID{2}) {
			t.Errorf("an honest question after %d s is not answered", i/50)
		}
	}
	if most := addrBurst + int(seconds*time.Second/addrEvery) + 1; taken > most {
		t.Errorf("%d looked up, want at most %d", taken, most)
	}
	for i := range 3 * ban.MaxOrigins {
		o.takes(now, frame.ID{3, byte(i), byte(i >> 8), byte(i >> 16)})
	}
	if len(o.addrs) > ban.MaxOrigins {
		t.Errorf("%d askers are remembered", len(o.addrs))
	}
}
