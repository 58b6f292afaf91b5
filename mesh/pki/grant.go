package pki

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/wire"
)

const (
	// grantLife is as long as a frame may live: a node that was away for less finds its key.
	grantLife   = frame.MaxLife
	grantFields = 2
	grantDomain = "meshban grant v1\x00"
	// maxSealedKeys bounds what is sealed for one node, in bytes; maxGranted bounds the nodes of one record.
	maxSealedKeys = sealedMore + 1 + MaxGossipKeys*(5+2+32)
	maxGranted    = 64
)

// Grant is the record that hands out a gossip key. It is sealed for each node separately, so that a revoked node, which
// reads all traffic under the old key, learns nothing about the new one.
type Grant struct {
	MeshID  [16]byte
	Serial  uint64
	Version KeyVersion // of the key that it hands out
	Issued  time.Time
	Frame   frame.Frame // as it is signed, sent and stored

	sealed []sealedKeys
}

// sealedKeys are the keys for one node.
type sealedKeys struct {
	node frame.ID
	text []byte // part of the record's frame
}

// size returns how much of a record the keys for one node take, in bytes.
func (s sealedKeys) size() int { return 2 + len(s.node) + 2 + len(s.text) }

// grantRoom bounds what is sealed in one record, in bytes.
const grantRoom = frame.MaxPayload - 1 - 9 - 3

// grantInfo binds the sealed keys to the mesh, the key version and the node.
func grantInfo(meshID [16]byte, v KeyVersion, node frame.ID) []byte {
	b := append([]byte(grantDomain), meshID[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(v))
	return append(b, node[:]...)
}

// sealKeys seals keys for a node.
func sealKeys(node ed25519.PublicKey, meshID [16]byte, keys []GossipKey) (sealedKeys, error) {
	id := frame.IDOf(node)
	text, err := seal(node, grantInfo(meshID, keys[0].Version(), id), appendKeys(nil, keys))
	return sealedKeys{id, text}, err
}

// Open returns the keys that a grant holds for a node; ok is false if it holds none.
func (g Grant) Open(id Identity) (keys []GossipKey, ok bool, err error) {
	for _, s := range g.sealed {
		if s.node != id.ID() {
			continue
		}
		text, err := unseal(id, grantInfo(g.MeshID, g.Version, s.node), s.text)
		if err != nil {
			return nil, true, err
		}
		r := wire.Reader{Rest: text}
		keys := readKeys(&r)
		if err := r.End(); err != nil {
			return nil, true, fmt.Errorf("the keys that were sealed for this node: %w", err)
		}
		if keys[0].Version() != g.Version {
			return nil, true, errors.New("the key that was sealed for this node is another one than its record says")
		}
		return keys, true, nil
	}
	return nil, false, nil
}

// Nodes returns the nodes that a grant holds keys for.
func (g Grant) Nodes() []frame.ID {
	ids := make([]frame.ID, len(g.sealed))
	for i, s := range g.sealed {
		ids[i] = s.node
	}
	return ids
}

// Grant makes the records that hand out keys to nodes. keys begins with the new key; the others are those that packets
// may still be encrypted with. The records' serials are above last. Grant leaves out nodes that nothing can be sealed
// for, and returns an error that names one.
func (a Authority) Grant(now time.Time, meshID [16]byte, last uint64, keys []GossipKey, nodes []ed25519.PublicKey) ([]Grant, error) {
	if a.IsZero() {
		return nil, ErrNoAuthority
	}
	var grants []Grant
	var failed error
	next := Grant{MeshID: meshID, Serial: last, Version: keys[0].Version(), Issued: now}
	size := 0
	flush := func() (err error) {
		if len(next.sealed) == 0 {
			return nil
		}
		if next.Serial, err = NewSerial(now, next.Serial); err != nil {
			return err
		}
		g, err := a.signGrant(next)
		grants = append(grants, g)
		next.sealed, size = nil, 0
		return err
	}
	for _, node := range nodes {
		s, err := sealKeys(node, meshID, keys)
		if err != nil {
			failed = err
			continue
		}
		if size+s.size() > grantRoom || len(next.sealed) == maxGranted {
			if err := flush(); err != nil {
				return nil, err
			}
		}
		next.sealed, size = append(next.sealed, s), size+s.size()
	}
	if err := flush(); err != nil {
		return nil, err
	}
	return grants, failed
}

// signGrant encodes and signs g's fields.
func (a Authority) signGrant(g Grant) (Grant, error) {
	f, err := a.Sign(frame.Frame{
		MeshID: g.MeshID, Epoch: EpochGrant, Seq: g.Serial, Issued: g.Issued, Expires: g.Issued.Add(grantLife), Payload: g.payload(),
	})
	if err != nil {
		return Grant{}, fmt.Errorf("sign a grant of the mesh's key: %w", err)
	}
	return grantOf(f)
}

func (g Grant) payload() []byte {
	b := wire.AppendArray(nil, grantFields)
	b = wire.AppendUint(b, uint64(g.Version))
	b = wire.AppendArray(b, 2*len(g.sealed))
	for _, s := range g.sealed {
		b = wire.AppendBin(b, s.node[:])
		b = wire.AppendBin(b, s.text)
	}
	return b
}

func grantOf(f frame.Frame) (Grant, error) {
	g := Grant{MeshID: f.MeshID, Serial: f.Seq, Issued: f.Issued, Frame: f}
	if f.Epoch != EpochGrant {
		return Grant{}, fmt.Errorf("record of kind %d, want %d", f.Epoch, EpochGrant)
	}
	r := wire.Reader{Rest: f.Payload}
	r.ArrayOf(grantFields)
	g.Version = KeyVersion(r.Uint())
	n := r.Array(2 * maxGranted)
	if r.Err == nil && n%2 != 0 {
		r.Fail(wire.ErrTruncated)
	}
	for range n / 2 {
		var s sealedKeys
		r.Fixed(s.node[:])
		s.text = r.Bin(maxSealedKeys)
		if r.Err != nil {
			break
		}
		g.sealed = append(g.sealed, s)
	}
	if err := r.End(); err != nil {
		return Grant{}, fmt.Errorf("not a grant: %w", err)
	}
	if g.Version.Generation() == 0 {
		return Grant{}, errors.New("grant of the key that the mesh began with")
	}
	if f.Expires.Sub(f.Issued) != grantLife {
		return Grant{}, fmt.Errorf("grant for %v, want %v", f.Expires.Sub(f.Issued), grantLife)
	}
	return g, nil
}
