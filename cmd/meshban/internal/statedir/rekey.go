package statedir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/meshban/meshban/mesh"
	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/pki"
)

// Rekey gives the node a new key and a certificate for it, with a token of its mesh, or without one if the
// authority's key is in the folder. The old key stays valid until the last step, so the node always has a certified
// key; then it is deleted. The folder's agent must not be running. Rekey returns the old and the new id. Errors are
// those of mesh.Enrol, pki.ErrNoAuthority if there is neither a token nor the authority's key, and pki.ErrOtherMesh
// for a token of another mesh.
func (d Dir) Rekey(ctx context.Context, token, name string) (was, is frame.ID, err error) {
	keys, err := d.Keys()
	if err != nil {
		return was, is, err
	}
	if token == "" && keys.Authority.IsZero() {
		return was, is, pki.ErrNoAuthority
	}
	next := d.Identity() + ".new"
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) { // left by an interrupted run
		return was, is, fmt.Errorf("make a new key: %w", err)
	}
	id, err := pki.CreateIdentity(next)
	if err != nil {
		return was, is, err
	}
	enrolment, err := d.recertify(ctx, keys, id, token, name)
	if err == nil && (enrolment.Secrets.MeshID != keys.Secrets.MeshID || enrolment.Secrets.Authority != keys.Secrets.Authority) {
		err = fmt.Errorf("the token: %w", pki.ErrOtherMesh)
	}
	if err == nil && enrolment.Secrets.Renews(keys.Secrets) {
		err = enrolment.Secrets.Save(d.Secrets())
	}
	if err != nil {
		return was, is, errors.Join(err, os.Remove(next))
	}
	// From here on the new key is the node's, and whoever certified it knows it too.
	if err := os.Rename(next, d.Identity()); err != nil {
		return was, is, fmt.Errorf("replace the node's key: %w", err)
	}
	if enrolment.Certificate.Serial != 0 {
		err = pki.SaveCertificate(d.Certificate(), enrolment.Certificate)
	}
	return keys.Identity.ID(), id.ID(), err
}

// recertify gets a certificate for a new key of this node.
func (d Dir) recertify(ctx context.Context, keys Keys, id pki.Identity, token, name string) (pki.Enrolment, error) {
	if token != "" {
		return mesh.Enrol(ctx, token, id, name)
	}
	caps := pki.DefaultCaps()
	if keys.Certificate.Serial != 0 && keys.Certificate.ID() == keys.Identity.ID() {
		caps = keys.Certificate.Caps
	}
	q, err := pki.NewRequest(id, name, keys.Secrets.MeshID)
	if err != nil {
		return pki.Enrolment{}, err
	}
	return keys.Authority.Enrol(q, keys.Secrets, caps, time.Now())
}
