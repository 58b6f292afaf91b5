package cli

import (
	"bufio"
	"bytes"
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

var exportTime = time.Date(2026, 11, 22, 11, 2, 11, 0, time.UTC)

// exported returns each kind of entry, including nested CIDRs and overlapping port lists.
func exported() []control.ListEntry {
	var all []control.ListEntry
	for i, e := range []struct{ prefix, ports string }{
		{"203.0.113.7/32", ""}, {"203.0.113.0/24", ""}, {"203.0.113.0/28", ""}, {"198.51.100.0/24", ""},
		{"2001:db8::7/128", ""}, {"2001:db8::/48", ""}, {"2001:db8::/32", ""},
		{"203.0.113.9/32", "22/tcp"}, {"203.0.113.9/32", "22/tcp,80"}, {"203.0.113.9/32", "8000-8010/tcp"},
		{"203.0.113.9/32", "8005-8020/tcp"}, {"203.0.113.16/28", "22/tcp"}, {"203.0.113.0/24", "22/tcp"},
		{"2001:db8::9/128", "53"},
	} {
		all = append(all, control.ListEntry{
			Prefix: control.PrefixOf(netip.MustParsePrefix(e.prefix)), Ports: e.ports, Until: control.TimeOf(exportTime.Add(time.Duration(i+1) * time.Minute)),
			Origins: []string{"web1", "web2"}, Reason: "x, \"y\"", Source: "cli", State: control.StateEnforced,
		})
	}
	return all
}

func exportText(t *testing.T, format string, entries []control.ListEntry) string {
	t.Helper()
	var b bytes.Buffer
	out := bufio.NewWriter(&b)
	x := exporters[format](out, exportTime, len(entries))
	for _, e := range entries {
		if err := x.entry(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := x.end(); err != nil {
		t.Fatal(err)
	}
	if err := out.Flush(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestExport(t *testing.T) {
	for format := range exporters {
		t.Run(format, func(t *testing.T) {
			golden(t, filepath.Join("testdata", "export", format+".txt"), exportText(t, format, exported()))
		})
	}
}

// Many addresses are printed in pieces: no nft statement exceeds its bound.
func TestExportNftInPieces(t *testing.T) {
	var many []control.ListEntry
	for i := range 3*nftBatch + 1 {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), 32)
		many = append(many, control.ListEntry{Prefix: control.PrefixOf(p), Until: control.TimeOf(exportTime.Add(time.Hour))})
	}
	text := exportText(t, "nft", many)
	if n := bytes.Count([]byte(text), []byte("add element")); n != 4 {
		t.Errorf("%d statements, want 4", n)
	}
}

func TestSecondsLeft(t *testing.T) {
	for left, want := range map[time.Duration]int64{
		-time.Hour: 1, 0: 1, time.Millisecond: 1, 1001 * time.Millisecond: 2, 365 * 24 * time.Hour: ipsetMaxTimeout,
	} {
		if got := secondsLeft(exportTime.Add(left), exportTime); got != want {
			t.Errorf("%v: %d, want %d", left, got, want)
		}
	}
}

func TestDisjoint(t *testing.T) {
	at := func(minutes int) time.Time { return exportTime.Add(time.Duration(minutes) * time.Minute) }
	for _, c := range []struct {
		name string
		in   []portSpan
		want string
	}{
		{"ok: one", []portSpan{{22, 22, at(1)}}, "22:1"},
		{"ok: the same twice, the longer counts", []portSpan{{22, 22, at(5)}, {22, 22, at(1)}}, "22:5"},
		{"ok: overlap", []portSpan{{10, 20, at(1)}, {15, 30, at(5)}}, "10-14:1 15-30:5"},
		{"ok: inside", []portSpan{{10, 20, at(1)}, {12, 14, at(5)}}, "10-11:1 12-14:5 15-20:1"},
		{"ok: inside and shorter", []portSpan{{10, 20, at(5)}, {12, 14, at(1)}}, "10-20:5"},
		{"ok: apart", []portSpan{{30, 40, at(1)}, {10, 20, at(1)}}, "10-20:1 30-40:1"},
		{"ok: to the last port", []portSpan{{1, 65535, at(1)}, {65535, 65535, at(2)}}, "1-65534:1 65535:2"},
	} {
		got := ""
		for _, s := range disjoint(c.in) {
			got += fmt.Sprintf(" %s:%d", s, int(s.until.Sub(exportTime).Minutes()))
		}
		if got != " "+c.want {
			t.Errorf("%s: got%s, want %s", c.name, got, c.want)
		}
	}
}
