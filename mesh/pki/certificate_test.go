package pki

import (
	"errors"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/frame"
)

func TestCertificateVerify(t *testing.T) {
	a, other := testAuthority(t), testAuthority(t)
	base := Certificate{
		MeshID: [16]byte{1}, Serial: 9, Node: signers[0].Public(), Name: "web1", NotBefore: start, NotAfter: start.Add(time.Hour),
		Caps: Caps{Rate: 60, Active: 1000, MinBits4: 24, MinBits6: 48, MaxTTL: time.Hour, UnbanAny: true, Import: true},
	}
	good := certify(t, a, base)
	if good.Caps != base.Caps || good.Name != "web1" || good.ID() != signers[0].ID() || good.Serial != 9 {
		t.Errorf("signed %+v, want %+v", good, base)
	}
	for i := range good.Frame.Raw {
		b := append([]byte(nil), good.Frame.Raw...)
		b[i] ^= 1
		if c, err := decodeCertificate(b); err == nil && c.Verify(a.Public(), [16]byte{1}, start) == nil {
			t.Fatalf("byte %d was changed, and the certificate counts", i)
		}
	}
	for _, tt := range []struct {
		name string
		by   Authority
		mesh byte
		at   time.Duration
		want error
	}{
		{"ok", a, 1, 0, nil},
		{"ok: a clock slightly behind", a, 1, -frame.FutureSkew, nil},
		{"bad: another authority", other, 1, 0, ErrOtherAuthority},
		{"bad: another mesh", a, 2, 0, ErrOtherMesh},
		{"bad: over", a, 1, time.Hour, errCertificateEnded},
		{"bad: too early", a, 1, -frame.FutureSkew - time.Second, ErrCertificateEarly},
	} {
		if err := good.Verify(tt.by.Public(), [16]byte{tt.mesh}, start.Add(tt.at)); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
	for name, edit := range map[string]func(*Certificate){
		"bad: a name with a line break": func(c *Certificate) { c.Name = "a\nb" },
		"bad: no key":                   func(c *Certificate) { c.Node = nil },
		"bad: a prefix of 33 bits":      func(c *Certificate) { c.Caps.MinBits4 = 33 },
		"bad: too long":                 func(c *Certificate) { c.NotAfter = c.NotBefore.Add(frame.MaxLife + time.Second) },
		"bad: ends before it begins":    func(c *Certificate) { c.NotAfter = c.NotBefore },
		"bad: serial 0":                 func(c *Certificate) { c.Serial = 0 },
	} {
		c := base
		edit(&c)
		if _, err := a.Certify(c); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
	if _, err := (Authority{}).Certify(base); !errors.Is(err, ErrNoAuthority) {
		t.Errorf("without a key: %v", err)
	}
	// A node's frame is no certificate, whatever it says.
	f, err := signers[1].Sign(frame.Frame{MeshID: [16]byte{1}, Epoch: EpochCertificate, Seq: 9, Issued: start, Expires: start.Add(time.Hour), Payload: base.payload()})
	if err != nil {
		t.Fatal(err)
	}
	forged, err := decodeCertificate(f.Raw)
	if err == nil {
		err = forged.Verify(a.Public(), [16]byte{1}, start)
	}
	if !errors.Is(err, ErrOtherAuthority) {
		t.Errorf("signed by a node: %v, want %v", err, ErrOtherAuthority)
	}
}

func TestRequest(t *testing.T) {
	q, err := NewRequest(signers[0], "web1", [16]byte{3})
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeRequest(q.raw)
	if err != nil || got.Name != "web1" || got.MeshID != [16]byte{3} || !got.Node.Equal(signers[0].Public()) {
		t.Errorf("decoded %+v, %v", got, err)
	}
	for i := range q.raw {
		b := append([]byte(nil), q.raw...)
		b[i] ^= 1
		if _, err := decodeRequest(b); !errors.Is(err, ErrBadRequest) {
			t.Errorf("byte %d was changed: %v", i, err)
		}
	}
	// Nobody can have another node's key certified.
	stolen := Request{Node: signers[1].Public(), Name: "web1"}
	b := stolen.body()
	b = append(b, signers[0].SignText(append([]byte(requestDomain), b...))...)
	if _, err := decodeRequest(b); !errors.Is(err, frame.ErrSignature) {
		t.Errorf("a request for another's key: %v", err)
	}
	if _, err := NewRequest(signers[0], "a\nb", [16]byte{}); err == nil {
		t.Error("a name with a line break was taken")
	}
}

func TestAuthorityFile(t *testing.T) {
	path := t.TempDir() + "/ca.key"
	a, err := CreateAuthority(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := LoadAuthority(path)
	if err != nil || !b.Public().Equal(a.Public()) {
		t.Errorf("loaded %v, %v; want %v", b, err, a)
	}
	if _, err := CreateAuthority(path); err == nil {
		t.Error("an authority's key was replaced")
	}
}
