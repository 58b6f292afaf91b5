// Package enrol holds what nodes say to one another over TLS on the mesh's port, where no gossip key is needed: how a
// machine enrols with an invitation, and how a member that was away gets the newest key. It opens no connection.
package enrol

import (
	"bytes"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/meshban/meshban/mesh/internal/wire"
	"github.com/meshban/meshban/mesh/pki"
)

// A conversation is one request and one answer over TLS 1.3. Each side presents a self-signed certificate over its node key,
// which proves that it holds the key. The joiner accepts only the key that its token names, before it sends anything.

const (
	version = 1 // of a request to enrol
	// maxMessage bounds a request or an answer, in bytes.
	maxMessage = 8 << 10
	// MaxJoin bounds the addresses in an answer.
	MaxJoin        = 32
	requestFields  = 3
	answerFields   = 7       // plus the gossip keys once they have been rotated
	maxCertificate = 4 << 10 // of the certificate in the answer
)

// Request is what a joiner sends.
type Request struct {
	Secret [16]byte
	Name   string
}

// Encode returns the request as it is sent.
func (q Request) Encode() []byte {
	b := wire.AppendArray(nil, requestFields)
	b = wire.AppendUint(b, version)
	b = wire.AppendBin(b, q.Secret[:])
	return wire.AppendStr(b, q.Name)
}

// DecodeRequest decodes what Encode wrote, strictly.
func DecodeRequest(b []byte) (q Request, err error) {
	r := wire.Reader{Rest: b}
	r.ArrayOf(requestFields)
	if v := r.Uint(); r.Err == nil && v != version {
		return q, fmt.Errorf("enrolment version %d, want %d", v, version)
	}
	r.Fixed(q.Secret[:])
	q.Name = r.Str(pki.MaxName)
	return q, r.End()
}

// Code says whether a machine was admitted, or why not.
type Code uint64

// The codes of an answer.
const (
	OK          Code = iota
	Unknown          // the inviter does not know the invitation
	Expired          // the invitation has ended
	Used             // it has admitted as many machines as it may
	Failed           // the inviter could not store the use, or has too many requests: try again
	NoAuthority      // the authority's key was removed from the inviter
	Revoked          // the joiner's key is revoked
)

// Answer is what an inviter sends. Secrets and Join are set only with OK.
type Answer struct {
	Code        Code
	Secrets     pki.Secrets
	Join        []string
	Certificate []byte // the joiner's; empty in a mesh without an authority
	Taken       bool   // another certified node has the joiner's name
}

// Encode returns the answer as it is sent.
func (a Answer) Encode() []byte {
	fields := answerFields
	if a.Secrets.Rotated() {
		fields++
	}
	b := wire.AppendArray(nil, fields)
	b = wire.AppendUint(b, version)
	b = wire.AppendUint(b, uint64(a.Code))
	b = wire.AppendBin(b, a.Secrets.MeshID[:])
	b = wire.AppendBin(b, a.Secrets.GossipKey[:])
	b = wire.AppendArray(b, len(a.Join))
	for _, s := range a.Join {
		b = wire.AppendStr(b, s)
	}
	b = wire.AppendBin(b, a.Certificate)
	b = wire.AppendUint(b, wire.Flag(a.Taken))
	if fields > answerFields {
		b = a.Secrets.AppendKeys(b)
	}
	return b
}

// DecodeAnswer decodes what Encode wrote, strictly.
func DecodeAnswer(b []byte) (a Answer, err error) {
	r := wire.Reader{Rest: b}
	fields := r.Array(answerFields + 1)
	if r.Err == nil && fields < answerFields {
		return a, fmt.Errorf("answer of %d fields, want %d", fields, answerFields)
	}
	if v := r.Uint(); r.Err == nil && v != version {
		return a, fmt.Errorf("enrolment version %d, want %d", v, version)
	}
	a.Code = Code(r.Uint())
	r.Fixed(a.Secrets.MeshID[:])
	r.Fixed(a.Secrets.GossipKey[:])
	for n := r.Array(MaxJoin); n > 0 && r.Err == nil; n-- {
		a.Join = append(a.Join, r.AddrPort().String())
	}
	a.Certificate = bytes.Clone(r.Bin(maxCertificate))
	a.Taken = r.Most(1) == 1
	if fields > answerFields {
		key := a.Secrets.GossipKey
		if a.Secrets.ReadKeys(&r); a.Secrets.GossipKey != key {
			r.Fail(errors.New("gossip keys that do not belong together"))
		}
	}
	return a, r.End()
}

// WriteMessage writes a message with its length in front.
func WriteMessage(w io.Writer, b []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
	return err
}

// ReadMessage reads what WriteMessage wrote.
func ReadMessage(r io.Reader) ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(head[:]))
	if n > maxMessage {
		return nil, fmt.Errorf("message of %d bytes, want at most %d", n, maxMessage)
	}
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	return b, err
}

// TLS returns the TLS settings of one side: its own certificate, and the check of the other side's key.
func TLS(id pki.Identity, accept func(ed25519.PublicKey) error) (*tls.Config, error) {
	own, err := id.TLSCertificate()
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		Certificates:       []tls.Certificate{own},
		ClientAuth:         tls.RequireAnyClientCert,
		InsecureSkipVerify: true, // VerifyConnection checks the key, which is all that counts here
		VerifyConnection: func(s tls.ConnectionState) error {
			key, err := PeerKey(s)
			if err != nil {
				return err
			}
			return accept(key)
		},
		SessionTicketsDisabled: true,
	}, nil
}

// PeerKey returns the node key that the other side has proved.
func PeerKey(s tls.ConnectionState) (ed25519.PublicKey, error) {
	if len(s.PeerCertificates) == 0 {
		return nil, errors.New("no certificate")
	}
	key, ok := s.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
	if !ok {
		return nil, errors.New("not an ed25519 key")
	}
	return key, nil
}
