package daemon

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// What this node bans and lifts is in its log, what it hears of others is not; an enrolment names the node by its short id.
func TestTheLogNamesWhatThisNodeSays(t *testing.T) {
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
