package daemon

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/mesh"
)

// banned starts a mesh of two with bans of both, each ban in a frame of its own.
func banned(t *testing.T) (a, b *node, addrs []string) {
	t.Helper()
	a = first(t, "a")
	b = a.join(t, "b")
	for i := range 60 {
		addr := fmt.Sprintf("203.0.113.%d", i)
		by := []*node{a, b}[i%2]
		_, err := by.Ban(t.Context(), control.BanRequest{Addrs: []netip.Prefix{netip.MustParsePrefix(addr + "/32")}, For: time.Hour, Reason: strings.Repeat("r", 100), Source: "cli"})
		if err != nil {
			t.Fatal(err)
		}
		addrs = append(addrs, addr+"/32")
	}
	a.hasAll(t, addrs)
	b.hasAll(t, addrs)
	return a, b, addrs
}

func (n *node) hasAll(t *testing.T, addrs []string) {
	t.Helper()
	until(t, n.cfg.Name+" has all bans", func() bool {
		found := 0
		if err := n.List(t.Context(), func(e control.ListEntry) error {
			if slices.Contains(addrs, e.Prefix.String()) && e.State == control.StateEnforced {
				found++
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return found == len(addrs)
	})
}

// saysOf returns the problem of a kind that status shows, "" if none.
func (n *node) saysOf(kind string) string {
	for _, p := range n.localStatus().Problems {
		if strings.HasPrefix(p, kind) {
			return p
		}
	}
	return ""
}

// accusesNobody fails the test if the node blames a member for what its disk has done.
func (n *node) accusesNobody(t *testing.T) {
	t.Helper()
	for _, kind := range []mesh.Problem{mesh.ProblemForged, mesh.ProblemEquivocation, mesh.ProblemClone} {
		if p := n.saysOf(string(kind)); p != "" {
			t.Errorf("%s: %s", n.cfg.Name, p)
		}
	}
}

// A node whose store was damaged while it was down starts, says so, has all bans back from its peer, and accuses nobody.
func TestDamagedStoreComesBack(t *testing.T) {
	a, b, addrs := banned(t)
	for _, d := range []struct {
		name string
		do   func(db []byte) []byte
	}{
		{"cut to 4,096 bytes", func(db []byte) []byte { return db[:4096] }},
		{"a bit of many frames", func(db []byte) []byte { return bytes.ReplaceAll(db, []byte("rrrrrrr"), []byte("rrrrrrR")) }},
	} {
		b.stop()
		file := b.home.Store()
		db, err := os.ReadFile(file)
		if err == nil {
			err = os.WriteFile(file, d.do(db), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		b = start(t, b.home, b.cfg)
		if p := b.saysOf("store"); !strings.Contains(p, "set aside as "+file) {
			t.Errorf("%s: status says %q", d.name, p)
		}
		b.hasAll(t, addrs)
		until(t, "equal digests", func() bool { return a.mesh.Digest() == b.mesh.Digest() })
	}
	a.accusesNobody(t)
	b.accusesNobody(t)
	if aside, err := filepath.Glob(b.home.Store() + ".damaged-*"); err != nil || len(aside) > 2 {
		t.Errorf("%q, %v", aside, err)
	}
}

// A file that is damaged under a running agent is replaced, and has all that the agent knows: a mesh of one loses nothing.
func TestStoreDamagedInUse(t *testing.T) {
	n := first(t, "n")
	addrs := []netip.Prefix{netip.MustParsePrefix("203.0.113.1/32"), netip.MustParsePrefix("203.0.113.2/32")}
	if _, err := n.Ban(t.Context(), control.BanRequest{Addrs: addrs[:1], For: time.Hour, Source: "cli"}); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(n.home.Store(), 4096); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Ban(t.Context(), control.BanRequest{Addrs: addrs[1:], For: time.Hour, Source: "cli"}); err != nil {
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
