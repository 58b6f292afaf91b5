package mesh

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

// Enrolment without a connection: a request travels to the holder of the authority's key, and the answer travels back,
// as text that configuration management can carry. The answer contains the mesh's secrets: it must be kept like a
// password.

const pemRequest = "MESHBAN CERTIFICATE REQUEST"

// Text returns the request in PEM.
func (q Request) Text() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: pemRequest, Bytes: q.raw})
}

// ParseRequest parses what Text returned. Errors wrap ErrBadRequest.
func ParseRequest(text []byte) (Request, error) {
	if len(text) > maxKeyFile {
		return Request{}, fmt.Errorf("%w: %d bytes, want at most %d", ErrBadRequest, len(text), maxKeyFile)
	}
	b, err := findPEM(text, pemRequest)
	if err != nil {
		return Request{}, fmt.Errorf("%w: it %w", ErrBadRequest, err)
	}
	return DecodeRequest(b)
}

// Enrol answers a request with a certificate with these caps. The error matches ErrOtherMesh if the request is for
// another mesh, or ErrNoAuthority if the authority is not that of secrets.
func (a Authority) Enrol(q Request, secrets Secrets, caps Caps, now time.Time) (Enrolment, error) {
	if a.IsZero() || !bytes.Equal(a.Public(), secrets.Authority[:]) {
		return Enrolment{}, ErrNoAuthority
	}
	if q.MeshID != [16]byte{} && q.MeshID != secrets.MeshID {
		return Enrolment{}, fmt.Errorf("certificate request of %q: %w", q.Name, ErrOtherMesh)
	}
	serial, err := newSerial(now, 0)
	if err != nil {
		return Enrolment{}, err
	}
	c, err := a.Certify(Certificate{
		MeshID: secrets.MeshID, Serial: serial, Node: q.Node, Name: q.Name, Caps: caps,
		NotBefore: now, NotAfter: now.Add(CertificateLife),
	})
	return Enrolment{Secrets: secrets, Certificate: c}, err
}

// Text returns the enrolment in PEM, without the join list.
func (e Enrolment) Text() []byte {
	return append(pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: e.Certificate.Raw()}),
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
	e, err := enrolAnswer{Secrets: s, Certificate: certificate}.accept(id)
	if err != nil {
		return Enrolment{}, err
	}
	if e.Secrets != s {
		return Enrolment{}, fmt.Errorf("the certificate cannot be used: %w", ErrOtherAuthority)
	}
	return e, nil
}

// Export stores the authority's key and its mesh's secrets in one file (mode 0600, on disk when it returns). If the
// file exists, the error matches fs.ErrExist.
func (a Authority) Export(path string, secrets Secrets) error {
	if a.IsZero() || !bytes.Equal(a.Public(), secrets.Authority[:]) {
		return ErrNoAuthority
	}
	der, err := x509.MarshalPKCS8PrivateKey(a.key.key)
	if err != nil {
		return fmt.Errorf("encode the authority's key: %w", err)
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: pemIdentity, Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: pemSecrets, Bytes: secrets.encode()})...)
	if err := writeKeyFile(path, text, false); err != nil {
		return fmt.Errorf("export the authority's key: %w", err)
	}
	return nil
}

// Save stores the authority's key at path as CreateAuthority does, but replaces an existing file.
func (a Authority) Save(path string) error {
	der, err := x509.MarshalPKCS8PrivateKey(a.key.key)
	if err != nil {
		return fmt.Errorf("encode the authority's key: %w", err)
	}
	if err := writePEM(path, pemIdentity, der, true); err != nil {
		return fmt.Errorf("store the authority's key: %w", err)
	}
	return nil
}

// LoadExport reads what Export stored.
func LoadExport(path string) (Authority, Secrets, error) {
	a, err := LoadAuthority(path)
	if err != nil {
		return Authority{}, Secrets{}, err
	}
	s, err := LoadSecrets(path)
	if err == nil && !bytes.Equal(a.Public(), s.Authority[:]) {
		err = fmt.Errorf("%q: the key and the mesh do not belong together", path)
	}
	if err != nil {
		return Authority{}, Secrets{}, err
	}
	return a, s, nil
}
