package pki

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/meshban/meshban/mesh/internal/wire"
)

// MaxGossipKeys bounds the gossip keys that a node holds at a time: the one in use, and those of current rotations.
const MaxGossipKeys = 4

// GossipKey is an AES-256 key for memberlist's packets and streams.
type GossipKey struct {
	Generation uint32 // how often the mesh's key had been rotated when this one was made
	Key        [32]byte
}

// String keeps the key out of logs.
func (GossipKey) String() string { return "gossip key" }

// NewGossipKey makes a key.
func NewGossipKey(generation uint32) (GossipKey, error) {
	k := GossipKey{Generation: generation}
	if _, err := rand.Read(k.Key[:]); err != nil {
		return GossipKey{}, fmt.Errorf("make a gossip key: %w", err)
	}
	return k, nil
}

// KeyVersion names a gossip key without revealing it: the generation, and below it 32 bits of the key's hash, which
// order two keys of one generation that were made in two places at the same time. The higher version is the newer key.
type KeyVersion uint64

// Version returns the name of the key.
func (k GossipKey) Version() KeyVersion {
	sum := sha256.Sum256(append([]byte("meshban gossip key\x00"), k.Key[:]...))
	return KeyVersion(uint64(k.Generation)<<32 | uint64(binary.BigEndian.Uint32(sum[:])))
}

// Generation returns how often the mesh's key had been rotated when the key was made.
func (v KeyVersion) Generation() uint32 { return uint32(v >> 32) }

// Used returns the key that packets are encrypted with.
func (s Secrets) Used() GossipKey { return GossipKey{s.Generation, s.GossipKey} }

// Keys returns every key that packets may be encrypted with, newest first.
func (s Secrets) Keys() []GossipKey {
	all := []GossipKey{s.Used()}
	for _, k := range s.Other {
		if k != (GossipKey{}) {
			all = append(all, k)
		}
	}
	slices.SortFunc(all, newerFirst)
	return all
}

func newerFirst(a, b GossipKey) int { return cmp.Compare(b.Version(), a.Version()) }

// WithKeys returns the secrets with these keys instead; used is one of them.
func (s Secrets) WithKeys(keys []GossipKey, used KeyVersion) Secrets {
	s.Other = [MaxGossipKeys - 1]GossipKey{}
	n := 0
	for _, k := range keys {
		switch {
		case k.Version() == used:
			s.Generation, s.GossipKey = k.Generation, k.Key
		case n < len(s.Other):
			s.Other[n] = k
			n++
		}
	}
	return s
}

// Rotated reports whether the secrets hold more than the mesh's first key.
func (s Secrets) Rotated() bool { return s.Generation > 0 || s.Other != [MaxGossipKeys - 1]GossipKey{} }

// appendKeys writes keys in the given order.
func appendKeys(b []byte, keys []GossipKey) []byte {
	b = wire.AppendArray(b, 2*len(keys))
	for _, k := range keys {
		b = wire.AppendUint(b, uint64(k.Generation))
		b = wire.AppendBin(b, k.Key[:])
	}
	return b
}

// readKeys decodes 1 to MaxGossipKeys distinct keys.
func readKeys(r *wire.Reader) []GossipKey {
	n := r.Array(2 * MaxGossipKeys)
	if r.Err == nil && (n == 0 || n%2 != 0) {
		r.Fail(errors.New("a list that holds no keys"))
	}
	var keys []GossipKey
	for range n / 2 {
		k := GossipKey{Generation: uint32(r.Most(1<<32 - 1))}
		r.Fixed(k.Key[:])
		if r.Err != nil {
			return nil
		}
		if k.Key == [32]byte{} || slices.ContainsFunc(keys, func(o GossipKey) bool { return o.Key == k.Key }) {
			r.Fail(errors.New("an empty key, or one that is listed twice"))
			return nil
		}
		keys = append(keys, k)
	}
	return keys
}

// stored returns the keys in the order in which they are written: the one in use, then the others, newest first.
func (s Secrets) stored() []GossipKey {
	used := s.Used()
	return append([]GossipKey{used}, slices.DeleteFunc(s.Keys(), func(k GossipKey) bool { return k == used })...)
}

// AppendKeys appends the keys to b.
func (s Secrets) AppendKeys(b []byte) []byte { return appendKeys(b, s.stored()) }

// ReadKeys sets the keys to those that AppendKeys wrote.
func (s *Secrets) ReadKeys(r *wire.Reader) {
	stored := readKeys(r)
	if r.Err != nil {
		return
	}
	*s = s.WithKeys(stored, stored[0].Version())
	if !s.Rotated() || !slices.Equal(s.stored(), stored) {
		r.Fail(errors.New("keys out of order"))
	}
}

// Renews reports whether s are secrets of the same mesh as old, with a newer gossip key.
func (s Secrets) Renews(old Secrets) bool {
	return s.MeshID == old.MeshID && s.Authority == old.Authority && s.Keys()[0].Version() > old.Keys()[0].Version()
}
