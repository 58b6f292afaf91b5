package daemon

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/logsrc"
)

// Two nodes that read one file, as the recipe has it, take each other's lines for their own: status says so.
func TestSharedLineFile(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	a.join(t, "b")
	until(t, "a knows b's name", func() bool { return a.names.taken("b") })
	later := time.Now().Add(2 * formerLines)
	for i, c := range []struct {
		name, origin, tag string
		emitted           bool
		now               time.Time
		writer            string
	}{
		{"bad: another node emitted it", "c", "newbans", true, later, "c"},
		{"bad: a logger on a member", "b", "root", false, later, "b"},
		{"ok: a logger elsewhere", "printer", "root", false, later, ""},
		{"ok: this node", "a", "root", false, later, ""},
		{"ok: this machine's syslog", a.hostName, "newbans", true, later, ""},
		{"ok: nobody", "", "", false, later, ""},
		{"ok: emitted by an earlier run", "c", "newbans", true, time.Now(), ""},
	} {
		line := logsrc.Line{Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), Ports: "22", Origin: c.origin, Tag: c.tag, Emitted: c.emitted}
		if got := a.writer(c.now, line); got != c.writer {
			t.Errorf("%s: %q, want %q", c.name, got, c.writer)
		}
		a.sightings(c.now, []logsrc.Line{line})
		s, err := a.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		told := strings.Contains(strings.Join(s.Problems, "\n"), "shared line file: ")
		if a.problems.clear("shared line file"); told != (c.writer != "") {
			t.Errorf("%s: status says %q", c.name, s.Problems)
		}
	}
}
