package enrol

import (
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/meshtest"
	"github.com/meshban/meshban/mesh/pki"
)

// Enrolment, the handing out of keys and the stored invitations are those of v0.1.0.
func TestSpeaksV010(t *testing.T) {
	secrets := pki.Secrets{MeshID: [16]byte{1}, GossipKey: [32]byte{2}, Authority: [32]byte{3}}
	rotated := secrets
	rotated.Generation = 1
	raw := meshtest.Frame(t, meshtest.Known, 7, 1, meshtest.Start, time.Hour, "payload").Raw
	caps := pki.DefaultCaps()
	caps.Rate = 60
	meshtest.Released(t, map[string][]byte{
		"request":      Request{Secret: [16]byte{9}, Name: "web2"}.Encode(),
		"answer":       Answer{Secrets: secrets, Join: []string{"192.0.2.1:7946"}, Certificate: raw, Taken: true}.Encode(),
		"rotated":      Answer{Secrets: rotated, Join: []string{"[2001:db8::1]:7946"}, Certificate: raw}.Encode(),
		"refused":      Answer{Code: Expired}.Encode(),
		"keys request": KeysRequest{MeshID: [16]byte{1}, Has: 5, Certificate: raw}.Encode(),
		"keys reply":   KeysReply{Uses: 6, Records: [][]byte{raw}}.Encode(),
		"invitations": encodeInvites([]invite{
			{Hash: [32]byte{4}, Expires: meshtest.Start, Uses: 5, Used: []frame.ID{{1}}, Caps: caps},
			{Hash: [32]byte{5}, Expires: meshtest.Start, Uses: 1, Caps: pki.DefaultCaps()},
		}),
		"knock": []byte(Knock([16]byte{9})),
	})
}
