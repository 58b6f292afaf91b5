package pki

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/wire"
)

// Authority is the ed25519 key pair that decides who is a member of a mesh. The zero value holds no key.
type Authority struct{ Identity }

// NewAuthority makes a key that is stored nowhere.
func NewAuthority() (Authority, error) {
	id, err := newIdentity()
	return Authority{id}, err
}

// CreateAuthority makes a key and stores it as CreateIdentity does.
func CreateAuthority(path string) (Authority, error) {
	id, err := createKey(path, "authority's key")
	return Authority{id}, err
}

// LoadAuthority reads what CreateAuthority stored. The error matches fs.ErrNotExist when there is none.
func LoadAuthority(path string) (Authority, error) {
	id, err := loadKey(path, "authority's key")
	return Authority{id}, err
}

// Certify signs a certificate made of c's fields and fills in Authority.
func (a Authority) Certify(c Certificate) (Certificate, error) {
	if a.IsZero() {
		return Certificate{}, ErrNoAuthority
	}
	if !wire.IsText(c.Name) || len(c.Name) > MaxName {
		return Certificate{}, fmt.Errorf("certificate: name %q: want at most %d bytes of printable text", c.Name, MaxName)
	}
	if err := c.Caps.Validate(); err != nil {
		return Certificate{}, fmt.Errorf("certificate of %q: %w", c.Name, err)
	}
	f, err := a.Sign(frame.Frame{
		MeshID: c.MeshID, Epoch: EpochCertificate, Seq: c.Serial, Issued: c.NotBefore, Expires: c.NotAfter, Payload: c.payload(),
	})
	if err != nil {
		return Certificate{}, fmt.Errorf("sign the certificate of %q: %w", c.Name, err)
	}
	return certificateOf(f)
}

// Revoke signs a revocation made of v's fields.
func (a Authority) Revoke(v Revocation) (Revocation, error) {
	if a.IsZero() {
		return Revocation{}, ErrNoAuthority
	}
	if !wire.IsText(v.Reason) || len(v.Reason) > maxReason || !wire.IsText(v.Name) || len(v.Name) > MaxName {
		return Revocation{}, fmt.Errorf("revocation: reason %q: want at most %d bytes of printable text", v.Reason, maxReason)
	}
	f, err := a.Sign(frame.Frame{
		MeshID: v.MeshID, Epoch: EpochRevocation, Seq: v.Serial, Issued: v.Issued, Expires: v.Issued.Add(revocationLife), Payload: v.payload(),
	})
	if err != nil {
		return Revocation{}, fmt.Errorf("sign the revocation of %s: %w", v.Node, err)
	}
	return revocationOf(f)
}

// NewSerial returns a serial above last, from the time in milliseconds and 16 random bits: if two holders of the
// authority's key make one in the same millisecond, the chance that they are equal is 1 in 65,536.
func NewSerial(now time.Time, last uint64) (uint64, error) {
	var b [2]byte
	if _, err := rand.Read(b[:]); err != nil {
		return 0, fmt.Errorf("make a serial: %w", err)
	}
	return max(uint64(now.UnixMilli())<<16|uint64(binary.BigEndian.Uint16(b[:])), last+1), nil
}

// Enrol answers a request with a certificate with these caps. The error matches ErrOtherMesh if the request is for
// another mesh, or ErrNoAuthority if the authority is not that of secrets.
func (a Authority) Enrol(q Request, secrets Secrets, caps Caps, now time.Time) (Enrolment, error) {
	if a.IsZero() || !bytes.Equal(a.Public(), secrets.Authority[:]) {
		return Enrolment{}, ErrNoAuthority
	}
	if q.MeshID != [16]byte{} && q.MeshID != secrets.MeshID {
		return Enrolment{}, fmt.Errorf("certificate request of %q: %w", q.Name, ErrOtherMesh)
	}
	serial, err := NewSerial(now, 0)
	if err != nil {
		return Enrolment{}, err
	}
	c, err := a.Certify(Certificate{
		MeshID: secrets.MeshID, Serial: serial, Node: q.Node, Name: q.Name, Caps: caps,
		NotBefore: now, NotAfter: now.Add(CertificateLife),
	})
	return Enrolment{Secrets: secrets, Certificate: c}, err
}

// Export stores the authority's key and its mesh's secrets in one file (mode 0600, on disk when it returns). If the
// file exists, the error matches fs.ErrExist.
func (a Authority) Export(path string, secrets Secrets) error {
	if a.IsZero() || !bytes.Equal(a.Public(), secrets.Authority[:]) {
		return ErrNoAuthority
	}
	der, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		return fmt.Errorf("encode the authority's key: %w", err)
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: pemIdentity, Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: pemSecrets, Bytes: secrets.encode()})...)
	if err := writeKeyFile(path, text, false); err != nil {
		return fmt.Errorf("export the authority's key: %w", err)
	}
	return nil
}

// Save stores the authority's key at path as CreateAuthority does, but replaces an existing file.
func (a Authority) Save(path string) error {
	der, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		return fmt.Errorf("encode the authority's key: %w", err)
	}
	if err := writePEM(path, pemIdentity, der, true); err != nil {
		return fmt.Errorf("store the authority's key: %w", err)
	}
	return nil
}

// LoadExport reads what Export stored.
func LoadExport(path string) (Authority, Secrets, error) {
	a, err := LoadAuthority(path)
	if err != nil {
		return Authority{}, Secrets{}, err
	}
	s, err := LoadSecrets(path)
	if err == nil && !bytes.Equal(a.Public(), s.Authority[:]) {
		err = fmt.Errorf("%q: the key and the mesh do not belong together", path)
	}
	if err != nil {
		return Authority{}, Secrets{}, err
	}
	return a, s, nil
}
