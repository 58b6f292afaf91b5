package transport

import (
	"net/netip"
	"strings"
	"testing"
)

func TestPreferredAddress(t *testing.T) {
	for _, tt := range []struct{ name, local, want string }{
		{"ok: private first", "198.51.100.1 192.168.0.1 10.0.0.1", "192.168.0.1"},
		{"ok: no private one", "198.51.100.1 198.51.100.2", "198.51.100.1"},
		{"ok: IPv4 before IPv6", "fd00::1 198.51.100.1", "198.51.100.1"},
		{"ok: IPv6 alone", "2001:db8::1 fd00::1", "fd00::1"},
	} {
		var local []netip.Addr
		for a := range strings.FieldsSeq(tt.local) {
			local = append(local, netip.MustParseAddr(a))
		}
		if got := Preferred(local)[0]; got.String() != tt.want {
			t.Errorf("%s: %v, want %s", tt.name, got, tt.want)
		}
	}
}
