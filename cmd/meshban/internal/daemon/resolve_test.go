package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
)

// resolver is a name server with one name.
type resolver struct {
	mu     sync.Mutex
	answer []string
	err    error
}

func (r *resolver) say(err error, answer ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer, r.err = answer, err
}

func (r *resolver) lookup(_ context.Context, _, host string) (addrs []netip.Addr, _ error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if host != "home.example.org." {
		return nil, fmt.Errorf("no such host: %s", host)
	}
	for _, a := range r.answer {
		addrs = append(addrs, netip.MustParseAddr(a))
	}
	return addrs, r.err
}

// allows returns what a node allows because of the name.
func (n *node) allows(t *testing.T) (addrs []string) {
	t.Helper()
	entries, err := n.Allowed(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Source == "config (home.example.org)" {
			addrs = append(addrs, e.Prefix.String())
		}
	}
	return addrs
}

// The public addresses of a name are allowed, those of the last good answer while there is none, also after a restart.
func TestNamesAreAllowed(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	a.stop()
	a.cfg.Allow = []config.Allowed{{Name: "home.example.org"}, {Prefix: netip.MustParsePrefix("198.51.100.0/24")}}
	r := new(resolver)
	again := func(want ...string) {
		t.Helper()
		wake(a.resolved.wake)
		until(t, fmt.Sprint("allowed are ", want), func() bool { return slices.Equal(a.allows(t), want) })
	}
	problem := func() string {
		for _, p := range a.localStatus().Problems {
			if strings.HasPrefix(p, "allow home.example.org") {
				return p
			}
		}
		return ""
	}
	r.say(nil, "203.0.113.5", "2001:db8::5", "::ffff:203.0.113.5")
	a = startWith(t, a.home, a.cfg, func(d *Daemon) { d.resolved.lookup = r.lookup })
	again("203.0.113.5", "2001:db8::5")
	if rep := a.ban(t, time.Hour, "203.0.113.5/32"); rep.Results[0].Err == nil {
		t.Error("an address of the name is banned")
	}

	r.say(errors.New("server misbehaving"))
	wake(a.resolved.wake)
	until(t, "a problem", func() bool { return problem() != "" })
	if text := problem(); !strings.Contains(text, "server misbehaving; its last addresses stay allowed: 203.0.113.5 2001:db8::5") || !strings.Contains(text, "getent ahosts home.example.org") {
		t.Error(text)
	}
	again("203.0.113.5", "2001:db8::5")
	a.stop()
	a = startWith(t, a.home, a.cfg, func(d *Daemon) { d.resolved.lookup = r.lookup })
	again("203.0.113.5", "2001:db8::5")

	// Whoever answers for the name cannot have this machine's surroundings let through.
	special := []string{"10.0.0.1", "127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "169.254.1.1", "192.168.0.1", "100.64.0.1", "240.0.0.1", "::1", "::", "fe80::1", "fd00::1", "ff02::1", "::ffff:10.0.0.1"}
	r.say(nil, special...)
	wake(a.resolved.wake)
	until(t, "a problem with private addresses", func() bool { return strings.Contains(problem(), "no public address") })
	again("203.0.113.5", "2001:db8::5")
	many := special
	for i := range 20 {
		many = append(many, fmt.Sprintf("203.0.113.%d", 100+i))
	}
	r.say(nil, many...)
	again("203.0.113.100", "203.0.113.101", "203.0.113.102", "203.0.113.103", "203.0.113.104", "203.0.113.105", "203.0.113.106", "203.0.113.107")
	if text := problem(); text != "" {
		t.Error("solved: ", text)
	}
}
