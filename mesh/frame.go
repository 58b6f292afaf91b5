package mesh

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
	// MaxFrame is the size of the largest frame, in bytes: it fits an unfragmented UDP packet.
	MaxFrame = 1300
	// MaxPayload is the largest payload that always fits a frame, in bytes.
	MaxPayload = MaxFrame - frameOverhead
	// MaxLife is the longest time from a frame's issue to its expiry.
	MaxLife = 400 * 24 * time.Hour
	// FutureSkew is how far ahead of our clock a frame may have been issued.
	FutureSkew = 5 * time.Minute

	// frameOverhead: list head, version, mesh id, key, four numbers of at most 9 bytes, payload head, signature.
	frameOverhead = 1 + 1 + 18 + 34 + 4*9 + 3 + ed25519.SignatureSize
	frameVersion  = 1
	// keyAt is the offset of the key in an encoded frame: after list head, version, mesh id and the key's own head.
	keyAt       = 1 + 1 + 18 + 2
	frameFields = 8
	// frameDomain precedes the signed bytes and is never sent: a frame's signature is valid for nothing else.
	frameDomain = "meshban frame v1\x00"
)

var (
	// ErrBadFrame is wrapped by every error of DecodeFrame.
	ErrBadFrame = errors.New("bad frame")
	// ErrBadSignature: a frame was not signed by the key that it carries.
	ErrBadSignature = errors.New("bad signature")
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

// FrameRef names a frame. At most one frame per name is held.
type FrameRef struct {
	Origin     ID
	Epoch, Seq uint64
}

// Ref returns the frame's name.
func (f Frame) Ref() FrameRef { return FrameRef{Origin: f.Origin, Epoch: f.Epoch, Seq: f.Seq} }

// hash is the frame's identity for digests and tie-breaks.
func (f Frame) hash() [32]byte { return sha256.Sum256(f.Raw) }

// Verify checks the signature (about 60 us).
func (f Frame) Verify() error {
	if len(f.Raw) < ed25519.SignatureSize || len(f.Key) != ed25519.PublicKeySize {
		return ErrBadSignature
	}
	body, sig := f.Raw[:len(f.Raw)-ed25519.SignatureSize], f.Raw[len(f.Raw)-ed25519.SignatureSize:]
	var buf [len(frameDomain) + MaxFrame]byte
	if !ed25519.Verify(f.Key, append(append(buf[:0], frameDomain...), body...), sig) {
		return ErrBadSignature
	}
	return nil
}

// signFrame encodes and signs f's fields; Key and Origin are those of key.
func signFrame(key ed25519.PrivateKey, f Frame) (Frame, error) {
	f, err := draftFrame(key.Public().(ed25519.PublicKey), f)
	if err != nil {
		return Frame{}, err
	}
	body := f.Raw[:len(f.Raw)-ed25519.SignatureSize]
	var buf [len(frameDomain) + MaxFrame]byte
	copy(f.Raw[len(body):], ed25519.Sign(key, append(append(buf[:0], frameDomain...), body...)))
	return f, nil
}

// draftFrame returns the frame as it will be decoded, except for the signature, which is all zeros.
func draftFrame(key ed25519.PublicKey, f Frame) (Frame, error) {
	f.Key = key
	if len(f.Payload) > MaxPayload {
		return Frame{}, fmt.Errorf("payload of %d bytes, want at most %d", len(f.Payload), MaxPayload)
	}
	return DecodeFrame(append(encodeBody(f), make([]byte, ed25519.SignatureSize)...))
}

// encodeBody returns the signed bytes without the domain.
func encodeBody(f Frame) []byte {
	b := make([]byte, 0, frameOverhead+len(f.Payload))
	b = wire.AppendArray(b, frameFields)
	b = wire.AppendUint(b, frameVersion)
	b = wire.AppendBin(b, f.MeshID[:])
	b = wire.AppendBin(b, f.Key)
	b = wire.AppendUint(b, f.Epoch)
	b = wire.AppendUint(b, f.Seq)
	b = wire.AppendUint(b, uint64(f.Issued.UnixMilli()))
	b = wire.AppendUint(b, uint64(f.Expires.UnixMilli()))
	return wire.AppendBin(b, f.Payload)
}

// DecodeFrame decodes a frame strictly: one value has one encoding. It keeps raw and does not check the signature.
// Errors wrap ErrBadFrame.
func DecodeFrame(raw []byte) (Frame, error) {
	f, err := decodeFrame(raw)
	if err != nil {
		return Frame{}, fmt.Errorf("%w: %w", ErrBadFrame, err)
	}
	return f, nil
}

func decodeFrame(raw []byte) (Frame, error) {
	if len(raw) > MaxFrame {
		return Frame{}, fmt.Errorf("%d bytes, want at most %d", len(raw), MaxFrame)
	}
	if len(raw) < ed25519.SignatureSize {
		return Frame{}, wire.ErrTruncated
	}
	f := Frame{Raw: raw[:len(raw):len(raw)]}
	r := wire.Reader{Rest: raw[:len(raw)-ed25519.SignatureSize]}
	if n := r.Array(frameFields); r.Err == nil && n != frameFields {
		return Frame{}, fmt.Errorf("%d fields, want %d", n, frameFields)
	}
	if v := r.Uint(); r.Err == nil && v != frameVersion {
		return Frame{}, fmt.Errorf("version %d, want %d", v, frameVersion)
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
