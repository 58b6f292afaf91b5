package mesh

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/wire"
)

// maxKeyFile bounds the size of a key file, in bytes.
const maxKeyFile = 4096

const (
	pemIdentity = "PRIVATE KEY" // PKCS #8, so that openssl can read it
	pemSecrets  = "MESHBAN MESH SECRETS"
)

// Identity is a node's ed25519 key. The zero value is no identity.
type Identity struct {
	key ed25519.PrivateKey
	id  frame.ID
}

// NewIdentity makes a key without storing it.
func NewIdentity() (Identity, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return Identity{}, fmt.Errorf("make a node key: %w", err)
	}
	return identityOf(key), nil
}

func identityOf(key ed25519.PrivateKey) Identity {
	return Identity{key: key, id: frame.IDOf(key.Public().(ed25519.PublicKey))}
}

// CreateIdentity makes a key and stores it at path (mode 0600, on disk when it returns). It never replaces a key: if
// the file exists, the error matches fs.ErrExist.
func CreateIdentity(path string) (Identity, error) { return createKey(path, "node key") }

func createKey(path, what string) (Identity, error) {
	id, err := NewIdentity()
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
	return identityOf(key), nil
}

// String returns the id, never the key.
func (i Identity) String() string { return i.id.String() }

// ID returns the node's id in the mesh.
func (i Identity) ID() frame.ID { return i.id }

// Sign encodes and signs a frame made of f's fields; Key and Origin are the node's.
func (i Identity) Sign(f frame.Frame) (frame.Frame, error) { return frame.Sign(i.key, f) }

// Public returns the node's public key; the caller must not change it.
func (i Identity) Public() ed25519.PublicKey {
	if i.key == nil {
		return nil
	}
	return i.key.Public().(ed25519.PublicKey)
}

// Secrets is what every member of a mesh knows.
type Secrets struct {
	MeshID     [16]byte // tells meshes apart; part of every frame
	GossipKey  [32]byte // encrypts memberlist's packets and streams, AES-256
	Generation uint32   // how often the mesh's gossip key had been rotated when GossipKey was made
	// Other are further keys that packets may be encrypted with during a rotation; newest first, unused elements zero.
	Other [maxGossipKeys - 1]GossipKey
	// Authority is the public key of the mesh's authority: it decides who may certify members. It comes with the
	// enrolment, over a connection that the join token pins. Zero: a mesh made by a version without authorities, in
	// which every holder of the gossip key is believed.
	Authority [32]byte
}

// NewSecrets makes the secrets of a new mesh.
func NewSecrets() (Secrets, error) {
	var s Secrets
	if _, err := rand.Read(s.MeshID[:]); err != nil {
		return Secrets{}, fmt.Errorf("make a mesh id: %w", err)
	}
	if _, err := rand.Read(s.GossipKey[:]); err != nil {
		return Secrets{}, fmt.Errorf("make a gossip key: %w", err)
	}
	return s, nil
}

// LoadSecrets reads what Save stored. The error matches fs.ErrNotExist if there is none.
func LoadSecrets(path string) (Secrets, error) {
	b, err := readPEM(path, pemSecrets)
	if err != nil {
		return Secrets{}, fmt.Errorf("load the mesh secrets: %w", err)
	}
	s, err := decodeSecrets(b)
	if err != nil {
		return Secrets{}, fmt.Errorf("load the mesh secrets %q: %w", path, err)
	}
	return s, nil
}

// The secrets have two forms. Until the gossip key is first rotated, the form that versions without rotation also know:
// mesh id, gossip key and, if there is one, authority, one after the other. After that a list, which is always longer.
const (
	secretsVersion = 2
	secretsFields  = 4
)

func decodeSecrets(b []byte) (s Secrets, err error) {
	without := len(s.MeshID) + len(s.GossipKey)
	if len(b) > without+len(s.Authority) {
		return decodeRotated(b)
	}
	if len(b) != without && len(b) != without+len(s.Authority) {
		return Secrets{}, fmt.Errorf("%d bytes, want %d", len(b), without+len(s.Authority))
	}
	copy(s.MeshID[:], b)
	copy(s.GossipKey[:], b[len(s.MeshID):])
	copy(s.Authority[:], b[without:])
	return s, nil
}

func decodeRotated(b []byte) (s Secrets, err error) {
	r := wire.Reader{Rest: b}
	r.ArrayOf(secretsFields)
	if v := r.Uint(); r.Err == nil && v != secretsVersion {
		return Secrets{}, fmt.Errorf("version %d, want %d: was the file written by a newer version?", v, secretsVersion)
	}
	r.Fixed(s.MeshID[:])
	r.Fixed(s.Authority[:])
	keys := readKeys(&r)
	if err := r.End(); err != nil {
		return Secrets{}, err
	}
	if err := s.take(keys); err != nil {
		return Secrets{}, err
	}
	return s, nil
}

// Save stores the secrets at path (mode 0600, atomically, on disk when it returns), replacing what was there.
func (s Secrets) Save(path string) error {
	if err := writePEM(path, pemSecrets, s.encode(), true); err != nil {
		return fmt.Errorf("store the mesh secrets: %w", err)
	}
	return nil
}

func (s Secrets) encode() []byte {
	if s.rotated() {
		b := wire.AppendArray(nil, secretsFields)
		b = wire.AppendUint(b, secretsVersion)
		b = wire.AppendBin(b, s.MeshID[:])
		b = wire.AppendBin(b, s.Authority[:])
		return appendKeys(b, s.stored())
	}
	b := append(s.MeshID[:len(s.MeshID):len(s.MeshID)], s.GossipKey[:]...)
	if s.HasAuthority() {
		b = append(b, s.Authority[:]...)
	}
	return b
}

// String keeps the secrets out of logs.
func (Secrets) String() string { return "mesh secrets" }

// HasAuthority reports whether the mesh has an authority.
func (s Secrets) HasAuthority() bool { return s.Authority != [32]byte{} }

func (s Secrets) isZero() bool { return s == Secrets{} }

func readPEM(path, kind string) ([]byte, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if fi.Size() > maxKeyFile {
		return nil, fmt.Errorf("%q has %d bytes, want at most %d", path, fi.Size(), maxKeyFile)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	found, err := findPEM(b, kind)
	if err != nil {
		return nil, fmt.Errorf("%q %w", path, err)
	}
	return found, nil
}

// findPEM returns the first block of a kind.
func findPEM(b []byte, kind string) ([]byte, error) {
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == kind {
			return block.Bytes, nil
		}
	}
	return nil, fmt.Errorf("holds no %q block", kind)
}

// writePEM writes one block with writeKeyFile: to a temporary file beside path, synced and then moved into place.
// Without replace it links the file instead, so that an existing one wins.
func writePEM(path, kind string, b []byte, replace bool) (err error) {
	return writeKeyFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}), replace)
}

func writeKeyFile(path string, text []byte, replace bool) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".mesh-*") // mode 0600
	if e := (*os.PathError)(nil); errors.As(err, &e) {
		return fmt.Errorf("%s: %w", path, e.Err) // do not name the temporary file
	}
	if err != nil {
		return err
	}
	defer func() {
		if rmErr := os.Remove(f.Name()); err == nil && rmErr != nil && !errors.Is(rmErr, os.ErrNotExist) {
			err = rmErr
		}
	}()
	_, err = f.Write(text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if replace {
		err = os.Rename(f.Name(), path)
	} else {
		err = os.Link(f.Name(), path)
	}
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%s: %w", path, os.ErrExist) // the link's error would name the temporary file
	}
	if err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
