package fw

import (
	"fmt"
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
