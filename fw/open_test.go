package fw

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
)

func TestOrderOfBackends(t *testing.T) {
	for name, c := range map[string]struct {
		names []string
		want  string
	}{
		"ok: nothing said is auto":  {nil, "[ipset nftables iptables none]"},
		"ok: auto in the middle":    {[]string{"nftables", "auto"}, "[nftables ipset iptables none]"},
		"ok: no repetitions":        {[]string{"none", "none"}, "[none]"},
		"bad: a name with a typo":   {[]string{"ipsets"}, ""},
		"bad: an empty name":        {[]string{""}, ""},
		"bad: right, but not alone": {[]string{"ipset", "pf"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := expandOrder(c.names)
			if err != nil {
				if c.want != "" || !strings.Contains(err.Error(), "write auto, ipset, nftables, iptables or none") {
					t.Error(err)
				}
				return
			}
			if fmt.Sprint(got) != c.want {
				t.Errorf("got %v, want %s", got, c.want)
			}
		})
	}
}

// half is a backend that lets IPv6 through.
type half struct{ *fake }

func (half) Traits() Traits { return Traits{LetsThrough: "IPv6 passes"} }

// Without ip6tables, ipset used to be chosen and IPv6 let through, although nftables would have dropped it.
func TestOpenPrefersWhatDropsIPv6(t *testing.T) {
	former := openers
	t.Cleanup(func() { openers = former })
	gives := func(b Backend) opener {
		return func(context.Context, Options) (Backend, string, error) { return b, b.Traits().LetsThrough, nil }
	}
	sets, rules, whole := newFake(), newFake(), newFake()
	for _, c := range []struct {
		name     string
		openers  map[string]opener
		want     Backend
		attempts string
		closed   string
	}{
		{"ok: the first drops all", map[string]opener{NameIPSet: gives(whole), NameNFTables: gives(half{sets})}, whole, "ipset", ""},
		{"ok: the second drops all", map[string]opener{NameIPSet: gives(half{sets}), NameNFTables: gives(whole)}, whole, "ipset (IPv6 passes) nftables", "ipset"},
		{"ok: two let IPv6 through", map[string]opener{NameIPSet: gives(half{sets}), NameIPTables: gives(half{rules})}, half{sets}, "nftables (no such) iptables (IPv6 passes) ipset", "iptables"},
	} {
		t.Run(c.name, func(t *testing.T) {
			openers = map[string]opener{}
			for _, name := range []string{NameIPSet, NameNFTables, NameIPTables} {
				openers[name] = func(context.Context, Options) (Backend, string, error) { return nil, "", errors.New("no such") }
			}
			maps.Copy(openers, c.openers)
			sets.closed, rules.closed = false, false
			b, attempts, err := Open(t.Context(), nil, Options{})
			if err != nil || b != c.want {
				t.Fatalf("%v, %v", b, err)
			}
			var got []string
			for _, a := range attempts {
				if got = append(got, a.Name); a.Err != nil {
					got[len(got)-1] += fmt.Sprintf(" (%v)", a.Err)
				}
			}
			if strings.Join(got, " ") != c.attempts {
				t.Errorf("attempts %q, want %q", got, c.attempts)
			}
			if sets.closed != (c.closed == "ipset") || rules.closed != (c.closed == "iptables") {
				t.Errorf("closed %v, %v", sets.closed, rules.closed)
			}
		})
	}
}

func TestNoneIsAlwaysThere(t *testing.T) {
	b, attempts, err := Open(t.Context(), []string{NameNone}, Options{})
	if err != nil || b.Name() != NameNone || len(attempts) != 1 || attempts[0].Err != nil {
		t.Errorf("%v %v %v", b, attempts, err)
	}
}

func TestOutboundReadsWhatItWrites(t *testing.T) {
	for _, o := range []Outbound{OutboundDrop, OutboundAllow} {
		if got, err := ParseOutbound(o.String()); err != nil || got != o {
			t.Errorf("%v: got %v, %v", o, got, err)
		}
	}
	if _, err := ParseOutbound("accept"); err == nil {
		t.Error("accept is no such word")
	}
}
