package ban

import (
	"fmt"
	"net/netip"
)

// NeverEntry is a prefix that is never banned here, whatever anyone says.
type NeverEntry struct {
	Prefix netip.Prefix
	Why    string // for people: "own address", "gateway", "mesh member web2"
}

// describe says why p, which lies inside the entry, is on the list.
func (e NeverEntry) describe(p netip.Prefix) string {
	if e.Prefix == p {
		return e.Why
	}
	return fmt.Sprintf("%s (%s)", e.Why, shortPrefix(e.Prefix))
}

// builtinNever is what no table ever bans.
var builtinNever = []NeverEntry{
	{netip.MustParsePrefix("0.0.0.0/8"), "unspecified"},
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},
	{netip.MustParsePrefix("255.255.255.255/32"), "broadcast"},
	{netip.MustParsePrefix("::/128"), "unspecified"},
	{netip.MustParsePrefix("::1/128"), "loopback"},
	{netip.MustParsePrefix("fe80::/10"), "link-local"},
	{netip.MustParsePrefix("ff00::/8"), "multicast"},
}
