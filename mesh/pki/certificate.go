package pki

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/wire"
)

// A mesh's authority speaks in records: frames that it signed, so they travel, are compared and are stored like all
// frames. A record's sequence number is its serial, its epoch the kind.

const (
	// EpochCertificate, EpochRevocation and EpochGrant are the epochs of the records for the mesh itself.
	EpochCertificate = 1
	EpochRevocation  = 2
	EpochGrant       = 3
	// AuthorityEpoch is the epoch of the authority's frames for the daemon.
	AuthorityEpoch = 4

	// CertificateLife is how long a new certificate lasts. It is renewed after half of that.
	CertificateLife = 365 * 24 * time.Hour
	// MaxName bounds a node's human name, in bytes.
	MaxName = 64

	certificateFields = 8
	pemCertificate    = "MESHBAN CERTIFICATE"
)

var (
	// ErrNoAuthority: the key of the mesh's authority is not on this node.
	ErrNoAuthority = errors.New("the key of the mesh's authority is not on this node")
	// ErrOtherAuthority: a record was signed by the authority of another mesh.
	ErrOtherAuthority = errors.New("it was signed by another authority")
	// ErrOtherMesh: a record or request is for another mesh.
	ErrOtherMesh = errors.New("it is of another mesh")
	// errCertificateEnded: the certificate has ended.
	errCertificateEnded = errors.New("the certificate has ended")
	// ErrCertificateEarly: the certificate's time has not come yet.
	ErrCertificateEarly = errors.New("the certificate does not count yet; is the clock right?")
	// ErrRevoked: the node was revoked. Its key never counts again.
	ErrRevoked = errors.New("the node is revoked")
	// errBadCertificate is wrapped by errors of decodeCertificate.
	errBadCertificate = errors.New("not a certificate")
)

// Record returns the Certificate, Revocation or Grant that a frame holds, or nil if it holds none that this version
// understands. It does not check the signature.
func Record(f frame.Frame) any {
	if c, err := certificateOf(f); err == nil {
		return c
	}
	if v, err := revocationOf(f); err == nil {
		return v
	}
	if g, err := grantOf(f); err == nil {
		return g
	}
	return nil
}

// Certificate says that a node is a member of a mesh. It shares its frame's bytes and must not be changed.
type Certificate struct {
	MeshID    [16]byte
	Serial    uint64 // of two certificates of one node, the one with the higher serial counts
	Node      ed25519.PublicKey
	Name      string // for people; at most MaxName bytes
	NotBefore time.Time
	NotAfter  time.Time // at most frame.MaxLife after NotBefore
	Caps      Caps
	Authority ed25519.PublicKey
	Frame     frame.Frame // as it is signed, sent and stored
}

// ID returns the node's id.
func (c Certificate) ID() frame.ID { return frame.IDOf(c.Node) }

// Verify checks the signature, that the certificate is of this authority and mesh, and that it counts at now. Errors
// match ErrOtherMesh, frame.ErrSignature or ErrCertificateEarly (if by more than frame.FutureSkew).
func (c Certificate) Verify(authority ed25519.PublicKey, meshID [16]byte, now time.Time) error {
	switch {
	case !c.Authority.Equal(authority):
		return ErrOtherAuthority
	case c.MeshID != meshID:
		return ErrOtherMesh
	}
	if err := c.Frame.Verify(); err != nil {
		return err
	}
	switch {
	case c.NotBefore.After(now.Add(frame.FutureSkew)):
		return fmt.Errorf("%w (from %s)", ErrCertificateEarly, c.NotBefore.Format(time.RFC3339))
	case !c.NotAfter.After(now):
		return fmt.Errorf("%w (at %s)", errCertificateEnded, c.NotAfter.Format(time.RFC3339))
	}
	return nil
}

func (c Certificate) payload() []byte {
	b := wire.AppendArray(nil, certificateFields)
	b = wire.AppendBin(b, c.Node)
	b = wire.AppendStr(b, c.Name)
	return c.Caps.Append(b)
}

// decodeCertificate strictly decodes a certificate. It does not check the signature.
func decodeCertificate(raw []byte) (Certificate, error) {
	f, err := frame.Decode(raw)
	if err != nil {
		return Certificate{}, fmt.Errorf("%w: %w", errBadCertificate, err)
	}
	return certificateOf(f)
}

func certificateOf(f frame.Frame) (Certificate, error) {
	c := Certificate{
		MeshID: f.MeshID, Serial: f.Seq, NotBefore: f.Issued, NotAfter: f.Expires, Authority: f.Key, Frame: f,
	}
	if f.Epoch != EpochCertificate {
		return Certificate{}, fmt.Errorf("%w: record of kind %d, want %d", errBadCertificate, f.Epoch, EpochCertificate)
	}
	r := wire.Reader{Rest: f.Payload}
	r.ArrayOf(certificateFields)
	c.Node = r.Bin(ed25519.PublicKeySize)
	c.Name = r.Str(MaxName)
	c.Caps = ReadCaps(&r)
	if err := r.End(); err != nil {
		return Certificate{}, fmt.Errorf("%w: %w", errBadCertificate, err)
	}
	if len(c.Node) != ed25519.PublicKeySize {
		return Certificate{}, fmt.Errorf("%w: key of %d bytes, want %d", errBadCertificate, len(c.Node), ed25519.PublicKeySize)
	}
	return c, nil
}

// SaveCertificate stores a certificate at path (mode 0600, atomically), replacing what was there.
func SaveCertificate(path string, c Certificate) error {
	if err := writePEM(path, pemCertificate, c.Frame.Raw, true); err != nil {
		return fmt.Errorf("store the certificate: %w", err)
	}
	return nil
}

// LoadCertificate reads what SaveCertificate stored. The error matches fs.ErrNotExist when there is none.
func LoadCertificate(path string) (Certificate, error) {
	b, err := readPEM(path, pemCertificate)
	if err != nil {
		return Certificate{}, fmt.Errorf("load the certificate: %w", err)
	}
	c, err := decodeCertificate(b)
	if err != nil {
		return Certificate{}, fmt.Errorf("load the certificate %q: %w", path, err)
	}
	return c, nil
}
