package mesh

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"

	"github.com/hashicorp/memberlist"
	"github.com/meshban/meshban/mesh/internal/wire"
	"github.com/meshban/meshban/mesh/pki"
)

const (
	// protocolVersion is the version of our protocol on top of memberlist; members with another are refused.
	protocolVersion = 1
	metaFields      = 5
	// placeDomain precedes the signed address.
	placeDomain = "meshban address v1\x00"
	// wordFields is the number of fields of the signed word (keys, ceiling, proof), which may be absent.
	wordFields = 4
	wordDomain = "meshban word v1\x00"
	// alsoLen is the length of the field after those, which may be absent too: an address, a port and a signature.
	alsoLen = 16 + 2 + ed25519.SignatureSize
	// maxMetaFields leaves room for fields of later versions; readers skip them.
	maxMetaFields = 16
)

// meta is what a member says about itself in memberlist's metadata (at most 512 bytes).
type meta struct {
	Protocol uint64
	Key      ed25519.PublicKey
	Name     string
	Version  string
	Place    []byte // signature over the member's address: memberlist believes anyone who says where a member is
	// Has is the newest gossip key that the member can read, Uses the one it encrypts with. Ceiling bounds the
	// incarnations of news about it, see incarnation.go. Proof is the member's signature over these: without it any
	// holder of a gossip key could speak in its name, and make the others switch to a key that it lacks. nil: the
	// member states none of these.
	Has, Uses pki.KeyVersion
	Ceiling   uint32
	Proof     []byte
	// Also is an address of the other family; the zero AddrPort: none. AlsoProof is the signature over it.
	Also      netip.AddrPort
	AlsoProof []byte
}

// placeText returns what a member signs to say where it is reached.
func placeText(meshID [16]byte, addr netip.AddrPort) []byte {
	ip := addr.Addr().As16()
	b := append([]byte(placeDomain), meshID[:]...)
	return binary.BigEndian.AppendUint16(append(b, ip[:]...), addr.Port())
}

// isAt reports whether the member itself has signed that it is reached at addr, and at its other address if it has one.
func (m meta) isAt(meshID [16]byte, addr netip.AddrPort) bool {
	signed := func(addr netip.AddrPort, sig []byte) bool {
		return len(sig) == ed25519.SignatureSize && ed25519.Verify(m.Key, placeText(meshID, addr), sig)
	}
	return signed(addr, m.Place) && (!m.Also.IsValid() || signed(m.Also, m.AlsoProof))
}

// say sets the gossip keys and the ceiling, and signs them.
func (m *meta) say(id pki.Identity, has, uses pki.KeyVersion, ceiling uint32) {
	m.Has, m.Uses, m.Ceiling = has, uses, ceiling
	m.Proof = id.SignText(m.word())
}

// proven reports whether the member itself signed its gossip keys and ceiling.
func (m meta) proven() bool {
	return m.Proof != nil && ed25519.Verify(m.Key, m.word(), m.Proof)
}

func (m meta) word() []byte {
	b := binary.BigEndian.AppendUint64([]byte(wordDomain), uint64(m.Has))
	b = binary.BigEndian.AppendUint64(b, uint64(m.Uses))
	return binary.BigEndian.AppendUint32(b, m.Ceiling)
}

func (m meta) encode() []byte {
	fields := metaFields
	if m.Proof != nil {
		fields += wordFields
		if m.Also.IsValid() {
			fields++
		}
	}
	b := wire.AppendArray(nil, fields)
	b = wire.AppendUint(b, m.Protocol)
	b = wire.AppendBin(b, m.Key)
	b = wire.AppendStr(b, m.Name)
	b = wire.AppendStr(b, m.Version)
	b = wire.AppendBin(b, m.Place)
	if fields > metaFields {
		b = wire.AppendUint(b, uint64(m.Has))
		b = wire.AppendUint(b, uint64(m.Uses))
		b = wire.AppendUint(b, uint64(m.Ceiling))
		b = wire.AppendBin(b, m.Proof)
	}
	if fields > metaFields+wordFields {
		ip := m.Also.Addr().As16()
		b = wire.AppendBin(b, append(binary.BigEndian.AppendUint16(ip[:], m.Also.Port()), m.AlsoProof...))
	}
	return b
}

// decodeMeta decodes what encode wrote, strictly, and skips the fields of later versions.
func decodeMeta(b []byte) (meta, error) {
	var m meta
	if len(b) > memberlist.MetaMaxSize {
		return m, fmt.Errorf("metadata of %d bytes, want at most %d", len(b), memberlist.MetaMaxSize)
	}
	r := wire.Reader{Rest: b}
	n := r.Array(maxMetaFields)
	m.Protocol = r.Uint()
	m.Key = append(ed25519.PublicKey(nil), r.Bin(ed25519.PublicKeySize)...)
	m.Name = r.Str(pki.MaxName)
	m.Version = r.Str(maxVersion)
	m.Place = append([]byte(nil), r.Bin(ed25519.SignatureSize)...)
	m.Ceiling = firstCeiling
	if n >= metaFields+wordFields {
		m.Has, m.Uses = pki.KeyVersion(r.Uint()), pki.KeyVersion(r.Uint())
		m.Ceiling = uint32(r.Most(math.MaxUint32))
		m.Proof = make([]byte, ed25519.SignatureSize)
		r.Fixed(m.Proof)
	}
	if n > metaFields+wordFields {
		also := make([]byte, alsoLen)
		r.Fixed(also)
		m.Also = netip.AddrPortFrom(netip.AddrFrom16([16]byte(also[:16])).Unmap(), binary.BigEndian.Uint16(also[16:]))
		m.AlsoProof = also[18:]
	}
	switch {
	case r.Err != nil:
		return meta{}, fmt.Errorf("metadata: %w", r.Err)
	case n < metaFields:
		return meta{}, fmt.Errorf("metadata of %d fields, want %d", n, metaFields)
	case (n == metaFields || n == metaFields+wordFields || n == metaFields+wordFields+1) && len(r.Rest) > 0:
		return meta{}, fmt.Errorf("metadata: %w", wire.ErrTrailing)
	case len(m.Key) != ed25519.PublicKeySize:
		return meta{}, errors.New("metadata with a key of a wrong length")
	case m.Protocol != protocolVersion:
		return meta{}, fmt.Errorf("protocol version %d, want %d", m.Protocol, protocolVersion)
	}
	return m, nil
}
