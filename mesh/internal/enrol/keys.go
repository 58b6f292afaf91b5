package enrol

import (
	"bytes"
	"fmt"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/wire"
	"github.com/meshban/meshban/mesh/pki"
)

// Version returns the version of a request, which says what it asks for, or 0 if the request is malformed.
func Version(b []byte) uint64 {
	r := wire.Reader{Rest: b}
	r.Array(15)
	v := r.Uint()
	if r.Err != nil {
		return 0
	}
	return v
}

const (
	// KeysVersion is the version of a request for grants.
	KeysVersion = 2
	keysFields  = 4
	keysAnswer  = 3
	// maxKeyRecords bounds the records in an answer.
	maxKeyRecords = 4
)

// KeysRequest asks for the newest gossip key.
type KeysRequest struct {
	MeshID      [16]byte
	Has         pki.KeyVersion
	Certificate []byte // the asker's, for a node that does not know it yet; may be empty
}

// Encode returns the request as it is sent.
func (q KeysRequest) Encode() []byte {
	b := wire.AppendArray(nil, keysFields)
	b = wire.AppendUint(b, KeysVersion)
	b = wire.AppendBin(b, q.MeshID[:])
	b = wire.AppendUint(b, uint64(q.Has))
	return wire.AppendBin(b, q.Certificate)
}

// DecodeKeysRequest decodes what Encode wrote, strictly.
func DecodeKeysRequest(b []byte) (q KeysRequest, err error) {
	r := wire.Reader{Rest: b}
	r.ArrayOf(keysFields)
	if v := r.Uint(); r.Err == nil && v != KeysVersion {
		return q, fmt.Errorf("version %d, want %d", v, KeysVersion)
	}
	r.Fixed(q.MeshID[:])
	q.Has = pki.KeyVersion(r.Uint())
	q.Certificate = bytes.Clone(r.Bin(frame.MaxSize))
	return q, r.End()
}

// KeysReply is the answer to a KeysRequest.
type KeysReply struct {
	Uses    pki.KeyVersion // the key that the answering node encrypts with
	Records [][]byte       // frames of the authority
}

// Encode returns the answer as it is sent.
func (a KeysReply) Encode() []byte {
	b := wire.AppendArray(nil, keysAnswer)
	b = wire.AppendUint(b, KeysVersion)
	b = wire.AppendUint(b, uint64(a.Uses))
	b = wire.AppendArray(b, len(a.Records))
	for _, raw := range a.Records {
		b = wire.AppendBin(b, raw)
	}
	return b
}

// DecodeKeysReply decodes what Encode wrote, strictly.
func DecodeKeysReply(b []byte) (a KeysReply, err error) {
	r := wire.Reader{Rest: b}
	r.ArrayOf(keysAnswer)
	if v := r.Uint(); r.Err == nil && v != KeysVersion {
		return a, fmt.Errorf("version %d, want %d", v, KeysVersion)
	}
	a.Uses = pki.KeyVersion(r.Uint())
	for n := r.Array(maxKeyRecords); n > 0 && r.Err == nil; n-- {
		a.Records = append(a.Records, bytes.Clone(r.Bin(frame.MaxSize)))
	}
	return a, r.End()
}
