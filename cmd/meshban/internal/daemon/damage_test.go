package daemon

import (
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

func (n *node) hasAll(t *testing.T, addrs []string) {
	t.Helper()
	until(t, n.cfg.Name+" has all bans", func() bool { return enforced(t, n.Daemon, addrs) == len(addrs) })
}

// enforced returns how many of addrs are banned and enforced.
func enforced(t *testing.T, d *Daemon, addrs []string) (found int) {
	t.Helper()
	if err := d.List(t.Context(), false, func(e control.ListEntry) error {
		if slices.Contains(addrs, e.Prefix.Prefix.String()) && e.State == control.StateEnforced {
			found++
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return found
}

// saysOf returns the problem of a kind that status shows, or "" if there is none.
func (n *node) saysOf(kind string) string {
	for _, p := range n.localStatus().Problems {
		if strings.HasPrefix(p, kind) {
			return p
		}
	}
	return ""
}

// A store file damaged while the agent runs is replaced by one with all the agent knows: a mesh of one loses nothing.
func TestStoreDamagedInUse(t *testing.T) {
	n := first(t, "n")
	addrs := []netip.Prefix{netip.MustParsePrefix("203.0.113.1/32"), netip.MustParsePrefix("203.0.113.2/32")}
	if _, err := n.Ban(t.Context(), control.BanRequest{Addrs: addrs[:1], For: control.Duration(time.Hour), Source: "cli"}); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(n.home.Store(), 4096); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Ban(t.Context(), control.BanRequest{Addrs: addrs[1:], For: control.Duration(time.Hour), Source: "cli"}); err != nil {
		t.Fatal(err)
	}
	until(t, "status says so", func() bool { return n.saysOf("store") != "" })
	until(t, "the store is refilled", func() bool {
		found := 0
		if err := n.store.Frames(func(time.Time, []byte) error { found++; return nil }); err != nil {
			t.Fatal(err)
		}
		return found >= 3 // its certificate and two bans
	})
	n.stop()
	n = start(t, n.home, n.cfg)
	n.hasAll(t, []string{addrs[0].String(), addrs[1].String()})
}
