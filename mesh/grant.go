package mesh

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/wire"
)

// A grant is the record that hands out a gossip key. It is sealed for each node separately, so that a revoked node,
// which reads all traffic under the old key, learns nothing about the new one.

const (
	recordGrant = 3
	// grantLife is as long as a frame may live: a node that was away for less finds its key.
	grantLife   = frame.MaxLife
	grantFields = 2
	grantDomain = "meshban grant v1\x00"
	// maxSealedKeys bounds what is sealed for one node, in bytes; maxBoxes bounds the nodes of one record.
	maxSealedKeys = sealedMore + 1 + maxGossipKeys*(5+2+32)
	maxBoxes      = 64
)

// grant is a record of kind recordGrant.
type grant struct {
	MeshID  [16]byte
	Serial  uint64
	Version keyVersion // of the key that it hands out
	Issued  time.Time
	Boxes   []box

	frame frame.Frame
}

// box holds the keys for one node.
type box struct {
	Node   frame.ID
	Sealed []byte // part of the record's frame
}

// size returns how much of a record a box takes, in bytes.
func (b box) size() int { return 2 + len(b.Node) + 2 + len(b.Sealed) }

// grantRoom bounds the boxes of one record together, in bytes.
const grantRoom = frame.MaxPayload - 1 - 9 - 3

// grantInfo binds the sealed keys to the mesh, the key version and the node.
func grantInfo(meshID [16]byte, v keyVersion, node frame.ID) []byte {
	b := append([]byte(grantDomain), meshID[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(v))
	return append(b, node[:]...)
}

// boxFor seals keys for a node: first the key that the grant is about, then the others that packets may still be
// encrypted with.
func boxFor(node ed25519.PublicKey, meshID [16]byte, keys []GossipKey) (box, error) {
	id := frame.IDOf(node)
	sealed, err := seal(node, grantInfo(meshID, keys[0].version(), id), appendKeys(nil, keys))
	return box{id, sealed}, err
}

// open returns the keys that a grant holds for a node; ok is false if it holds none.
func (g grant) open(id Identity) (keys []GossipKey, ok bool, err error) {
	for _, b := range g.Boxes {
		if b.Node != id.ID() {
			continue
		}
		text, err := unseal(id, grantInfo(g.MeshID, g.Version, b.Node), b.Sealed)
		if err != nil {
			return nil, true, err
		}
		r := wire.Reader{Rest: text}
		keys := readKeys(&r)
		if err := r.End(); err != nil {
			return nil, true, fmt.Errorf("the keys that were sealed for this node: %w", err)
		}
		if keys[0].version() != g.Version {
			return nil, true, errors.New("the key that was sealed for this node is another one than its record says")
		}
		return keys, true, nil
	}
	return nil, false, nil
}

func (g grant) holds(node frame.ID) bool {
	for _, b := range g.Boxes {
		if b.Node == node {
			return true
		}
	}
	return false
}

// grant encodes and signs g's fields.
func (a Authority) grant(g grant) (grant, error) {
	if a.IsZero() {
		return grant{}, ErrNoAuthority
	}
	f, err := a.key.Sign(frame.Frame{
		MeshID: g.MeshID, Epoch: recordGrant, Seq: g.Serial, Issued: g.Issued, Expires: g.Issued.Add(grantLife), Payload: g.payload(),
	})
	if err != nil {
		return grant{}, fmt.Errorf("sign a grant of the mesh's key: %w", err)
	}
	return grantOf(f)
}

func (g grant) payload() []byte {
	b := wire.AppendArray(nil, grantFields)
	b = wire.AppendUint(b, uint64(g.Version))
	b = wire.AppendArray(b, 2*len(g.Boxes))
	for _, x := range g.Boxes {
		b = wire.AppendBin(b, x.Node[:])
		b = wire.AppendBin(b, x.Sealed)
	}
	return b
}

func grantOf(f frame.Frame) (grant, error) {
	g := grant{MeshID: f.MeshID, Serial: f.Seq, Issued: f.Issued, frame: f}
	if f.Epoch != recordGrant {
		return grant{}, fmt.Errorf("record of kind %d, want %d", f.Epoch, recordGrant)
	}
	r := wire.Reader{Rest: f.Payload}
	r.ArrayOf(grantFields)
	g.Version = keyVersion(r.Uint())
	n := r.Array(2 * maxBoxes)
	if r.Err == nil && n%2 != 0 {
		r.Fail(wire.ErrTruncated)
	}
	for range n / 2 {
		var x box
		r.Fixed(x.Node[:])
		x.Sealed = r.Bin(maxSealedKeys)
		if r.Err != nil {
			break
		}
		g.Boxes = append(g.Boxes, x)
	}
	if err := r.End(); err != nil {
		return grant{}, fmt.Errorf("not a grant: %w", err)
	}
	if g.Version.generation() == 0 {
		return grant{}, errors.New("grant of the key that the mesh began with")
	}
	if f.Expires.Sub(f.Issued) != grantLife {
		return grant{}, fmt.Errorf("grant for %v, want %v", f.Expires.Sub(f.Issued), grantLife)
	}
	return g, nil
}
