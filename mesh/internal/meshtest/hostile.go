package meshtest

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"net"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/mlwire"
)

// Sealed encrypts as memberlist does.
func Sealed(tb TB, key []byte, version byte, plain, data []byte) []byte {
	tb.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		tb.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		tb.Fatal(err)
	}
	b := make([]byte, 1+mlwire.NonceLen)
	b[0] = version
	if _, err := rand.Read(b[1:]); err != nil {
		tb.Fatal(err)
	}
	return gcm.Seal(b, b[1:], plain, data)
}

// OfMemberlist encodes one of memberlist's messages.
func OfMemberlist(tb TB, kind byte, v any) []byte {
	tb.Helper()
	b, err := mlwire.Encode(v)
	if err != nil {
		tb.Fatal(err)
	}
	return append([]byte{kind}, b...)
}

// StreamOf encrypts a message, as it arrives by stream.
func StreamOf(tb TB, key []byte, plain []byte) []byte {
	tb.Helper()
	head := binary.BigEndian.AppendUint32([]byte{mlwire.Encrypt}, uint32(mlwire.Overhead+len(plain)))
	return append(head, Sealed(tb, key, 1, plain, head)...)
}

// ExchangeOf encrypts a membership exchange, as it arrives by stream.
func ExchangeOf(tb TB, key []byte, members ...mlwire.NodeState) []byte {
	tb.Helper()
	plain := OfMemberlist(tb, mlwire.PushPull, mlwire.PushPullHead{Nodes: len(members)})
	for _, s := range members {
		plain = append(plain, OfMemberlist(tb, 0, s)[1:]...)
	}
	return StreamOf(tb, key, plain)
}

// Conn is a stream from an address that records when it is closed.
type Conn struct {
	net.Conn
	From   net.TCPAddr
	Closed *bool
}

// RemoteAddr returns From.
func (c Conn) RemoteAddr() net.Addr { return &c.From }

// Close sets Closed.
func (c Conn) Close() error { *c.Closed = true; return nil }

// StreamFrom returns a stream from an address.
func StreamFrom(addr string) Conn {
	return Conn{From: net.TCPAddr{IP: net.ParseIP(addr), Port: 1}, Closed: new(bool)}
}

// RawOf returns bytes that look to the filter like a frame of a given size with the key of origin number i.
func RawOf(i, size int) []byte {
	raw := make([]byte, size)
	binary.BigEndian.PutUint32(raw[frame.KeyAt:], uint32(i))
	return raw
}
