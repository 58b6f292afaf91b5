package mesh

import (
	"crypto/ed25519"
	"fmt"

	"github.com/meshban/meshban/mesh/internal/wire"
	"github.com/meshban/meshban/mesh/pki"
)

// form is a form of message that its sender signs: a list of its version, the mesh's id, what it says and the sender's
// key, and then the signature over all that.
type form struct {
	what    string // for errors
	domain  string // precedes what is signed
	most    int    // bounds an encoded message, in bytes
	fields  int
	version uint64
}

// signed is what all forms hold.
type signed struct {
	MeshID [16]byte
	Key    ed25519.PublicKey // the sender's

	body, sig []byte // as decoded
}

// begin encodes what precedes the fields of its own.
func (f form) begin(s signed) []byte {
	b := wire.AppendUint(wire.AppendArray(nil, f.fields), f.version)
	return wire.AppendBin(b, s.MeshID[:])
}

// sign appends the signature to a message.
func (f form) sign(body []byte, id pki.Identity) []byte {
	return append(body, id.SignText(append([]byte(f.domain), body...))...)
}

// open decodes what begin wrote, strictly; the reader goes on behind it.
func (f form) open(b []byte, s *signed) *wire.Reader {
	if len(b) > f.most || len(b) < ed25519.SignatureSize {
		return &wire.Reader{Err: fmt.Errorf("%d bytes, want %d to %d", len(b), ed25519.SignatureSize, f.most)}
	}
	at := len(b) - ed25519.SignatureSize
	s.body, s.sig = b[:at], b[at:]
	r := &wire.Reader{Rest: s.body}
	r.ArrayOf(f.fields)
	if v := r.Uint(); r.Err == nil && v != f.version {
		r.Fail(fmt.Errorf("version %d, want %d", v, f.version))
	}
	r.Fixed(s.MeshID[:])
	return r
}

// close decodes the sender's key, which must be the last field.
func (f form) close(r *wire.Reader, s *signed) error {
	s.Key = make(ed25519.PublicKey, ed25519.PublicKeySize)
	r.Fixed(s.Key)
	if err := r.End(); err != nil {
		return fmt.Errorf("%s: %w", f.what, err)
	}
	return nil
}

// verify reports whether the sender signed this message in this form.
func (s signed) verify(f form) bool {
	return ed25519.Verify(s.Key, append([]byte(f.domain), s.body...), s.sig)
}
