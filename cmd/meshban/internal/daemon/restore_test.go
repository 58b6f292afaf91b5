package daemon

import (
	"os"
	"strings"
	"testing"
	"time"
)

// A node that had lost its store got its own bans back from its peers, but lost them again at the next restart, because it
// assumed that its own frames were already stored.
func TestOwnBansThatPeersGaveBackAreRemembered(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	b := a.join(t, "b")
	a.ban(t, time.Hour, "192.0.2.1/32")
	until(t, "b enforces", func() bool { return b.enforces(t, "192.0.2.1/32") })
	a.stop()
	if err := os.Remove(a.home.Store()); err != nil {
		t.Fatal(err)
	}
	a.cfg.Join = []string{b.mesh.Addr().String()}
	again := start(t, a.home, a.cfg)
	if p := again.saysOf("store"); !strings.Contains(p, "store.db was missing, though this node has run before") {
		t.Errorf("status says %q", p)
	}
	until(t, "the ban back on a", func() bool { return again.enforces(t, "192.0.2.1/32") })
	again.stop()
	b.stop()
	alone := start(t, a.home, a.cfg)
	if !alone.takes(t, "192.0.2.1/32") {
		t.Error("the ban is gone after the next restart")
	}
}
