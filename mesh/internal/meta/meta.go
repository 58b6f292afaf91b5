// Package meta is what a member says of itself in memberlist's metadata: its key, its names, its addresses, the gossip
// keys that it has, and how high the numbers of news of it may be.
package meta

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"

	"github.com/hashicorp/memberlist"
	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/wire"
	"github.com/meshban/meshban/mesh/pki"
)

const (
	// Protocol is the version of our protocol on top of memberlist; members with another are refused.
	Protocol = 1
	// MaxVersion bounds the text of the program's version, in bytes.
	MaxVersion = 32
	// fields is the number of the first fields, which are always there.
	fields = 5
	// placeDomain precedes the signed address.
	placeDomain = "meshban address v1\x00"
	// wordFields is the number of fields of the signed word (keys, ceiling, proof), which may be absent.
	wordFields = 4
	wordDomain = "meshban word v1\x00"
	// alsoLen is the length of the field after those, which may be absent too: an address, a port and a signature.
	alsoLen = 16 + 2 + ed25519.SignatureSize
	// maxFields leaves room for fields of later versions; readers skip them.
	maxFields = 16
)

var (
	errName = errors.New("the node name is no id")
	errKey  = errors.New("the key does not belong to the id")
)

// Data is what a member says about itself in memberlist's metadata (at most 512 bytes).
type Data struct {
	Protocol uint64
	Key      ed25519.PublicKey
	Name     string
	Version  string
	Place    []byte // signature over the member's address: memberlist believes anyone who says where a member is
	// Has is the newest gossip key that the member can read, Uses the one it encrypts with. Ceiling bounds the
	// incarnations of news about it, see Ceiling. Proof is the member's signature over these: without it any
	// holder of a gossip key could speak in its name, and make the others switch to a key that it lacks. nil: the
	// member states none of these.
	Has, Uses pki.KeyVersion
	Ceiling   uint32
	Proof     []byte
	// Also is an address of the other family; the zero AddrPort: none. AlsoProof is the signature over it.
	Also      netip.AddrPort
	AlsoProof []byte
}

// PlaceText returns what a member signs to say where it is reached.
func PlaceText(meshID [16]byte, addr netip.AddrPort) []byte {
	ip := addr.Addr().As16()
	b := append([]byte(placeDomain), meshID[:]...)
	return binary.BigEndian.AppendUint16(append(b, ip[:]...), addr.Port())
}

// IsAt reports whether the member itself has signed that it is reached at addr, and at its other address if it has one.
func (m Data) IsAt(meshID [16]byte, addr netip.AddrPort) bool {
	signed := func(addr netip.AddrPort, sig []byte) bool {
		return len(sig) == ed25519.SignatureSize && ed25519.Verify(m.Key, PlaceText(meshID, addr), sig)
	}
	return signed(addr, m.Place) && (!m.Also.IsValid() || signed(m.Also, m.AlsoProof))
}

// Say sets the gossip keys and the ceiling, and signs them.
func (m *Data) Say(id pki.Identity, has, uses pki.KeyVersion, ceiling uint32) {
	m.Has, m.Uses, m.Ceiling = has, uses, ceiling
	m.Proof = id.SignText(m.word())
}

// Proven reports whether the member itself signed its gossip keys and ceiling.
func (m Data) Proven() bool {
	return m.Proof != nil && ed25519.Verify(m.Key, m.word(), m.Proof)
}

func (m Data) word() []byte {
	b := binary.BigEndian.AppendUint64([]byte(wordDomain), uint64(m.Has))
	b = binary.BigEndian.AppendUint64(b, uint64(m.Uses))
	return binary.BigEndian.AppendUint32(b, m.Ceiling)
}

// Encode returns the encoded metadata.
func (m Data) Encode() []byte {
	count := fields
	if m.Proof != nil {
		count += wordFields
		if m.Also.IsValid() {
			count++
		}
	}
	b := wire.AppendArray(nil, count)
	b = wire.AppendUint(b, m.Protocol)
	b = wire.AppendBin(b, m.Key)
	b = wire.AppendStr(b, m.Name)
	b = wire.AppendStr(b, m.Version)
	b = wire.AppendBin(b, m.Place)
	if count > fields {
		b = wire.AppendUint(b, uint64(m.Has))
		b = wire.AppendUint(b, uint64(m.Uses))
		b = wire.AppendUint(b, uint64(m.Ceiling))
		b = wire.AppendBin(b, m.Proof)
	}
	if count > fields+wordFields {
		ip := m.Also.Addr().As16()
		b = wire.AppendBin(b, append(binary.BigEndian.AppendUint16(ip[:], m.Also.Port()), m.AlsoProof...))
	}
	return b
}

// Of decodes the metadata of the member of a name, which is the hash of its key.
func Of(name string, b []byte) (frame.ID, Data, error) {
	id, err := frame.ParseID(name)
	if err != nil {
		return id, Data{}, errName
	}
	m, err := Decode(b)
	if err == nil && frame.IDOf(m.Key) != id {
		err = errKey
	}
	return id, m, err
}

// Decode decodes what Encode wrote, strictly, and skips the fields of later versions.
func Decode(b []byte) (Data, error) {
	var m Data
	if len(b) > memberlist.MetaMaxSize {
		return m, fmt.Errorf("metadata of %d bytes, want at most %d", len(b), memberlist.MetaMaxSize)
	}
	r := wire.Reader{Rest: b}
	n := r.Array(maxFields)
	m.Protocol = r.Uint()
	m.Key = append(ed25519.PublicKey(nil), r.Bin(ed25519.PublicKeySize)...)
	m.Name = r.Str(pki.MaxName)
	m.Version = r.Str(MaxVersion)
	m.Place = append([]byte(nil), r.Bin(ed25519.SignatureSize)...)
	m.Ceiling = FirstCeiling
	if n >= fields+wordFields {
		m.Has, m.Uses = pki.KeyVersion(r.Uint()), pki.KeyVersion(r.Uint())
		m.Ceiling = uint32(r.Most(math.MaxUint32))
		m.Proof = make([]byte, ed25519.SignatureSize)
		r.Fixed(m.Proof)
	}
	if n > fields+wordFields {
		also := make([]byte, alsoLen)
		r.Fixed(also)
		m.Also = netip.AddrPortFrom(netip.AddrFrom16([16]byte(also[:16])).Unmap(), binary.BigEndian.Uint16(also[16:]))
		m.AlsoProof = also[18:]
	}
	switch {
	case r.Err != nil:
		return Data{}, fmt.Errorf("metadata: %w", r.Err)
	case n < fields:
		return Data{}, fmt.Errorf("metadata of %d fields, want %d", n, fields)
	case (n == fields || n == fields+wordFields || n == fields+wordFields+1) && len(r.Rest) > 0:
		return Data{}, fmt.Errorf("metadata: %w", wire.ErrTrailing)
	case len(m.Key) != ed25519.PublicKeySize:
		return Data{}, errors.New("metadata with a key of a wrong length")
	case m.Protocol != Protocol:
		return Data{}, fmt.Errorf("protocol version %d, want %d", m.Protocol, Protocol)
	}
	return m, nil
}
