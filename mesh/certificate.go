package mesh

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/wire"
)

// A mesh's authority speaks in records: frames that it signed, so they travel, are compared and are stored like all
// frames. A record's sequence number is its serial, its epoch the kind.

const (
	// CertificateLife is how long a new certificate lasts. It is renewed after half of that.
	CertificateLife = 365 * 24 * time.Hour
	// revocationLife is at least as long as any certificate made before the revocation can last.
	revocationLife = frame.MaxLife
	// maxReason bounds the reason of a revocation, in bytes.
	maxReason = 200

	recordCertificate = 1
	recordRevocation  = 2
	// AuthorityEpoch is the epoch of frames made by PublishAsAuthority. The authority's frames of other epochs are for
	// the mesh alone.
	AuthorityEpoch    = 4
	certificateFields = 8
	revocationFields  = 4

	// maxRequest bounds an encoded request, in bytes.
	maxRequest    = 256
	requestDomain = "meshban request v1\x00"
	csrVersion    = 1
	csrFields     = 4
)

var (
	// ErrNoAuthority: the key of the mesh's authority is not on this node.
	ErrNoAuthority = errors.New("the key of the mesh's authority is not on this node")
	// ErrOtherAuthority: a record was signed by the authority of another mesh.
	ErrOtherAuthority = errors.New("it was signed by another authority")
	// ErrOtherMesh: a record or request is for another mesh.
	ErrOtherMesh = errors.New("it is of another mesh")
	// ErrCertificateEnded: the certificate has ended.
	ErrCertificateEnded = errors.New("the certificate has ended")
	// ErrCertificateEarly: the certificate's time has not come yet.
	ErrCertificateEarly = errors.New("the certificate does not count yet; is the clock right?")
	// ErrRevoked: the node was revoked. Its key never counts again.
	ErrRevoked = errors.New("the node is revoked")
	// ErrBadCertificate is wrapped by errors of DecodeCertificate.
	ErrBadCertificate = errors.New("not a certificate")
	// ErrBadRequest is wrapped by errors of DecodeRequest.
	ErrBadRequest = errors.New("not a certificate request")
)

// Authority is the ed25519 key pair that decides who is a member of a mesh. The zero value holds no key.
type Authority struct{ key Identity }

// NewAuthority makes a key that is stored nowhere.
func NewAuthority() (Authority, error) {
	id, err := NewIdentity()
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

// IsZero reports whether there is no key.
func (a Authority) IsZero() bool { return a.key.key == nil }

// Public returns the authority's public key; the caller must not change it.
func (a Authority) Public() ed25519.PublicKey { return a.key.Public() }

// String returns the id of the public key, never the key.
func (a Authority) String() string { return a.key.String() }

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

	frame frame.Frame
}

// ID returns the node's id.
func (c Certificate) ID() frame.ID { return frame.IDOf(c.Node) }

// Raw returns the encoded certificate with its signature. It must not be changed.
func (c Certificate) Raw() []byte { return c.frame.Raw }

// Verify checks the signature, that the certificate is of this authority and mesh, and that it counts at now. Errors
// match ErrOtherAuthority, ErrOtherMesh, frame.ErrSignature, ErrCertificateEarly (if by more than frame.FutureSkew) or
// ErrCertificateEnded.
func (c Certificate) Verify(authority ed25519.PublicKey, meshID [16]byte, now time.Time) error {
	switch {
	case !c.Authority.Equal(authority):
		return ErrOtherAuthority
	case c.MeshID != meshID:
		return ErrOtherMesh
	}
	if err := c.frame.Verify(); err != nil {
		return err
	}
	switch {
	case c.NotBefore.After(now.Add(frame.FutureSkew)):
		return fmt.Errorf("%w (from %s)", ErrCertificateEarly, c.NotBefore.Format(time.RFC3339))
	case !c.NotAfter.After(now):
		return fmt.Errorf("%w (at %s)", ErrCertificateEnded, c.NotAfter.Format(time.RFC3339))
	}
	return nil
}

// Certify signs a certificate made of c's fields and fills in Authority.
func (a Authority) Certify(c Certificate) (Certificate, error) {
	if a.IsZero() {
		return Certificate{}, ErrNoAuthority
	}
	if !wire.IsText(c.Name) || len(c.Name) > MaxName {
		return Certificate{}, fmt.Errorf("certificate: name %q: want at most %d bytes of printable text", c.Name, MaxName)
	}
	if err := c.Caps.validate(); err != nil {
		return Certificate{}, fmt.Errorf("certificate of %q: %w", c.Name, err)
	}
	f, err := a.key.Sign(frame.Frame{
		MeshID: c.MeshID, Epoch: recordCertificate, Seq: c.Serial, Issued: c.NotBefore, Expires: c.NotAfter, Payload: c.payload(),
	})
	if err != nil {
		return Certificate{}, fmt.Errorf("sign the certificate of %q: %w", c.Name, err)
	}
	return certificateOf(f)
}

func (c Certificate) payload() []byte {
	b := wire.AppendArray(nil, certificateFields)
	b = wire.AppendBin(b, c.Node)
	b = wire.AppendStr(b, c.Name)
	return c.Caps.appendTo(b)
}

// DecodeCertificate strictly decodes a certificate. It does not check the signature. Errors wrap ErrBadCertificate.
func DecodeCertificate(raw []byte) (Certificate, error) {
	f, err := frame.Decode(raw)
	if err != nil {
		return Certificate{}, fmt.Errorf("%w: %w", ErrBadCertificate, err)
	}
	return certificateOf(f)
}

func certificateOf(f frame.Frame) (Certificate, error) {
	c := Certificate{
		MeshID: f.MeshID, Serial: f.Seq, NotBefore: f.Issued, NotAfter: f.Expires, Authority: f.Key, frame: f,
	}
	if f.Epoch != recordCertificate {
		return Certificate{}, fmt.Errorf("%w: record of kind %d, want %d", ErrBadCertificate, f.Epoch, recordCertificate)
	}
	r := wire.Reader{Rest: f.Payload}
	r.ArrayOf(certificateFields)
	c.Node = r.Bin(ed25519.PublicKeySize)
	c.Name = r.Str(MaxName)
	c.Caps = readCaps(&r)
	if err := r.End(); err != nil {
		return Certificate{}, fmt.Errorf("%w: %w", ErrBadCertificate, err)
	}
	if len(c.Node) != ed25519.PublicKeySize {
		return Certificate{}, fmt.Errorf("%w: key of %d bytes, want %d", ErrBadCertificate, len(c.Node), ed25519.PublicKeySize)
	}
	return c, nil
}

// Revocation says that nothing a node says or ever said counts.
type Revocation struct {
	MeshID [16]byte
	Serial uint64
	Node   frame.ID
	Name   string    // what the node was called; at most MaxName bytes
	Since  time.Time // when the node ceased to be trustworthy, for people; zero: it never was
	Issued time.Time
	Reason string // at most 200 bytes of printable text

	frame frame.Frame
}

// Raw returns the encoded revocation with its signature. It must not be changed.
func (v Revocation) Raw() []byte { return v.frame.Raw }

// Revoke signs a revocation made of v's fields.
func (a Authority) Revoke(v Revocation) (Revocation, error) {
	if a.IsZero() {
		return Revocation{}, ErrNoAuthority
	}
	if !wire.IsText(v.Reason) || len(v.Reason) > maxReason || !wire.IsText(v.Name) || len(v.Name) > MaxName {
		return Revocation{}, fmt.Errorf("revocation: reason %q: want at most %d bytes of printable text", v.Reason, maxReason)
	}
	f, err := a.key.Sign(frame.Frame{
		MeshID: v.MeshID, Epoch: recordRevocation, Seq: v.Serial, Issued: v.Issued, Expires: v.Issued.Add(revocationLife), Payload: v.payload(),
	})
	if err != nil {
		return Revocation{}, fmt.Errorf("sign the revocation of %s: %w", v.Node, err)
	}
	return revocationOf(f)
}

func (v Revocation) payload() []byte {
	b := wire.AppendArray(nil, revocationFields)
	b = wire.AppendBin(b, v.Node[:])
	b = wire.AppendStr(b, v.Name)
	since := uint64(0)
	if !v.Since.IsZero() {
		since = uint64(v.Since.UnixMilli())
	}
	b = wire.AppendUint(b, since)
	return wire.AppendStr(b, v.Reason)
}

func revocationOf(f frame.Frame) (Revocation, error) {
	v := Revocation{MeshID: f.MeshID, Serial: f.Seq, Issued: f.Issued, frame: f}
	if f.Epoch != recordRevocation {
		return Revocation{}, fmt.Errorf("record of kind %d, want %d", f.Epoch, recordRevocation)
	}
	r := wire.Reader{Rest: f.Payload}
	r.ArrayOf(revocationFields)
	r.Fixed(v.Node[:])
	v.Name = r.Str(MaxName)
	if since := r.Most(wire.MaxMillis); since != 0 {
		v.Since = time.UnixMilli(int64(since)).UTC()
	}
	v.Reason = r.Str(maxReason)
	if err := r.End(); err != nil {
		return Revocation{}, fmt.Errorf("not a revocation: %w", err)
	}
	if f.Expires.Sub(f.Issued) != revocationLife {
		return Revocation{}, fmt.Errorf("revocation for %v, want %v", f.Expires.Sub(f.Issued), revocationLife)
	}
	return v, nil
}

// newSerial returns a serial above last, from the time in milliseconds and 16 random bits: if two holders of the
// authority's key make one in the same millisecond, the chance that they are equal is 1 in 65,536.
func newSerial(now time.Time, last uint64) (uint64, error) {
	var b [2]byte
	if _, err := rand.Read(b[:]); err != nil {
		return 0, fmt.Errorf("make a serial: %w", err)
	}
	return max(uint64(now.UnixMilli())<<16|uint64(binary.BigEndian.Uint16(b[:])), last+1), nil
}

// Request asks an authority for a certificate. Only the holder of the node's key can have made it.
type Request struct {
	MeshID [16]byte // zero: any mesh
	Node   ed25519.PublicKey
	Name   string // at most MaxName bytes of printable text

	raw []byte
}

// NewRequest makes and signs a request.
func NewRequest(id Identity, name string, meshID [16]byte) (Request, error) {
	if id.key == nil {
		return Request{}, errors.New("certificate request: no identity")
	}
	if !wire.IsText(name) || len(name) > MaxName {
		return Request{}, fmt.Errorf("certificate request: name %q: want at most %d bytes of printable text", name, MaxName)
	}
	q := Request{MeshID: meshID, Node: id.Public(), Name: name}
	b := q.body()
	q.raw = append(b, ed25519.Sign(id.key, append([]byte(requestDomain), b...))...)
	return q, nil
}

// Raw returns the encoded request with its signature. It must not be changed.
func (q Request) Raw() []byte { return q.raw }

func (q Request) body() []byte {
	b := wire.AppendArray(nil, csrFields)
	b = wire.AppendUint(b, csrVersion)
	b = wire.AppendBin(b, q.MeshID[:])
	b = wire.AppendBin(b, q.Node)
	return wire.AppendStr(b, q.Name)
}

// DecodeRequest strictly decodes a request and checks that it was signed by the key that it names. Errors wrap
// ErrBadRequest.
func DecodeRequest(raw []byte) (Request, error) {
	q, err := decodeRequest(raw)
	if err != nil {
		return Request{}, fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	return q, nil
}

func decodeRequest(raw []byte) (Request, error) {
	if len(raw) > maxRequest {
		return Request{}, fmt.Errorf("%d bytes, want at most %d", len(raw), maxRequest)
	}
	if len(raw) < ed25519.SignatureSize {
		return Request{}, wire.ErrTruncated
	}
	body, sig := raw[:len(raw)-ed25519.SignatureSize], raw[len(raw)-ed25519.SignatureSize:]
	q := Request{raw: raw}
	r := wire.Reader{Rest: body}
	r.ArrayOf(csrFields)
	if v := r.Uint(); r.Err == nil && v != csrVersion {
		return Request{}, fmt.Errorf("version %d, want %d", v, csrVersion)
	}
	r.Fixed(q.MeshID[:])
	q.Node = r.Bin(ed25519.PublicKeySize)
	q.Name = r.Str(MaxName)
	if err := r.End(); err != nil {
		return Request{}, err
	}
	if len(q.Node) != ed25519.PublicKeySize {
		return Request{}, fmt.Errorf("key of %d bytes, want %d", len(q.Node), ed25519.PublicKeySize)
	}
	if !ed25519.Verify(q.Node, append([]byte(requestDomain), body...), sig) {
		return Request{}, frame.ErrSignature
	}
	return q, nil
}

// pemCertificate is the PEM type of a certificate's file.
const pemCertificate = "MESHBAN CERTIFICATE"

// SaveCertificate stores a certificate at path (mode 0600, atomically), replacing what was there.
func SaveCertificate(path string, c Certificate) error {
	if err := writePEM(path, pemCertificate, c.Raw(), true); err != nil {
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
	c, err := DecodeCertificate(b)
	if err != nil {
		return Certificate{}, fmt.Errorf("load the certificate %q: %w", path, err)
	}
	return c, nil
}
