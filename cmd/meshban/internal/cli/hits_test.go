package cli

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/control/controltest"
)

// list --sort hits shows who knocks most, first; what is not in force has no count.
func TestListByHits(t *testing.T) {
	entry := func(addr, state string, dropped *control.Dropped) control.ListEntry {
		return control.ListEntry{
			Prefix: control.PrefixOf(netip.MustParsePrefix(addr + "/32")), Until: control.TimeOf(time.Now().Add(time.Hour)), Origins: []string{"web1"},
			State: state, Source: "cli", Dropped: dropped,
		}
	}
	dir := t.TempDir()
	serveFake(t, dir, controltest.New(
		entry("192.0.2.1", control.StateEnforced, nil), entry("192.0.2.2", control.StateEnforced, &control.Dropped{Packets: 7, Bytes: 420}),
		entry("192.0.2.3", control.StateHeld, nil), entry("192.0.2.4", control.StateEnforced, &control.Dropped{Packets: 1200, Bytes: 72000}),
	))
	var got []string
	for line := range strings.Lines(printed(t, exitDone, "--dir", dir, "list", "--sort", "hits")) {
		f := strings.Fields(line)
		got = append(got, f[0]+" "+f[hitsColumn])
	}
	if want := "ADDRESS HITS, 192.0.2.4 1200, 192.0.2.2 7, 192.0.2.1 0, 192.0.2.3 -"; strings.Join(got, ", ") != want {
		t.Errorf("%q, want %q", got, want)
	}
	text := printed(t, exitDone, "--dir", dir, "list", "--sort", "hits", "--limit", "1", "--json")
	if !strings.Contains(text, `"packets":1200,"bytes":72000`) {
		t.Errorf("%s", text)
	}
	for _, args := range [][]string{{"list"}, {"list", "--sort", "left"}, {"list", "--json"}} {
		if text := printed(t, exitDone, append([]string{"--dir", dir}, args...)...); strings.Contains(text, "HITS") || strings.Contains(text, "packets") {
			t.Errorf("%q: %s", args, text)
		}
	}
}

func TestWhySaysHits(t *testing.T) {
	c := newCommand(fakeActions(), nil, nil, nil)
	f := control.Finding{Kind: "ban", Prefix: control.PrefixOf(netip.MustParsePrefix("192.0.2.1/32")), Status: "enforced", Dropped: &control.Dropped{Packets: 1, Bytes: 60}}
	if text := c.finding(f); text != "ban 192.0.2.1: enforced; has dropped 1 packet, 60 bytes" {
		t.Errorf("%q", text)
	}
}
