package mesh

import (
	"crypto/ed25519"
	"fmt"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/wire"
	"github.com/meshban/meshban/mesh/pki"
)

const (
	byeDomain  = "meshban bye v1\x00"
	byeVersion = 1
	byeFields  = 4
	// maxBye bounds an encoded goodbye, in bytes.
	maxBye = 160
)

// bye is a member's announcement that it is about to leave.
type bye struct {
	MeshID [16]byte
	Issued time.Time
	Key    ed25519.PublicKey

	body, sig []byte // as decoded
}

// encode returns the signed goodbye, prefixed with its kind.
func (b bye) encode(id pki.Identity) []byte {
	body := wire.AppendArray(nil, byeFields)
	body = wire.AppendUint(body, byeVersion)
	body = wire.AppendBin(body, b.MeshID[:])
	body = wire.AppendUint(body, uint64(b.Issued.UnixMilli()))
	body = wire.AppendBin(body, id.Public())
	sig := id.SignText(append([]byte(byeDomain), body...))
	return append(append([]byte{wire.KindBye}, body...), sig...)
}

// decodeBye strictly decodes what encode wrote after the kind. It does not check the signature.
func decodeBye(raw []byte) (b bye, err error) {
	if len(raw) > maxBye || len(raw) < ed25519.SignatureSize {
		return bye{}, fmt.Errorf("goodbye of %d bytes, want %d to %d", len(raw), ed25519.SignatureSize, maxBye)
	}
	at := len(raw) - ed25519.SignatureSize
	b.body, b.sig = raw[:at], raw[at:]
	r := wire.Reader{Rest: b.body}
	r.ArrayOf(byeFields)
	if v := r.Uint(); r.Err == nil && v != byeVersion {
		return bye{}, fmt.Errorf("goodbye of version %d, want %d", v, byeVersion)
	}
	r.Fixed(b.MeshID[:])
	b.Issued = time.UnixMilli(int64(r.Most(wire.MaxMillis))).UTC()
	b.Key = make(ed25519.PublicKey, ed25519.PublicKeySize)
	r.Fixed(b.Key)
	if err := r.End(); err != nil {
		return bye{}, fmt.Errorf("goodbye: %w", err)
	}
	return b, nil
}

func (b bye) verify() bool {
	return ed25519.Verify(b.Key, append([]byte(byeDomain), b.body...), b.sig)
}

// byeMessage handles a goodbye. One that is old or was heard before costs no signature check: anyone who has heard it
// can replay it.
func (m *Mesh) byeMessage(raw []byte) {
	b, err := decodeBye(raw)
	if err != nil {
		m.count.refused[refusedFormat].Add(1)
		return
	}
	now := m.now()
	age := now.Sub(b.Issued)
	if b.MeshID != m.cfg.Secrets.MeshID || age > frame.FutureSkew || age < -frame.FutureSkew || !m.peers.expectsBye(frame.IDOf(b.Key), b.Issued) {
		return
	}
	if !b.verify() {
		m.count.refused[refusedSignature].Add(1)
		return
	}
	m.peers.goodbye(now, frame.IDOf(b.Key), b.Issued)
}
