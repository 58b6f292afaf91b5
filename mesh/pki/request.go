package pki

import (
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/wire"
)

const (
	// maxRequest bounds an encoded request, in bytes.
	maxRequest    = 256
	requestDomain = "meshban request v1\x00"
	csrVersion    = 1
	csrFields     = 4
	pemRequest    = "MESHBAN CERTIFICATE REQUEST"
)

// ErrBadRequest is wrapped by the errors of ParseRequest.
var ErrBadRequest = errors.New("not a certificate request")

// Request asks an authority for a certificate. Only the holder of the node's key can have made it.
type Request struct {
	MeshID [16]byte // zero: any mesh
	Node   ed25519.PublicKey
	Name   string // at most MaxName bytes of printable text

	raw []byte
}

// NewRequest makes and signs a request.
func NewRequest(id Identity, name string, meshID [16]byte) (Request, error) {
	if id.IsZero() {
		return Request{}, errors.New("certificate request: no identity")
	}
	if !wire.IsText(name) || len(name) > MaxName {
		return Request{}, fmt.Errorf("certificate request: name %q: want at most %d bytes of printable text", name, MaxName)
	}
	q := Request{MeshID: meshID, Node: id.Public(), Name: name}
	b := q.body()
	q.raw = append(b, id.SignText(append([]byte(requestDomain), b...))...)
	return q, nil
}

func (q Request) body() []byte {
	b := wire.AppendArray(nil, csrFields)
	b = wire.AppendUint(b, csrVersion)
	b = wire.AppendBin(b, q.MeshID[:])
	b = wire.AppendBin(b, q.Node)
	return wire.AppendStr(b, q.Name)
}

// decodeRequest strictly decodes a request and checks that it was signed by the key that it names. Errors wrap
// ErrBadRequest.
func decodeRequest(raw []byte) (Request, error) {
	q, err := readRequest(raw)
	if err != nil {
		return Request{}, fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	return q, nil
}

func readRequest(raw []byte) (Request, error) {
	if len(raw) > maxRequest {
		return Request{}, fmt.Errorf("%d bytes, want at most %d", len(raw), maxRequest)
	}
	if len(raw) < ed25519.SignatureSize {
		return Request{}, wire.ErrTruncated
	}
	body, sig := raw[:len(raw)-ed25519.SignatureSize], raw[len(raw)-ed25519.SignatureSize:]
	q := Request{raw: raw}
	r := wire.Reader{Rest: body}
	r.ArrayOf(csrFields)
	if v := r.Uint(); r.Err == nil && v != csrVersion {
		return Request{}, fmt.Errorf("version %d, want %d", v, csrVersion)
	}
	r.Fixed(q.MeshID[:])
	q.Node = r.Bin(ed25519.PublicKeySize)
	q.Name = r.Str(MaxName)
	if err := r.End(); err != nil {
		return Request{}, err
	}
	if len(q.Node) != ed25519.PublicKeySize {
		return Request{}, fmt.Errorf("key of %d bytes, want %d", len(q.Node), ed25519.PublicKeySize)
	}
	if !ed25519.Verify(q.Node, append([]byte(requestDomain), body...), sig) {
		return Request{}, frame.ErrSignature
	}
	return q, nil
}

// Text returns the request in PEM, for a person to carry to a holder of the authority's key.
func (q Request) Text() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: pemRequest, Bytes: q.raw})
}

// ParseRequest parses what Text returned. Errors wrap ErrBadRequest.
func ParseRequest(text []byte) (Request, error) {
	if len(text) > maxKeyFile {
		return Request{}, fmt.Errorf("%w: %d bytes, want at most %d", ErrBadRequest, len(text), maxKeyFile)
	}
	b, err := findPEM(text, pemRequest)
	if err != nil {
		return Request{}, fmt.Errorf("%w: it %w", ErrBadRequest, err)
	}
	return decodeRequest(b)
}
