package daemon

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// The remedy that a refusal suggests works exactly as written.
func TestRemediesOfRefusals(t *testing.T) {
	t.Parallel()
	n := first(t, "web1")
	ctx := t.Context()
	only := func(results []control.Result, err error) *control.Error {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return results[0].Err
	}
	ban := func(prefix string, length time.Duration) *control.Error {
		t.Helper()
		reply, err := n.Ban(ctx, control.BanRequest{Addrs: []netip.Prefix{netip.MustParsePrefix(prefix)}, For: control.Duration(length)})
		return only(reply.Results, err)
	}
	allow := func(prefix string, length time.Duration) *control.Error {
		t.Helper()
		reply, err := n.Allow(ctx, control.AllowRequest{Prefixes: []netip.Prefix{netip.MustParsePrefix(prefix)}, For: control.Duration(length)})
		return only(reply.Results, err)
	}
	const day = 24 * time.Hour
	if e := allow("198.51.100.0/24", 0); e != nil {
		t.Fatal(e)
	}
	if e := ban("198.51.100.7/32", 0); e == nil || e.Message != "198.51.100.7 is on the allow list: allowed by "+n.cfg.Name+" (198.51.100.0/24)" {
		t.Errorf("an allow without a reason: %v", e)
	}
	for _, tt := range []struct {
		name      string
		err       *control.Error
		want, not string
	}{
		{"longer than any ban", ban("203.0.113.7/32", 31*day), "write --for 30d or less: no ban may last longer", "max_for"},
		{"an allow of two years", allow("203.0.113.7/32", 800*day), "under allow in meshban.yaml has no end", "max_for"},
		{"an allow of everything", allow("0.0.0.0/0", 0), "allow networks of /8 to /32", "ban networks"},
		{"a ban of everything", ban("::/0", 0), "ban networks of /19 to /128", "allow networks"},
		{"link-local", ban("fe80::1/128", 0), "`meshban why fe80::1` shows what protects it", "session"},
		{"allowed by a wider entry", ban("198.51.100.7/32", 0), "`meshban allow --remove 198.51.100.0/24` takes it off", "ADDR"},
	} {
		if tt.err == nil {
			t.Errorf("%s: taken", tt.name)
			continue
		}
		if said := tt.err.Message + "\n" + tt.err.Hint; !strings.Contains(said, tt.want) || strings.Contains(said, tt.not) || strings.Contains(said, "h0m0s") {
			t.Errorf("%s: it says %q, want %q and no %q", tt.name, said, tt.want, tt.not)
		}
	}
	if e := ban("203.0.113.7/32", 30*day); e != nil {
		t.Errorf("30d as told: %v", e)
	}
	if reply, err := n.Unallow(ctx, control.UnallowRequest{Prefixes: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}}); err != nil || reply.Results[0].Err != nil {
		t.Errorf("allow --remove as told: %v, %v", reply, errors.Join(err, reply.Results[0].Err))
	}
	if e := ban("198.51.100.7/32", 0); e != nil {
		t.Errorf("after that: %v", e)
	}
}
