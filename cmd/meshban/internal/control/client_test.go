package control_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/control/controltest"
)

var now = time.Date(2026, 11, 22, 11, 2, 11, 0, time.UTC)

// Each call through the socket returns what the same call returns directly.
func TestThroughTheSocket(t *testing.T) {
	agents := [2]control.Agent{}
	for i := range agents {
		a := controltest.New()
		a.Now = func() time.Time { return now }
		agents[i] = a
	}
	path, _ := serve(t, agents[1])
	agents[1] = control.NewClient(path)
	addrs := prefixes("192.0.2.7/32", "2001:db8::/64", "127.0.0.1/32")
	one := netip.MustParsePrefix("192.0.2.7/32")
	ctx := t.Context()
	for _, c := range []struct {
		name string
		call func(control.Agent) (any, error)
	}{
		{"ban", func(a control.Agent) (any, error) {
			return a.Ban(ctx, control.BanRequest{Addrs: addrs, For: control.Duration(90 * time.Second), Reason: `a "b" \ <c> ü`, Source: "cli"})
		}},
		{"ban again", func(a control.Agent) (any, error) {
			return a.Ban(ctx, control.BanRequest{Addrs: addrs[:1], Ports: "22/tcp", Source: "cli"})
		}},
		{"allow", func(a control.Agent) (any, error) {
			return a.Allow(ctx, control.AllowRequest{Prefixes: addrs[:2], For: control.Duration(time.Hour), Reason: "ours"})
		}},
		{"allow for ever", func(a control.Agent) (any, error) {
			return a.Allow(ctx, control.AllowRequest{Prefixes: addrs[1:2]})
		}},
		{"unallow", func(a control.Agent) (any, error) {
			return a.Unallow(ctx, control.UnallowRequest{Prefixes: prefixes("192.0.2.7/32", "127.0.0.0/8", "10.0.0.0/8")})
		}},
		{"allowed", func(a control.Agent) (any, error) { return a.Allowed(ctx) }},
		{"list", func(a control.Agent) (any, error) {
			var all []control.ListEntry
			err := a.List(ctx, false, func(e control.ListEntry) error {
				e.Origins = slices.Clone(e.Origins)
				all = append(all, e)
				return nil
			})
			return all, err
		}},
		{"why", func(a control.Agent) (any, error) { return a.Why(ctx, one) }},
		{"why not", func(a control.Agent) (any, error) {
			rep, err := a.Why(ctx, netip.MustParsePrefix("198.51.100.0/24"))
			rep.Findings = slices.Concat([]control.Finding{}, rep.Findings)
			rep.Nodes = slices.Concat([]control.NodeAnswer{}, rep.Nodes)
			return rep, err
		}},
		{"members", func(a control.Agent) (any, error) { return a.Members(ctx) }},
		{"status", func(a control.Agent) (any, error) { return a.Status(ctx) }},
		{"invite", func(a control.Agent) (any, error) {
			return a.Invite(ctx, control.InviteRequest{Uses: 3, For: control.Duration(24 * time.Hour)})
		}},
		{"invitations", func(a control.Agent) (any, error) { return a.Invitations(ctx) }},
		{"cancelled invitation", func(a control.Agent) (any, error) {
			return a.CancelInvite(ctx, control.CancelInviteRequest{ID: "0011aabb"})
		}},
		{"unknown invitation", func(a control.Agent) (any, error) {
			return a.CancelInvite(ctx, control.CancelInviteRequest{ID: "ffffffff"})
		}},
		{"caps", func(a control.Agent) (any, error) { return a.Caps(ctx, control.CapsRequest{Node: "web3"}) }},
		{"new caps", func(a control.Agent) (any, error) {
			return a.Caps(ctx, control.CapsRequest{Node: "web3", Caps: &control.Caps{Rate: 1, Active: 2, Widest4: 24, Widest6: 48, MaxFor: control.Duration(time.Hour), NoImport: true}})
		}},
		{"caps of nobody", func(a control.Agent) (any, error) {
			return a.Caps(ctx, control.CapsRequest{Node: "nobody"})
		}},
		{"test of a hook", func(a control.Agent) (any, error) { return a.TestHook(ctx, control.HookRequest{Name: "ops"}) }},
		{"test of a hook that cannot send", func(a control.Agent) (any, error) {
			return a.TestHook(ctx, control.HookRequest{Name: "pager"})
		}},
		{"drill", func(a control.Agent) (any, error) { return a.Drill(ctx, control.DrillRequest{}) }},
		{"unban", func(a control.Agent) (any, error) {
			return a.Unban(ctx, control.UnbanRequest{Prefixes: addrs, Reason: "mistake"})
		}},
		{"bad ports", func(a control.Agent) (any, error) {
			return a.Ban(ctx, control.BanRequest{Addrs: addrs, Ports: "nonsense", Source: "cli"})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			want, wantErr := c.call(agents[0])
			got, gotErr := c.call(agents[1])
			if !reflect.DeepEqual(got, want) || !reflect.DeepEqual(gotErr, wantErr) {
				t.Errorf("got  %+v, %v\nwant %+v, %v", got, gotErr, want, wantErr)
			}
		})
	}
}

func TestNoAgent(t *testing.T) {
	dir := t.TempDir()
	dead := filepath.Join(dir, "dead")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	for name, path := range map[string]string{
		"no socket":     filepath.Join(dir, "none"),
		"no folder":     filepath.Join(dir, "none", "none"),
		"dead socket":   dead,
		"path too long": "/" + strings.Repeat("x", 200),
	} {
		if _, err := control.NewClient(path).Status(t.Context()); !errors.Is(err, control.ErrNoAgent) {
			t.Errorf("%s: %v, want ErrNoAgent", name, err)
		}
	}
}

func entries(n int) []control.ListEntry {
	all := make([]control.ListEntry, n)
	for i := range all {
		addr := netip.AddrFrom4([4]byte{198, byte(18 + i>>16), byte(i >> 8), byte(i)})
		all[i] = control.ListEntry{
			Prefix: control.PrefixOf(netip.PrefixFrom(addr, 32)), Until: control.TimeOf(now.Add(time.Duration(i) * time.Second)), Origins: []string{"web1", "web2"},
			Reason: "sshd", Source: "line:sshd", State: control.StateEnforced,
		}
	}
	return all
}

// A list that fails after its first megabyte must not look like a short list.
func TestListFailsInTheMiddle(t *testing.T) {
	// A failure before the first chunk is sent refuses the whole request.
	for after, want := range map[int]int{0: 0, 1: 0, 9_000: 9_000} {
		t.Run(fmt.Sprint(after), func(t *testing.T) {
			agent := controltest.New(entries(10_000)...)
			agent.ListFail, agent.ListErr = after, &control.Error{Code: control.CodeFailed, Message: "the store broke", Hint: "look"}
			path, _ := serve(t, agent)
			n := 0
			err := control.NewClient(path).List(t.Context(), false, func(control.ListEntry) error { n++; return nil })
			if n != want || !reflect.DeepEqual(err, agent.ListErr) {
				t.Errorf("%d entries and %v, want %d and %v", n, err, want, agent.ListErr)
			}
		})
	}
}

// An agent that dies during a list must not look like the end of the list either.
func TestListBreaksOff(t *testing.T) {
	agent := panicAgent{controltest.New()}
	path, _ := serve(t, agent)
	err := control.NewClient(path).List(t.Context(), false, func(control.ListEntry) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "broke off") {
		t.Errorf("error %v, want one that contains \"broke off\"", err)
	}
}

type panicAgent struct{ *controltest.Agent }

func (panicAgent) List(_ context.Context, _ bool, yield func(control.ListEntry) error) error {
	for _, e := range entries(5_000) {
		if err := yield(e); err != nil {
			return err
		}
	}
	panic("out of luck")
}

func TestListStops(t *testing.T) {
	path, _ := serve(t, controltest.New(entries(50_000)...))
	enough := errors.New("enough")
	c := control.NewClient(path)
	for range 3 {
		n := 0
		err := c.List(t.Context(), false, func(control.ListEntry) error {
			if n++; n == 10 {
				return enough
			}
			return nil
		})
		if !errors.Is(err, enough) {
			t.Fatalf("error %v, want yield's own", err)
		}
	}
}

func TestWatch(t *testing.T) {
	agent := controltest.New()
	path, _ := serve(t, agent)
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan control.Event, 8)
	started := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		ended <- control.NewClient(path).WatchStarted(ctx, func() { close(started) }, func(e control.Event) error {
			got <- e
			return nil
		})
	}()
	<-started
	eventually(t, "a watcher", func() bool { return agent.Watchers() == 1 })
	want := []control.Event{
		{Time: now.Add(687 * time.Millisecond), Name: "ban", Prefix: control.PrefixOf(netip.MustParsePrefix("192.0.2.7/32")), Ports: "22/tcp",
			Until: control.TimeOf(now.Add(time.Hour)), Origin: "web2", Reason: "x\x1b[2J", Source: "cli", LatencyMS: new(3.125)},
		{Time: now, Name: "join", Origin: "web3"},
	}
	for _, e := range want {
		agent.Tell(e)
		if g := <-got; !reflect.DeepEqual(g, e) {
			t.Errorf("got %+v, want %+v", g, e)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Watch after cancel: %v", err)
	}
}
