package pki

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/sha512"
	"fmt"

	"filippo.io/edwards25519"
	"github.com/meshban/meshban/mesh/frame"
)

// Messages for one node alone are sealed with HPKE (RFC 9180, X25519 with HKDF-SHA256 and ChaCha20-Poly1305) to its
// ed25519 key, mapped to X25519 as age and libsodium do (RFC 7748, section 4.1).

// sealedMore is how many bytes sealing adds to a text: an ephemeral key and a tag.
const sealedMore = 32 + 16

// seal encrypts text for the holder of a node's key. unseal needs the same info.
func seal(node ed25519.PublicKey, info, text []byte) ([]byte, error) {
	x, err := x25519Of(node)
	if err != nil {
		return nil, fmt.Errorf("seal for %s: %w", frame.IDOf(node), err)
	}
	to, err := hpke.NewDHKEMPublicKey(x)
	if err != nil {
		return nil, fmt.Errorf("seal for %s: %w", frame.IDOf(node), err)
	}
	sealed, err := hpke.Seal(to, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), info, text)
	if err != nil {
		return nil, fmt.Errorf("seal for %s: %w", frame.IDOf(node), err)
	}
	return sealed, nil
}

// unseal decrypts a text that was sealed for this node.
func unseal(id Identity, info, sealed []byte) ([]byte, error) {
	x, err := id.x25519()
	if err != nil {
		return nil, fmt.Errorf("open what was sealed for this node: %w", err)
	}
	key, err := hpke.NewDHKEMPrivateKey(x)
	if err != nil {
		return nil, fmt.Errorf("open what was sealed for this node: %w", err)
	}
	text, err := hpke.Open(key, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), info, sealed)
	if err != nil {
		return nil, fmt.Errorf("open what was sealed for this node: %w", err)
	}
	return text, nil
}

// x25519Of returns a node's key in its X25519 form.
func x25519Of(node ed25519.PublicKey) (*ecdh.PublicKey, error) {
	point, err := new(edwards25519.Point).SetBytes(node)
	if err != nil {
		return nil, err
	}
	return ecdh.X25519().NewPublicKey(point.BytesMontgomery())
}

// x25519 returns this node's key in its X25519 form.
func (i Identity) x25519() (*ecdh.PrivateKey, error) {
	sum := sha512.Sum512(i.key.Seed()) // as ed25519 derives its scalar (RFC 8032, section 5.1.5)
	return ecdh.X25519().NewPrivateKey(sum[:32])
}

// Agree returns the X25519 secret that this node shares with another. Derive keys from it.
func (i Identity) Agree(node ed25519.PublicKey) ([]byte, error) {
	own, err := i.x25519()
	if err != nil {
		return nil, fmt.Errorf("agree on a secret with %s: %w", frame.IDOf(node), err)
	}
	theirs, err := x25519Of(node)
	if err != nil {
		return nil, fmt.Errorf("agree on a secret with %s: %w", frame.IDOf(node), err)
	}
	secret, err := own.ECDH(theirs)
	if err != nil {
		return nil, fmt.Errorf("agree on a secret with %s: %w", frame.IDOf(node), err)
	}
	return secret, nil
}
