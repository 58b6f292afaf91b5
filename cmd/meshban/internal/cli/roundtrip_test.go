package cli

import (
	"bufio"
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/banlist"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// Import reads back what export writes, in every format; only plain leaves out port-limited bans, as comments.
func TestImportReadsWhatExportWrites(t *testing.T) {
	now := time.Date(2026, 11, 22, 11, 2, 11, 0, time.UTC)
	var entries []control.ListEntry
	add := func(prefix, ports, reason string) {
		entries = append(entries, control.ListEntry{
			Prefix: control.PrefixOf(netip.MustParsePrefix(prefix)), Ports: ports, Until: control.TimeOf(now.Add(time.Hour)), Origins: []string{"web1", "web2"}, OriginIDs: []string{},
			Reason: reason, Source: "cli", State: control.StateEnforced,
		})
	}
	for i := range 2 * nftBatch {
		add(fmt.Sprintf("198.18.%d.%d/32", i>>8, i&255), "", `a, "b" of 192.0.2.1`)
		add(fmt.Sprintf("2001:db8:%x::/48", i), "", "allow")
	}
	add("192.0.2.0/24", "", "=1+1")
	add("203.0.113.7/32", "22/tcp", "192.0.2.1")
	add("203.0.113.7/32", "80", "")
	add("2001:db8::7/128", "8000-8010/udp,53/udp", "")

	for format, start := range exporters {
		var b bytes.Buffer
		out := bufio.NewWriter(&b)
		ex := start(out, now, len(entries))
		var want []string
		for _, e := range entries {
			if err := ex.entry(e); err != nil {
				t.Fatal(err)
			}
			for _, ports := range portsOf(e.Ports, format) {
				want = append(want, e.Prefix.Prefix.String()+" "+ports)
			}
		}
		if err := ex.end(); err != nil {
			t.Fatal(err)
		}
		if err := out.Flush(); err != nil {
			t.Fatal(err)
		}
		list, err := banlist.Read(&b, nil)
		if err != nil {
			t.Errorf("%s: %v", format, err)
			continue
		}
		var got []string
		for _, e := range list.Entries {
			got = append(got, e.Prefix.String()+" "+e.Ports)
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s: %d entries, want %d; the last %q, want %q", format, len(got), len(want), got[max(0, len(got)-4):], want[len(want)-4:])
		}
	}
}

// portsOf returns the port lists of the bans that a format makes of one port list.
func portsOf(ports, format string) []string {
	switch {
	case ports != "" && format == "plain":
		return nil
	case ports == "", format == "json", format == "csv":
		return []string{ports}
	case ports == "80":
		return []string{"80/tcp", "80/udp"}
	}
	return strings.Split(ports, ",")
}
