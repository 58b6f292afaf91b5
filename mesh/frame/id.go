package frame

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// ID names a node: the first 16 bytes of the SHA-256 of its ed25519 public key.
type ID [16]byte

// idTextLen is the length of an ID's text form.
const idTextLen = 32

// IDOf returns the id of a public key.
func IDOf(key ed25519.PublicKey) ID {
	sum := sha256.Sum256(key)
	return ID(sum[:16])
}

// ParseID parses the text form, exactly 32 lower-case hex digits. Package mesh accepts no other form of a node
// name from memberlist.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != idTextLen {
		return id, fmt.Errorf("node id has %d characters, want %d", len(s), idTextLen)
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return id, fmt.Errorf("node id %q is not lower-case hex", s)
		}
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return ID{}, fmt.Errorf("node id %q: %w", s, err)
	}
	return id, nil
}

// String returns 32 lower-case hex digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// Short returns the first 8 hex digits, for people.
func (id ID) Short() string { return hex.EncodeToString(id[:4]) }

// IsZero reports whether the id was never set.
func (id ID) IsZero() bool { return id == ID{} }
