package pki

import (
	"fmt"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/wire"
)

const (
	// revocationLife is at least as long as any certificate made before the revocation can last.
	revocationLife = frame.MaxLife
	// maxReason bounds the reason of a revocation, in bytes.
	maxReason        = 200
	revocationFields = 4
)

// Revocation says that a node is ignored for good, with everything that it ever said.
type Revocation struct {
	MeshID [16]byte
	Serial uint64
	Node   frame.ID
	Name   string    // what the node was called; at most MaxName bytes
	Since  time.Time // when the node ceased to be trustworthy, for people; zero: it never was
	Issued time.Time
	Reason string      // at most 200 bytes of printable text
	Frame  frame.Frame // as it is signed, sent and stored
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
	v := Revocation{MeshID: f.MeshID, Serial: f.Seq, Issued: f.Issued, Frame: f}
	if f.Epoch != EpochRevocation {
		return Revocation{}, fmt.Errorf("record of kind %d, want %d", f.Epoch, EpochRevocation)
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
