package mesh

import (
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/wire"
	"github.com/meshban/meshban/mesh/pki"
)

var byeForm = form{"goodbye", "meshban bye v1\x00", 160, 4, 1}

// bye is a member's announcement that it is about to leave.
type bye struct {
	signed
	Issued time.Time
}

// encode returns the signed goodbye, prefixed with its kind.
func (b bye) encode(id pki.Identity) []byte {
	body := wire.AppendUint(byeForm.begin(b.signed), uint64(b.Issued.UnixMilli()))
	body = wire.AppendBin(body, id.Public())
	return append([]byte{wire.KindBye}, byeForm.sign(body, id)...)
}

// decodeBye strictly decodes what encode wrote after the kind. It does not check the signature.
func decodeBye(raw []byte) (b bye, err error) {
	r := byeForm.open(raw, &b.signed)
	b.Issued = time.UnixMilli(int64(r.Most(wire.MaxMillis))).UTC()
	return b, byeForm.close(r, &b.signed)
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
	if !b.verify(byeForm) {
		m.count.refused[refusedSignature].Add(1)
		return
	}
	m.peers.goodbye(now, frame.IDOf(b.Key), b.Issued)
}
