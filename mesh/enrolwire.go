package mesh

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

// Enrolment is one request and one answer over TLS 1.3. Each side presents a self-signed certificate over its node key,
// which proves that it holds the key. The joiner accepts only the key that its token names, before it sends anything.

const (
	enrolVersion = 1
	// maxEnrolMessage bounds a request or an answer, in bytes.
	maxEnrolMessage = 8 << 10
	// maxJoinAnswer bounds the addresses in an answer.
	maxJoinAnswer  = 32
	requestFields  = 4
	answerFields   = 7       // plus the gossip keys once they have been rotated
	maxCertificate = 4 << 10 // of the certificate in the answer
)

// enrolRequest is what a joiner sends.
type enrolRequest struct {
	Secret  [16]byte
	Name    string
	Program string // the joiner's version, for the inviter's log; may be empty
}

func (q enrolRequest) encode() []byte {
	b := wire.AppendArray(nil, requestFields)
	b = wire.AppendUint(b, enrolVersion)
	b = wire.AppendBin(b, q.Secret[:])
	b = wire.AppendStr(b, q.Name)
	return wire.AppendStr(b, q.Program)
}

func decodeEnrolRequest(b []byte) (q enrolRequest, err error) {
	r := wire.Reader{Rest: b}
	r.ArrayOf(requestFields)
	if v := r.Uint(); r.Err == nil && v != enrolVersion {
		return q, fmt.Errorf("enrolment version %d, want %d", v, enrolVersion)
	}
	r.Fixed(q.Secret[:])
	q.Name = r.Str(pki.MaxName)
	q.Program = r.Str(maxVersion)
	return q, r.End()
}

type enrolCode uint64

const (
	enrolOK enrolCode = iota
	enrolUnknown
	enrolExpired
	enrolUsed
	enrolFailed      // the inviter could not store the use, or has too many requests: try again
	enrolNoAuthority // the authority's key was removed from the inviter
	enrolRevoked     // the joiner's key is revoked
)

// enrolAnswer is what an inviter sends. Secrets and Join are set only with enrolOK.
type enrolAnswer struct {
	Code        enrolCode
	Secrets     pki.Secrets
	Join        []string
	Certificate []byte // the joiner's; empty in a mesh without an authority
	Taken       bool   // another certified node has the joiner's name
}

func (a enrolAnswer) encode() []byte {
	fields := answerFields
	if a.Secrets.Rotated() {
		fields++
	}
	b := wire.AppendArray(nil, fields)
	b = wire.AppendUint(b, enrolVersion)
	b = wire.AppendUint(b, uint64(a.Code))
	b = wire.AppendBin(b, a.Secrets.MeshID[:])
	b = wire.AppendBin(b, a.Secrets.GossipKey[:])
	b = wire.AppendArray(b, len(a.Join))
	for _, s := range a.Join {
		b = wire.AppendStr(b, s)
	}
	b = wire.AppendBin(b, a.Certificate)
	taken := uint64(0)
	if a.Taken {
		taken = 1
	}
	b = wire.AppendUint(b, taken)
	if fields > answerFields {
		b = a.Secrets.AppendKeys(b)
	}
	return b
}

func decodeEnrolAnswer(b []byte) (a enrolAnswer, err error) {
	r := wire.Reader{Rest: b}
	fields := r.Array(answerFields + 1)
	if r.Err == nil && fields < answerFields {
		return a, fmt.Errorf("answer of %d fields, want %d", fields, answerFields)
	}
	if v := r.Uint(); r.Err == nil && v != enrolVersion {
		return a, fmt.Errorf("enrolment version %d, want %d", v, enrolVersion)
	}
	a.Code = enrolCode(r.Uint())
	r.Fixed(a.Secrets.MeshID[:])
	r.Fixed(a.Secrets.GossipKey[:])
	for n := r.Array(maxJoinAnswer); n > 0 && r.Err == nil; n-- {
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

// writeMessage writes a message with its length in front.
func writeMessage(w io.Writer, b []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
	return err
}

func readMessage(r io.Reader) ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(head[:]))
	if n > maxEnrolMessage {
		return nil, fmt.Errorf("message of %d bytes, want at most %d", n, maxEnrolMessage)
	}
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	return b, err
}

// enrolTLS returns the TLS settings of one side: its own certificate, and the check of the other side's key.
func enrolTLS(id pki.Identity, accept func(ed25519.PublicKey) error) (*tls.Config, error) {
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
			key, err := peerKey(s)
			if err != nil {
				return err
			}
			return accept(key)
		},
		SessionTicketsDisabled: true,
	}, nil
}

func peerKey(s tls.ConnectionState) (ed25519.PublicKey, error) {
	if len(s.PeerCertificates) == 0 {
		return nil, errors.New("no certificate")
	}
	key, ok := s.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
	if !ok {
		return nil, errors.New("not an ed25519 key")
	}
	return key, nil
}
