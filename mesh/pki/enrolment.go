package pki

import (
	"encoding/pem"
	"errors"
	"fmt"
)

// Enrolment is what a new member receives. It comes over a connection, or as text that configuration management can carry;
// it contains the mesh's secrets, so it must be kept like a password.
type Enrolment struct {
	Secrets Secrets
	Join    []string // for the join list, the inviter's address first
	// Certificate is this node's; zero in a mesh without an authority.
	Certificate Certificate
	// NameTaken says that another certified node has the same name.
	NameTaken bool
}

// Text returns the enrolment in PEM, without the join list.
func (e Enrolment) Text() []byte {
	return append(pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: e.Certificate.Frame.Raw}),
		pem.EncodeToMemory(&pem.Block{Type: pemSecrets, Bytes: e.Secrets.encode()})...)
}

// ParseEnrolment parses what Text returned for this node. It checks that the certificate is for the node's key, of the
// mesh and by its authority. It does not check the dates: this machine's clock may be wrong.
func ParseEnrolment(text []byte, id Identity) (Enrolment, error) {
	if len(text) > maxKeyFile {
		return Enrolment{}, fmt.Errorf("the certificate's file has %d bytes, want at most %d", len(text), maxKeyFile)
	}
	certificate, errCertificate := findPEM(text, pemCertificate)
	secrets, errSecrets := findPEM(text, pemSecrets)
	if err := errors.Join(errCertificate, errSecrets); err != nil {
		return Enrolment{}, fmt.Errorf("the certificate's file %w", err)
	}
	s, err := decodeSecrets(secrets)
	if err != nil {
		return Enrolment{}, fmt.Errorf("the mesh secrets in the certificate's file: %w", err)
	}
	e := Enrolment{Secrets: s}
	if err := e.Accept(certificate, id); err != nil {
		return Enrolment{}, err
	}
	if e.Secrets != s {
		return Enrolment{}, fmt.Errorf("the certificate cannot be used: %w", ErrOtherAuthority)
	}
	return e, nil
}

// Accept checks and takes this node's certificate, which came with the secrets from someone who holds the authority's key:
// so the key that signed the certificate is the mesh authority's. It does not check the dates: the members do, and this
// machine's clock may be wrong.
func (e *Enrolment) Accept(certificate []byte, id Identity) error {
	c, err := decodeCertificate(certificate)
	if err == nil {
		err = c.Verify(c.Authority, e.Secrets.MeshID, c.NotBefore)
	}
	if err == nil && c.ID() != id.ID() {
		err = errors.New("it is of another node")
	}
	if err != nil {
		return fmt.Errorf("the inviter's certificate for this machine cannot be used: %w", err)
	}
	e.Certificate = c
	copy(e.Secrets.Authority[:], c.Authority)
	return nil
}
