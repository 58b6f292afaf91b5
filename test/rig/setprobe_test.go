//go:build linux && netns

package rig

import (
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// The probe agrees with what the ipset command has added and removed, and returns an error for a set that does not exist.
func TestSetProbe(t *testing.T) {
	n := New(t, Options{Nodes: 1}).Nodes[0]
	must(n.Shell("ipset create t4 hash:net timeout 600"))(t)
	probe := func(set string) (p *SetProbe) {
		check(t, n.InNet(func() (err error) {
			p, err = NewSetProbe(set)
			return err
		}))
		t.Cleanup(func() { check(t, p.Close()) })
		return p
	}
	p := probe("t4")
	for _, step := range []struct {
		do   string
		want [2]bool
	}{
		{"true", [2]bool{false, false}},
		{"ipset add t4 198.51.100.1", [2]bool{true, false}},
		{"ipset add t4 203.0.113.0/24", [2]bool{true, true}},
		{"ipset del t4 198.51.100.1", [2]bool{false, true}},
	} {
		must(n.Shell(step.do))(t)
		for i, addr := range []string{"198.51.100.1", "203.0.113.9"} {
			if got := must(p.Has(netip.MustParseAddr(addr)))(t); got != step.want[i] {
				t.Errorf("after %q the probe says %v of %s", step.do, got, addr)
			}
		}
	}
	if _, err := probe("nosuch").Has(netip.MustParseAddr("198.51.100.1")); !errors.Is(err, unix.ENOENT) {
		t.Errorf("without a set: %v", err)
	}
}
