package pki

import (
	"crypto/rand"
	"fmt"

	"github.com/meshban/meshban/mesh/internal/wire"
)

// Secrets is what every member of a mesh knows.
type Secrets struct {
	MeshID     [16]byte // tells meshes apart; part of every frame
	GossipKey  [32]byte // encrypts memberlist's packets and streams, AES-256
	Generation uint32   // how often the mesh's gossip key had been rotated when GossipKey was made
	// Other are further keys that packets may be encrypted with during a rotation; newest first, unused elements zero.
	Other [MaxGossipKeys - 1]GossipKey
	// Authority is the public key of the mesh's authority, which decides who is a member. It comes with the enrolment,
	// over a connection that the join token pins. Zero: the mesh has no authority, and every holder of the gossip key
	// is believed.
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

// The secrets have two forms. Until the gossip key is first rotated, they are the mesh id, the gossip key and, if there
// is one, the authority, one after the other. After that they are a list, which is always longer.
const (
	pemSecrets     = "MESHBAN MESH SECRETS"
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
	s.ReadKeys(&r)
	if err := r.End(); err != nil {
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
	if s.Rotated() {
		b := wire.AppendArray(nil, secretsFields)
		b = wire.AppendUint(b, secretsVersion)
		b = wire.AppendBin(b, s.MeshID[:])
		b = wire.AppendBin(b, s.Authority[:])
		return s.AppendKeys(b)
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
