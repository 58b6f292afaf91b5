package meta

import (
	"net/netip"
	"testing"

	"github.com/meshban/meshban/mesh/internal/meshtest"
)

// What a member says of itself is what v0.1.0 says.
func TestSpeaksV010(t *testing.T) {
	id, at, also := meshtest.Known, netip.MustParseAddrPort("192.0.2.1:7946"), netip.MustParseAddrPort("[2001:db8::1]:7946")
	least := Data{Protocol: Protocol, Key: id.Public(), Name: "web1", Version: "v0.1.0", Place: id.SignText(PlaceText([16]byte{1}, at))}
	most := least
	most.Say(id, 6, 5, 1000)
	most.Also, most.AlsoProof = also, id.SignText(PlaceText([16]byte{1}, also))
	meshtest.Released(t, map[string][]byte{"least": least.Encode(), "most": most.Encode()})
}
