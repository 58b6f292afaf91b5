package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/hashicorp/go-msgpack/v2/codec"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/mesh"
	"github.com/meshban/meshban/mesh/frame"
)

// A second implementation of the messages between members: a hostile member does not use the code of package mesh. The
// first one is in mesh/meta.go, mesh/delegate.go, and below mesh in frame, internal/wire and internal/replica.

// Kinds of messages.
const (
	kindPush, kindTree, kindSync, kindChunk = 1, 2, 3, 4

	syncCheck, syncSame, syncVector, syncChunk, syncAck, syncDetail, syncWant, syncDiffer = 1, 2, 3, 4, 5, 6, 7, 8
)

// Kinds of memberlist messages.
const (
	mlSuspect, mlAlive, mlDead, mlPushPull, mlCompound, mlUser, mlCompress, mlEncrypt = 3, 4, 5, 6, 7, 8, 9, 10
)

func array(n int) []byte {
	if n < 16 {
		return []byte{0x90 | byte(n)}
	}
	return binary.BigEndian.AppendUint16([]byte{0xdc}, uint16(n))
}

func number(v uint64) []byte {
	switch {
	case v < 0x80:
		return []byte{byte(v)}
	case v < 1<<8:
		return []byte{0xcc, byte(v)}
	case v < 1<<16:
		return binary.BigEndian.AppendUint16([]byte{0xcd}, uint16(v))
	case v < 1<<32:
		return binary.BigEndian.AppendUint32([]byte{0xce}, uint32(v))
	}
	return binary.BigEndian.AppendUint64([]byte{0xcf}, v)
}

func bin(p []byte) []byte {
	switch n := len(p); {
	case n < 1<<8:
		return append([]byte{0xc4, byte(n)}, p...)
	case n < 1<<16:
		return append(binary.BigEndian.AppendUint16([]byte{0xc5}, uint16(n)), p...)
	default:
		return append(binary.BigEndian.AppendUint32([]byte{0xc6}, uint32(n)), p...)
	}
}

func text(s string) []byte {
	if len(s) < 32 {
		return append([]byte{0xa0 | byte(len(s))}, s...)
	}
	return append([]byte{0xd9, byte(len(s))}, s...)
}

func join(parts ...[]byte) (b []byte) {
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

// crafted is the content of a signed frame.
type crafted struct {
	mesh            [16]byte
	key             ed25519.PublicKey
	epoch, seq      uint64
	issued, expires time.Time
	payload         []byte
}

// sign returns the encoded frame, signed with any key.
func (f crafted) sign(key ed25519.PrivateKey) []byte {
	body := join(array(8), number(1), bin(f.mesh[:]), bin(f.key), number(f.epoch), number(f.seq),
		number(uint64(f.issued.UnixMilli())), number(uint64(f.expires.UnixMilli())), bin(f.payload))
	return append(body, ed25519.Sign(key, append([]byte("meshban frame v1\x00"), body...))...)
}

// packet returns a message of frames.
func packet(kind byte, raws ...[]byte) []byte {
	b := []byte{kind}
	for _, raw := range raws {
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(raw))), raw...)
	}
	return b
}

// bans returns a payload that bans prefixes.
func bans(until time.Time, prefixes ...netip.Prefix) []byte {
	var ops []ban.Op
	for _, p := range prefixes {
		ops = append(ops, ban.Op{Kind: ban.KindBan, Prefix: p, Until: until.Truncate(time.Millisecond), Source: "cli"})
	}
	b, err := ban.AppendOps(nil, ops)
	if err != nil {
		panic(err)
	}
	return b
}

// ack is the payload of the answer to a ping: the beginning of a digest, the digest of the membership, a time, and a
// signature.
type ack [8 + 8 + 8 + ed25519.SignatureSize]byte

// digest returns the body of a check and of its answer: root and the time.
func digest(root []byte) []byte {
	return bin(binary.BigEndian.AppendUint64(slices.Clone(root), uint64(time.Now().UnixMilli())))
}

// syncMessage returns a sync message; body follows the fields that all have.
func syncMessage(kind byte, from frame.ID, session uint64, body []byte) []byte {
	return syncToken(kind, from, session, 0, body)
}

// syncToken returns a sync message that also carries token, the sender's own number for the session.
func syncToken(kind byte, from frame.ID, session, token uint64, body []byte) []byte {
	outer := byte(kindSync)
	if kind == syncChunk {
		outer = kindChunk
	}
	return join([]byte{outer}, array(6), number(mesh.SyncVersion), number(uint64(kind)), bin(from[:]), number(session), number(token), body)
}

// stream returns the part of a vector about one origin's frames of one epoch.
func stream(origin frame.ID, epoch, live uint64, seen []byte) []byte {
	var sum [32]byte
	_, _ = rand.Read(sum[:])
	return join(array(7), bin(origin[:]), number(epoch), number(live), bin(sum[:]), number(1), number(0), bin(seen))
}

// vector returns the body of a vector that covers the range of all possible streams.
func vector(root [32]byte, flags uint64, streams ...[]byte) []byte {
	none, all := make([]byte, 16), bytes.Repeat([]byte{0xff}, 16)
	return join(array(5), bin(root[:]), number(flags), array(2), bin(none), number(0), array(2), bin(all), number(math.MaxUint64),
		array(len(streams)), join(streams...))
}

// everything is the window 1..2^64-2.
var everything = append([]byte{1}, binary.AppendUvarint(nil, 1<<64-3)...)

// place signs an address as the member there does.
func place(key ed25519.PrivateKey, meshID [16]byte, addr netip.AddrPort) []byte {
	ip := addr.Addr().As16()
	return ed25519.Sign(key, binary.BigEndian.AppendUint16(join([]byte("meshban address v1\x00"), meshID[:], ip[:]), addr.Port()))
}

// meta returns a member's metadata, padded to n bytes with fields of later versions.
func meta(key ed25519.PublicKey, name, version string, place []byte, n int) []byte {
	b := join(array(5), number(1), bin(key), text(name), text(version), bin(place))
	if pad := n - len(b) - 2; pad > 0 {
		b[0]++
		b = append(b, bin(make([]byte, min(pad, 255)))...)
	}
	if pad := n - len(b) - 2; pad > 0 {
		b[0]++
		b = append(b, bin(make([]byte, min(pad, 255)))...)
	}
	return b
}

// encoded returns a memberlist message.
func encoded(kind byte, v any) []byte {
	var b []byte
	h := &codec.MsgpackHandle{}
	h.RawToString = true
	if err := codec.NewEncoderBytes(&b, h).Encode(v); err != nil {
		panic(err)
	}
	return append([]byte{kind}, b...)
}

type alive struct {
	Incarnation uint32
	Node        string
	Addr        []byte
	Port        uint16
	Meta        []byte
	Vsn         []uint8
}

type dead struct {
	Incarnation uint32
	Node        string
	From        string
}

type pushPullHeader struct {
	Nodes        int
	UserStateLen int
	Join         bool
}

type userHeader struct{ UserMsgLen int }

// versions are the protocol versions that memberlist accepts.
var versions = []uint8{1, 5, 2, 0, 0, 0}

// seal encrypts as memberlist does, in either version of its encryption.
func seal(key [32]byte, version byte, plain, data []byte) []byte {
	nonce := make([]byte, 12)
	_, _ = rand.Read(nonce)
	return sealWith(key, version, nonce, plain, data)
}

// sealWith is seal with a given nonce.
func sealWith(key [32]byte, version byte, nonce, plain, data []byte) []byte {
	b := append(append(make([]byte, 0, 13+len(plain)+16), version), nonce...)
	return gcm(key).Seal(b, nonce, plain, data)
}

// sealStream returns a message encrypted for a stream.
func sealStream(key [32]byte, version byte, plain []byte) []byte {
	head := binary.BigEndian.AppendUint32([]byte{mlEncrypt}, uint32(29+len(plain)))
	return append(head, seal(key, version, plain, head)...)
}
