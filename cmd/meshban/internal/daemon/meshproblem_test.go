package daemon

import (
	"net/netip"
	"testing"

	"github.com/meshban/meshban/ban"
)

// What the mesh says of nodes by their ids, people read with their certified names.
func TestProblemsNameNodes(t *testing.T) {
	n := newNames(nil, ban.Origin{9}, "self")
	n.certify(certifiedAs("web1", 1))
	one, stranger := ban.Origin{1}.String(), ban.Origin{7}.String()
	for text, want := range map[string]string{
		"origin " + one + " signed two different frames": "origin web1 signed two different frames",
		"in the name of " + one + ", " + stranger:        "in the name of web1, " + stranger,
		"sha256 " + one + one:                            "sha256 " + one + one,
		"nobody":                                         "nobody",
	} {
		if got := n.inText(text); got != want {
			t.Errorf("%q is shown as %q, want %q", text, got, want)
		}
	}
	for _, c := range []struct {
		member, address string
		same            bool
	}{
		{"192.0.2.1", "192.0.2.1", true}, {"192.0.2.1", "192.0.2.2", false}, {"2001:db8::7", "2001:db8::", true},
		{"2001:db8:0:1::7", "2001:db8::", false}, {"192.0.2.1", "2001:db8::", false}, {"2001:db8::7", "192.0.2.1", false},
	} {
		if got := sameHost(netip.MustParseAddr(c.member), netip.MustParseAddr(c.address)); got != c.same {
			t.Errorf("member at %s, flood from %s: the same host: %v", c.member, c.address, got)
		}
	}
}
