package enforce

import (
	"context"
	"net/netip"
	"testing"

	"github.com/meshban/meshban/ban"
)

// A request does not succeed before the kernel has confirmed its changes, and does not wait for changes of peers.
func TestAwait(t *testing.T) {
	t.Parallel()
	self, authority, peer := ban.Origin{1}, ban.Origin{2}, ban.Origin{3}
	s := &State{Gate: ban.NewAdmission(ban.AdmissionConfig{Self: self, Authority: authority})}
	change := func(text string, by ban.Origin) []ban.Change {
		return []ban.Change{{Prefix: netip.MustParsePrefix(text), Enforce: true, Origin: by}}
	}
	took := func(text string) bool {
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // only what is already confirmed counts
		return s.Await(ctx, []netip.Prefix{netip.MustParsePrefix(text)}) == nil
	}
	lost := s.acks.begin(change("192.0.2.1/32", self), s.Gate.Trusts)
	again := s.acks.begin(change("192.0.2.1/32", self), s.Gate.Trusts)
	s.acks.begin(change("192.0.2.9/32", peer), s.Gate.Trusts)
	s.acks.begin(change("198.51.100.9/32", authority), s.Gate.Trusts) // what unban publishes where ca.key is
	for text, want := range map[string]bool{"192.0.2.1/32": false, "192.0.2.0/24": false, "192.0.2.2/32": true, "192.0.2.9/32": true, "198.51.100.0/24": false} {
		if got := took(text); got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
	s.acks.end(again, change("192.0.2.1/32", self)) // although the one before was never answered
	if !took("192.0.2.1/32") {
		t.Error("not answered")
	}
	s.acks.end(lost, change("192.0.2.1/32", self))
}
