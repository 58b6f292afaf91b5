package meta_test

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/meshban/meshban/mesh/internal/meshtest"
	"github.com/meshban/meshban/mesh/internal/meta"
	"github.com/meshban/meshban/mesh/internal/wire"
	"github.com/meshban/meshban/mesh/pki"
)

// What the decoder accepts is, encoded again, the same.
func FuzzMeta(f *testing.F) {
	good := meta.Data{Protocol: meta.Protocol, Key: meshtest.Signers[0].Public(), Name: "web1", Version: "1.2.3", Place: make([]byte, 64)}
	f.Add(good.Encode())
	says := good
	says.Say(meshtest.Signers[0], 1<<32+7, 9, 512)
	f.Add(says.Encode())
	f.Add(append(wire.AppendArray(nil, 6), append(good.Encode()[1:], 7)...)) // a field from a later version
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := meta.Decode(b)
		if err != nil {
			return
		}
		again, err := meta.Decode(m.Encode())
		if err != nil || !reflect.DeepEqual(again, m) {
			t.Errorf("decoded again as %+v, %v; was %+v", again, err, m)
		}
		if !wire.IsText(m.Name) || !wire.IsText(m.Version) || len(m.Encode()) > 512 {
			t.Errorf("accepted %+v", m)
		}
	})
}

// Nobody else can say where a member is reached, and what a member says fits.
func TestOtherAddressIsSigned(t *testing.T) {
	id, mesh := meshtest.Signers[0], [16]byte{1}
	addr, also := netip.MustParseAddrPort("192.0.2.1:7946"), netip.MustParseAddrPort("[2001:db8::1]:7946")
	m := meta.Data{Protocol: meta.Protocol, Key: id.Public(), Name: string(slices.Repeat([]byte("n"), pki.MaxName)), Version: string(slices.Repeat([]byte("v"), meta.MaxVersion)),
		Place: id.SignText(meta.PlaceText(mesh, addr)), Also: also, AlsoProof: id.SignText(meta.PlaceText(mesh, also))}
	m.Say(id, 1<<63, 1<<63, 1<<31)
	b := m.Encode()
	got, err := meta.Decode(b)
	if err != nil || got.Also != also || !got.IsAt(mesh, addr) {
		t.Fatalf("decoded from %d bytes: %+v, %v", len(b), got, err)
	}
	for name, change := range map[string]func(*meta.Data){
		"another address": func(m *meta.Data) { m.Also = netip.MustParseAddrPort("[2001:db8::2]:7946") },
		"another port":    func(m *meta.Data) { m.Also = netip.AddrPortFrom(also.Addr(), 22) },
		"another signer":  func(m *meta.Data) { m.AlsoProof = meshtest.Signers[1].SignText(meta.PlaceText(mesh, also)) },
	} {
		forged := got
		change(&forged)
		if again, err := meta.Decode(forged.Encode()); err != nil || again.IsAt(mesh, addr) {
			t.Errorf("%s is believed: %v", name, err)
		}
	}
	if _, err := meta.Decode(append(b, 0)); err == nil {
		t.Error("a byte too many is taken")
	}
}
