// Package frame defines what the members of a mesh exchange: frames, each a batch of operations signed by the node that
// made them. A frame has exactly one encoding. The package cannot read the operations.
package frame

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/meshban/meshban/mesh/internal/wire"
)

const (
	// MaxSize is the size of the largest frame, in bytes: it fits an unfragmented UDP packet.
	MaxSize = 1300
	// MaxPayload is the largest payload that always fits a frame, in bytes.
	MaxPayload = MaxSize - overhead
	// MaxLife is the longest time from a frame's issue to its expiry.
	MaxLife = 400 * 24 * time.Hour
	// FutureSkew is how far ahead of our clock a frame may have been issued.
	FutureSkew = 5 * time.Minute
	// KeyAt is the offset of the key in an encoded frame: after list head, version, mesh id and the key's own head.
	KeyAt = 1 + 1 + 18 + 2

	// overhead: list head, version, mesh id, key, four numbers of at most 9 bytes, payload head, signature.
	overhead = 1 + 1 + 18 + 34 + 4*9 + 3 + ed25519.SignatureSize
	version  = 1
	fields   = 8
	// domain precedes the signed bytes and is never sent: a frame's signature is valid for nothing else.
	domain = "meshban frame v1\x00"
)

var (
	// errBad is wrapped by every error of Decode.
	errBad = errors.New("bad frame")
	// ErrSignature: a frame was not signed by the key that it carries.
	ErrSignature = errors.New("bad signature")
)

// Frame is a batch of operations, signed by the node that made them. Times are UTC, in whole milliseconds.
type Frame struct {
	MeshID  [16]byte
	Key     ed25519.PublicKey // of the origin
	Origin  ID                // IDOf(Key)
	Epoch   uint64            // the origin's, at least 1, raised at each start
	Seq     uint64            // within the epoch, from 1 without gaps
	Issued  time.Time
	Expires time.Time // when its last operation ends: the frame is dropped everywhere
	Payload []byte    // part of Raw: must not be changed
	Raw     []byte    // encoded with its signature, as it is sent and stored; must not be changed
}

// Ref names a frame. At most one frame per name is held.
type Ref struct {
	Origin     ID
	Epoch, Seq uint64
}

// Ref returns the frame's name.
func (f Frame) Ref() Ref { return Ref{Origin: f.Origin, Epoch: f.Epoch, Seq: f.Seq} }

// Hash is the frame's identity for digests and tie-breaks.
func (f Frame) Hash() [32]byte { return sha256.Sum256(f.Raw) }

// Verify checks the signature (about 60 us).
func (f Frame) Verify() error {
	if len(f.Raw) < ed25519.SignatureSize || len(f.Key) != ed25519.PublicKeySize {
		return ErrSignature
	}
	body, sig := f.Raw[:len(f.Raw)-ed25519.SignatureSize], f.Raw[len(f.Raw)-ed25519.SignatureSize:]
	var buf [len(domain) + MaxSize]byte
	if !ed25519.Verify(f.Key, append(append(buf[:0], domain...), body...), sig) {
		return ErrSignature
	}
	return nil
}

// Sign encodes and signs f's fields; Key and Origin are those of key.
func Sign(key ed25519.PrivateKey, f Frame) (Frame, error) {
	if len(f.Payload) > MaxPayload {
		return Frame{}, fmt.Errorf("payload of %d bytes, want at most %d", len(f.Payload), MaxPayload)
	}
	f.Key = key.Public().(ed25519.PublicKey)
	body := encodeBody(f)
	var buf [len(domain) + MaxSize]byte
	return Decode(append(body, ed25519.Sign(key, append(append(buf[:0], domain...), body...))...))
}

// encodeBody returns the signed bytes without the domain.
func encodeBody(f Frame) []byte {
	b := make([]byte, 0, overhead+len(f.Payload))
	b = wire.AppendArray(b, fields)
	b = wire.AppendUint(b, version)
	b = wire.AppendBin(b, f.MeshID[:])
	b = wire.AppendBin(b, f.Key)
	b = wire.AppendUint(b, f.Epoch)
	b = wire.AppendUint(b, f.Seq)
	b = wire.AppendUint(b, uint64(f.Issued.UnixMilli()))
	b = wire.AppendUint(b, uint64(f.Expires.UnixMilli()))
	return wire.AppendBin(b, f.Payload)
}

// Decode decodes a frame strictly: one value has one encoding. It keeps raw and does not check the signature.
func Decode(raw []byte) (Frame, error) {
	f, err := decode(raw)
	if err != nil {
		return Frame{}, fmt.Errorf("%w: %w", errBad, err)
	}
	return f, nil
}

func decode(raw []byte) (Frame, error) {
	if len(raw) > MaxSize {
		return Frame{}, fmt.Errorf("%d bytes, want at most %d", len(raw), MaxSize)
	}
	if len(raw) < ed25519.SignatureSize {
		return Frame{}, wire.ErrTruncated
	}
	f := Frame{Raw: raw[:len(raw):len(raw)]}
	r := wire.Reader{Rest: raw[:len(raw)-ed25519.SignatureSize]}
	if n := r.Array(fields); r.Err == nil && n != fields {
		return Frame{}, fmt.Errorf("%d fields, want %d", n, fields)
	}
	if v := r.Uint(); r.Err == nil && v != version {
		return Frame{}, fmt.Errorf("version %d, want %d", v, version)
	}
	r.Fixed(f.MeshID[:])
	f.Key = r.Bin(ed25519.PublicKeySize)
	f.Epoch, f.Seq = r.Uint(), r.Uint()
	issued, expires := r.Uint(), r.Uint()
	f.Payload = r.Bin(MaxPayload)
	if err := r.End(); err != nil {
		return Frame{}, err
	}
	switch {
	case len(f.Key) != ed25519.PublicKeySize:
		return Frame{}, fmt.Errorf("key of %d bytes, want %d", len(f.Key), ed25519.PublicKeySize)
	case f.Epoch == 0 || f.Seq == 0 || f.Epoch == math.MaxUint64 || f.Seq == math.MaxUint64:
		return Frame{}, errors.New("epoch or sequence number out of range")
	case issued > wire.MaxMillis || expires > wire.MaxMillis:
		return Frame{}, errors.New("time out of range")
	case expires <= issued:
		return Frame{}, errors.New("ends before it begins")
	case expires-issued > uint64(MaxLife/time.Millisecond):
		return Frame{}, fmt.Errorf("lives longer than %d days", MaxLife/(24*time.Hour))
	}
	f.Origin = IDOf(f.Key)
	f.Issued, f.Expires = time.UnixMilli(int64(issued)).UTC(), time.UnixMilli(int64(expires)).UTC()
	return f, nil
}
