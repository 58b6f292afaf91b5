package pki

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/wire"
)

// pemIdentity is PKCS #8, so that openssl can read it.
const pemIdentity = "PRIVATE KEY"

// Identity is a node's ed25519 key. The zero value is no identity.
type Identity struct {
	key ed25519.PrivateKey
	id  frame.ID
}

// newIdentity makes a key without storing it.
func newIdentity() (Identity, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return Identity{}, fmt.Errorf("make a node key: %w", err)
	}
	return IdentityOf(key), nil
}

// IdentityOf returns the identity of a key that is stored nowhere.
func IdentityOf(key ed25519.PrivateKey) Identity {
	return Identity{key: key, id: frame.IDOf(key.Public().(ed25519.PublicKey))}
}

// CreateIdentity makes a key and stores it at path (mode 0600, on disk when it returns). It never replaces a key: if
// the file exists, the error matches fs.ErrExist.
func CreateIdentity(path string) (Identity, error) { return createKey(path, "node key") }

func createKey(path, what string) (Identity, error) {
	id, err := newIdentity()
	if err != nil {
		return Identity{}, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(id.key)
	if err != nil {
		return Identity{}, fmt.Errorf("encode the %s: %w", what, err)
	}
	if err := writePEM(path, pemIdentity, der, false); err != nil {
		return Identity{}, fmt.Errorf("store the %s: %w", what, err)
	}
	return id, nil
}

// LoadIdentity reads what CreateIdentity stored. The error matches fs.ErrNotExist if there is none.
func LoadIdentity(path string) (Identity, error) { return loadKey(path, "node key") }

func loadKey(path, what string) (Identity, error) {
	der, err := readPEM(path, pemIdentity)
	if err != nil {
		return Identity{}, fmt.Errorf("load the %s: %w", what, err)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return Identity{}, fmt.Errorf("load the %s %q: %w", what, path, err)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return Identity{}, fmt.Errorf("load the %s %q: it is not an ed25519 key", what, path)
	}
	return IdentityOf(key), nil
}

// String returns the id, never the key.
func (i Identity) String() string { return i.id.String() }

// ID returns the node's id in the mesh.
func (i Identity) ID() frame.ID { return i.id }

// Sign encodes and signs a frame made of f's fields; Key and Origin are the node's.
func (i Identity) Sign(f frame.Frame) (frame.Frame, error) { return frame.Sign(i.key, f) }

// IsZero reports whether there is no key.
func (i Identity) IsZero() bool { return i.key == nil }

// SignText signs a text that is no frame. It must begin with what the signature is for, so that it counts for nothing
// else.
func (i Identity) SignText(text []byte) []byte { return ed25519.Sign(i.key, text) }

// TLSCertificate returns a self-signed certificate over the key, which proves to the other side of a connection that
// this node holds it.
func (i Identity) TLSCertificate() (tls.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: i.id.String()},
		// Keys are compared, not dates: the other side's clock may be wrong.
		NotBefore: time.Unix(0, 0), NotAfter: time.UnixMilli(wire.MaxMillis),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, i.Public(), i.key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make a certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: i.key}, nil
}

// Public returns the node's public key; the caller must not change it.
func (i Identity) Public() ed25519.PublicKey {
	if i.key == nil {
		return nil
	}
	return i.key.Public().(ed25519.PublicKey)
}
