package daemon

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/mesh/pki"
)

// replace imports a list as `meshban import --list NAME` does, and returns how many bans were lifted and how many stay for
// another list.
func (n *node) replace(t *testing.T, list string, length time.Duration, addrs ...string) (lifted, kept int) {
	t.Helper()
	before, err := n.Listed(t.Context(), control.ListedRequest{List: list})
	if err != nil {
		t.Fatal(err)
	}
	if len(addrs) > 0 {
		n.imports(t, control.BanRequest{Source: "import:" + list, Reason: "of " + list, For: control.Duration(length)}, addrs...)
	}
	for more := true; more; {
		rep, err := n.Listed(t.Context(), control.ListedRequest{List: list, Until: &before.Mark})
		if err != nil {
			t.Fatal(err)
		}
		lifted, kept, more = lifted+rep.Lifted, kept+rep.Kept, rep.More
	}
	return lifted, kept
}

func (n *node) imports(t *testing.T, req control.BanRequest, addrs ...string) control.BanReply {
	t.Helper()
	for _, a := range addrs {
		req.Addrs = append(req.Addrs, netip.MustParsePrefix(a))
	}
	rep, err := n.Ban(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

// sources returns the bans as prefix and source.
func (n *node) sources(t *testing.T) string {
	t.Helper()
	var all []string
	if err := n.List(t.Context(), false, func(e control.ListEntry) error {
		all = append(all, control.FormatPrefix(e.Prefix.Prefix)+" "+e.Source)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

// A list adds and extends bans, and lifts those no longer on it, also after a restart; all other bans stay.
func TestAListReplacesItself(t *testing.T) {
	t.Parallel()
	n := first(t, "one")
	n.ban(t, 10*time.Minute, "192.0.2.9/32") // by hand
	n.replace(t, "a", time.Hour, "192.0.2.1/32", "192.0.2.2/32", "192.0.2.9/32", "198.51.100.0/24")
	n.replace(t, "b", 2*time.Hour, "192.0.2.2/32", "192.0.2.3/32")
	if got, want := n.sources(t), "192.0.2.1 import:a, 192.0.2.2 import:a,b, 192.0.2.3 import:b, 192.0.2.9 cli, 198.51.100.0/24 import:a"; got != want {
		t.Fatalf("%s\nwant %s", got, want)
	}
	if r, ok := n.ownBan(netip.MustParsePrefix("192.0.2.9/32")); !ok || r.Reason != "test" || time.Until(r.Until) < 50*time.Minute {
		t.Errorf("what was banned by hand is not prolonged, or has another reason: %+v", r)
	}
	n.stop()
	n = start(t, n.home, n.cfg)
	if rep, err := n.Listed(t.Context(), control.ListedRequest{List: "a"}); err != nil || rep.Bans != 3 {
		t.Errorf("after a restart: %+v, %v", rep, err)
	}

	// No longer on a: .1, which nobody else bans; .2, which is on b; .9, which was banned by hand.
	if lifted, kept := n.replace(t, "a", time.Hour, "198.51.100.0/24", "192.0.2.7/32"); lifted != 1 || kept != 1 {
		t.Errorf("%d lifted, %d kept", lifted, kept)
	}
	if got, want := n.sources(t), "192.0.2.2 import:b, 192.0.2.3 import:b, 192.0.2.7 import:a, 192.0.2.9 cli, 198.51.100.0/24 import:a"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if r, ok := n.ownBan(netip.MustParsePrefix("192.0.2.2/32")); !ok || time.Until(r.Until) < 110*time.Minute {
		t.Errorf("what b bans does not last as b says: %+v", r)
	}
	if lifted, kept := n.replace(t, "a", 0); lifted != 2 || kept != 0 {
		t.Errorf("an empty list: %d lifted, %d kept", lifted, kept)
	}
	if lifted, _ := n.replace(t, "b", time.Minute, "192.0.2.2/32", "192.0.2.3/32"); lifted != 0 {
		t.Errorf("the same list once more: %d lifted", lifted)
	}
	if r, _ := n.ownBan(netip.MustParsePrefix("192.0.2.3/32")); time.Until(r.Until) < 110*time.Minute {
		t.Errorf("an import shortened a ban: %+v", r)
	}
}

// A ban no longer on a list is lifted on every node, unless another node bans the address too.
func TestAListLiftsItsOwnBansOnly(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	b := a.join(t, "b")
	a.replace(t, "l", time.Hour, "192.0.2.1/32", "192.0.2.2/32")
	b.replace(t, "l", time.Hour, "192.0.2.2/32")
	both := "192.0.2.1 import:l, 192.0.2.2 import:l"
	until(t, "both bans on both nodes", func() bool { return a.sources(t) == both && b.sources(t) == both })
	if lifted, _ := a.replace(t, "l", 0); lifted != 2 {
		t.Errorf("%d lifted", lifted)
	}
	until(t, "only the ban of b on both nodes", func() bool {
		return a.sources(t) == "192.0.2.2 import:l" && b.sources(t) == "192.0.2.2 import:l"
	})
}

// A list with more bans than one request lifts is lifted in several requests.
func TestALongListIsLiftedInParts(t *testing.T) {
	t.Parallel()
	n := first(t, "one")
	addrs := crowd(control.MaxAddrs+10, 5)
	for some := range slices.Chunk(addrs, control.MaxAddrs) {
		if _, err := n.Ban(t.Context(), control.BanRequest{Addrs: some, For: control.Duration(time.Hour), Source: "import:l"}); err != nil {
			t.Fatal(err)
		}
	}
	if lifted, _ := n.replace(t, "l", 0); lifted != len(addrs) {
		t.Errorf("%d lifted of %d", lifted, len(addrs))
	}
	if got := n.sources(t); got != "" {
		t.Errorf("left: %.100s", got)
	}
}

// A source has room for only some lists: a ban that is on more is refused under a rule of its own, and stays in force.
func TestTooManyLists(t *testing.T) {
	t.Parallel()
	n := first(t, "one")
	var refused *control.Error
	for i := 0; refused == nil && i < 10; i++ {
		name := fmt.Sprintf("a-list-of-a-long-name-%d", i)
		refused = n.imports(t, control.BanRequest{Source: "import:" + name, For: control.Duration(time.Hour)}, "192.0.2.1/32").Results[0].Err
	}
	if refused == nil || refused.Rule != ruleLists || refused.Code != control.CodePolicy {
		t.Errorf("%+v", refused)
	}
	for _, bad := range []string{"import:", "import:a,b", "import:a b"} {
		if _, err := n.Ban(t.Context(), control.BanRequest{Addrs: crowd(1, 1), Source: bad}); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// A dry run answers as the import would, and changes nothing.
func TestADryRunChangesNothing(t *testing.T) {
	t.Parallel()
	n := first(t, "one")
	n.imports(t, control.BanRequest{Source: "import:l", For: control.Duration(time.Hour)}, "192.0.2.1/32")
	req := control.BanRequest{Source: "import:l", For: control.Duration(2 * time.Hour), DryRun: true}
	addrs := []string{"127.0.0.1/32", "192.0.2.1/32", "192.0.2.2/32", "198.18.0.0/15", "9.0.0.0/7"}
	before, mark := n.sources(t), n.meshStatus().Digest
	dry := n.imports(t, req, addrs...)
	if n.sources(t) != before || n.meshStatus().Digest != mark {
		t.Error("a dry run changed something")
	}
	req.DryRun = false
	real := n.imports(t, req, addrs...)
	if dry.Fresh != 2 || dry.Listed != 1 || real.Fresh != dry.Fresh || real.Listed != dry.Listed {
		t.Errorf("dry run: %+v\nimport: %+v", dry, real)
	}
	for i, r := range real.Results {
		d := dry.Results[i]
		if (d.Err == nil) != (r.Err == nil) || d.Err != nil && d.Err.Message != r.Err.Message || d.Note != r.Note || d.Hint != r.Hint {
			t.Errorf("dry run: %+v\nimport: %+v", d, r)
		}
	}
}

// The answer names the setting that decides what other nodes accept: following the hint leads to a ban that they accept.
func TestImportNamesTheSettingThatDecides(t *testing.T) {
	t.Parallel()
	n := first(t, "one")
	const wide, wide6 = "11.16.0.0/12", "2001:d00::/24"
	req := control.BanRequest{Source: ban.SourceImport, For: control.Duration(48 * time.Hour), DryRun: true}
	note := func(prefix, want, hint string) {
		t.Helper()
		r := n.imports(t, req, prefix).Results[0]
		if r.Err != nil || want == "" && r.Note != "" || !strings.Contains(r.Note, want) || !strings.Contains(r.Hint, hint) {
			t.Errorf("%s: %+v, want %q, %q", prefix, r, want, hint)
		}
	}
	note(wide, "nothing wider than /24 from a peer (bans.widest_ipv4 in their meshban.yaml)", "set widest_ipv4: 12 below bans:")
	note(wide6, "(bans.widest_ipv6 in their meshban.yaml)", "set widest_ipv6: 24 below bans:")
	n.tighten(func(c *config.Config) { c.Bans.MinPrefix4, c.Bans.MinPrefix6 = 12, 24 })
	note(wide, "", "")
	note(wide6, "", "")
	n.recertify(t, n, pki.Caps{MinBits4: 16, UnbanAny: true, Import: true})
	until(t, "the certificate", func() bool { return n.ownCaps().MinBits4 == 16 })
	note(wide, "widest_ipv4 in this node's certificate", "meshban ca caps one --widest-ipv4 12")
	n.recertify(t, n, pki.Caps{MaxTTL: time.Hour, UnbanAny: true, Import: true})
	until(t, "the certificate", func() bool { return n.ownCaps().MaxFor == time.Hour })
	note("192.0.2.1/32", "max_for in this node's certificate", "--max-for 2d")
	n.recertify(t, n, pki.Caps{Active: 1, UnbanAny: true, Import: true})
	until(t, "the certificate", func() bool { return n.ownCaps().Active == 1 })
	rep := n.imports(t, req, "192.0.2.1/32", "192.0.2.2/32")
	if rep.Results[0].Note != "" || !strings.Contains(rep.Results[1].Note, "active in this node's certificate") || !strings.Contains(rep.Results[1].Hint, "meshban held release --from one") {
		t.Errorf("%+v", rep.Results)
	}
	n.recertify(t, n, pki.DefaultCaps())
	until(t, "the certificate", func() bool { return n.ownCaps().Active > 1 })
	n.tighten(func(c *config.Config) { c.Peers.MaxFor, c.Peers.Imports = time.Hour, 3 })
	note("192.0.2.1/32", "peers.max_for in their meshban.yaml", "write --for 1h or less")
	req.For, req.Before = control.Duration(time.Hour), 2
	rep = n.imports(t, req, "192.0.2.1/32", "192.0.2.2/32")
	if rep.Results[0].Note != "" || !strings.Contains(rep.Results[1].Note, "peers.imports in their meshban.yaml") {
		t.Errorf("%+v", rep.Results)
	}
}

// networks returns adjacent networks with the widths found in Spamhaus DROP, and how many are wider than /24.
func networks() (prefixes []string, wide int) {
	at := netip.MustParseAddr("11.0.0.0")
	for _, w := range []struct{ bits, n int }{
		{10, 1}, {12, 1}, {13, 1}, {14, 8}, {15, 12}, {16, 80}, {17, 20}, {18, 40}, {19, 70}, {20, 110}, {21, 90}, {22, 180}, {23, 60}, {24, 316},
	} {
		for range w.n {
			prefixes = append(prefixes, netip.PrefixFrom(at, w.bits).String())
			if w.bits < 24 {
				wide++
			}
			a := at.As4()
			binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32(a[:])+1<<(32-w.bits))
			at = netip.AddrFrom4(a)
		}
	}
	return prefixes, wide
}

// Peers accept only the narrow networks of a list. Once they follow the hint, they have the whole list, without
// another message from the node that imported it.
func TestAListOfWideNetworks(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	b := a.join(t, "b")
	prefixes, wide := networks()
	req := control.BanRequest{Source: ban.SourceImport, For: control.Duration(48 * time.Hour), DryRun: true}
	hints := map[string]int{}
	for _, r := range a.imports(t, req, prefixes...).Results {
		if strings.Contains(r.Note, "other nodes take nothing wider than /24 from a peer (bans.widest_ipv4 in their meshban.yaml)") {
			hints[r.Hint]++
		}
	}
	told, widest := 0, ""
	for hint, n := range hints {
		told += n
		if strings.HasPrefix(hint, "set widest_ipv4: 10 below bans: in meshban.yaml on every node, and systemctl reload meshban there") {
			widest = hint
		}
	}
	if told != wide || widest == "" {
		t.Fatalf("a dry run names %d of %d wide networks; the hint of the widest is %q", told, wide, widest)
	}
	req.DryRun = false
	a.imports(t, req, prefixes...)
	b.active(t, len(prefixes)-wide)
	key, _, _ := strings.Cut(strings.TrimPrefix(widest, "set "), " below")
	b.reloads(t, "bans:\n  "+key+"\n")
	b.active(t, len(prefixes))
}

// ownBan returns the node's own ban of a prefix.
func (n *node) ownBan(prefix netip.Prefix) (r ban.Record, ok bool) {
	n.state.View(func(t *ban.Table) { r, ok = t.OwnBan(prefix, ban.Ports{}) })
	return r, ok
}
