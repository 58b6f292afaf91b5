package pki

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/wire"
)

// For every decoder: what it accepts has exactly one encoding, so encoding it again yields the same bytes.

func FuzzDecodeToken(f *testing.F) {
	f.Add(Token{Addrs: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:7946")}, Expires: start}.Encode())
	f.Add(Token{Addrs: []netip.AddrPort{
		netip.MustParseAddrPort("[2001:db8::1]:7946"), netip.MustParseAddrPort("198.51.100.1:1"),
	}, Inviter: frame.ID{9}, Secret: [16]byte{8}, Expires: start}.Encode())
	f.Add("mb1-")
	f.Fuzz(func(t *testing.T, s string) {
		tok, err := decodeToken(s)
		if err != nil {
			return
		}
		if got := tok.Encode(); got != s {
			t.Errorf("encoded as %q, was %q", got, s)
		}
	})
}

func FuzzCertificate(f *testing.F) {
	a := testAuthority(f)
	cert, err := a.Certify(Certificate{Serial: 1 << 50, Node: signers[0].Public(), Name: "web1", NotBefore: start,
		NotAfter: start.Add(CertificateLife), Caps: Caps{1, 2, 24, 48, time.Hour, true, true, true}})
	revoked, errRevoke := a.Revoke(Revocation{Serial: 7, Node: frame.ID{1}, Name: "web2", Since: start, Issued: start, Reason: "stolen"})
	request, errRequest := NewRequest(signers[0], "web1", [16]byte{1})
	if err := errors.Join(err, errRevoke, errRequest); err != nil {
		f.Fatal(err)
	}
	f.Add(cert.Frame.Raw)
	f.Add(revoked.Frame.Raw)
	f.Add(request.raw)
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := decodeCertificate(b); err == nil {
			if !bytes.Equal(c.payload(), c.Frame.Payload) || !bytes.Equal(c.Frame.Raw, b) || !wire.IsText(c.Name) {
				t.Errorf("certificate encoded as %x, was %x", c.payload(), c.Frame.Payload)
			}
		}
		if fr, err := frame.Decode(b); err == nil {
			if v, err := revocationOf(fr); err == nil && !bytes.Equal(v.payload(), fr.Payload) {
				t.Errorf("revocation encoded as %x, was %x", v.payload(), fr.Payload)
			}
		}
		if q, err := decodeRequest(b); err == nil && !bytes.Equal(append(q.body(), b[len(b)-64:]...), b) {
			t.Errorf("request encoded as %x, was %x", q.body(), b)
		}
	})
}

func FuzzGossipKeys(f *testing.F) {
	a := testAuthority(f)
	keys := []GossipKey{testGossipKey(2, 1), testGossipKey(1, 1)}
	f.Add(testGrant(f, a, 5, start, keys, signers[0], signers[1]).Frame.Raw)
	f.Add(appendKeys(nil, keys))
	f.Add(Secrets{MeshID: [16]byte{1}, GossipKey: [32]byte{2}}.encode())
	f.Add(Secrets{MeshID: [16]byte{1}, Authority: [32]byte{2}}.WithKeys(keys, keys[1].Version()).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if fr, err := frame.Decode(b); err == nil {
			if g, err := grantOf(fr); err == nil {
				if !bytes.Equal(g.payload(), fr.Payload) {
					t.Errorf("grant encoded as %x, was %x", g.payload(), fr.Payload)
				}
				_, _, _ = g.Open(signers[0])
			}
		}
		r := wire.Reader{Rest: b}
		if keys := readKeys(&r); r.End() == nil && !bytes.Equal(appendKeys(nil, keys), b) {
			t.Errorf("keys encoded as %x, were %x", appendKeys(nil, keys), b)
		}
		if s, err := decodeSecrets(b); err == nil {
			if got := s.encode(); !bytes.Equal(got, b) && s.HasAuthority() {
				t.Errorf("secrets encoded as %x, were %x", got, b)
			}
			if len(s.Keys()) > MaxGossipKeys {
				t.Errorf("%d keys", len(s.Keys()))
			}
		}
	})
}

// Requests, enrolments and secrets as text that people carry.
func FuzzTexts(f *testing.F) {
	a := testAuthority(f)
	secrets := Secrets{MeshID: [16]byte{1}, GossipKey: [32]byte{2}}
	copy(secrets.Authority[:], a.Public())
	request, err := NewRequest(signers[0], "web1", secrets.MeshID)
	if err != nil {
		f.Fatal(err)
	}
	enrolment, err := a.Enrol(request, secrets, DefaultCaps(), start)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(request.Text())
	f.Add(enrolment.Text())
	f.Add(secrets.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if q, err := ParseRequest(b); err == nil {
			if again, err := ParseRequest(q.Text()); err != nil || !bytes.Equal(again.raw, q.raw) {
				t.Errorf("request %x, then %x, %v", q.raw, again.raw, err)
			}
		}
		if e, err := ParseEnrolment(b, signers[0]); err == nil {
			again, err := ParseEnrolment(e.Text(), signers[0])
			if err != nil || again.Secrets != e.Secrets || !bytes.Equal(again.Certificate.Frame.Raw, e.Certificate.Frame.Raw) {
				t.Errorf("enrolment %+v, then %+v, %v", e, again, err)
			}
		}
		if s, err := decodeSecrets(b); err == nil {
			if again, err := decodeSecrets(s.encode()); err != nil || again != s {
				t.Errorf("secrets came back differently: %v", err)
			}
		}
	})
}
