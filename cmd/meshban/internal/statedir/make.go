package statedir

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/ownfile"
	"github.com/meshban/meshban/mesh"
	"github.com/meshban/meshban/mesh/pki"
)

// ErrHasMesh means that the folder already belongs to a mesh.
var ErrHasMesh = errors.New("this folder already belongs to a mesh")

// free returns ErrHasMesh if the folder belongs to a mesh that has, or had, other members.
func (d Dir) free(alone bool) error {
	has, err := d.SetUp()
	if err == nil && has && !alone {
		err = ErrHasMesh
	}
	return err
}

// Init makes a new mesh with this node as its only member: the node's key, the mesh's authority and secrets, and the
// node's certificate, which keeps the node a member even if the authority's key moves elsewhere. It writes cfg as the
// config file if there is none. It returns ErrHasMesh if the folder already belongs to a mesh.
func (d Dir) Init(cfg config.Config) (pki.Identity, pki.Secrets, error) {
	if err := d.free(false); err != nil {
		return pki.Identity{}, pki.Secrets{}, err
	}
	id, err := d.identity()
	if err != nil {
		return pki.Identity{}, pki.Secrets{}, err
	}
	secrets, err := pki.NewSecrets()
	if err != nil {
		return pki.Identity{}, pki.Secrets{}, err
	}
	keys := Keys{Identity: id}
	if keys.Secrets, keys.Authority, err = d.found(secrets); err != nil {
		return pki.Identity{}, pki.Secrets{}, err
	}
	secrets = keys.Secrets
	enrolment, err := d.recertify(context.Background(), keys, id, "", cfg.Name)
	if err == nil {
		err = pki.SaveCertificate(d.Certificate(), enrolment.Certificate)
	}
	if err != nil {
		return pki.Identity{}, pki.Secrets{}, err
	}
	if err := d.writeConfig(cfg, false); err != nil {
		return pki.Identity{}, pki.Secrets{}, err
	}
	// The secrets come last: once they exist, the folder is set up.
	if err := secrets.Save(d.Secrets()); err != nil {
		return pki.Identity{}, pki.Secrets{}, err
	}
	return id, secrets, nil
}

// Join enrols the node with a token and writes the files of the mesh. A folder with a mesh of its own gives it up
// only if alone is set: nobody else was ever in it. The list that came with the token replaces cfg.Join.
func (d Dir) Join(ctx context.Context, token string, cfg config.Config, alone bool) (pki.Identity, pki.Enrolment, error) {
	if err := d.free(alone); err != nil {
		return pki.Identity{}, pki.Enrolment{}, err
	}
	id, err := d.identity()
	if err != nil {
		return pki.Identity{}, pki.Enrolment{}, err
	}
	enrolment, err := mesh.Enrol(ctx, token, id, cfg.Name)
	if err != nil {
		return pki.Identity{}, pki.Enrolment{}, err
	}
	if err := d.settle(enrolment, cfg); err != nil {
		return pki.Identity{}, pki.Enrolment{}, err
	}
	return id, enrolment, nil
}

// Keys are the keys in the folder.
type Keys struct {
	Identity    pki.Identity
	Secrets     pki.Secrets
	Authority   pki.Authority   // zero = not on this node
	Certificate pki.Certificate // zero = none
}

// Keys loads the keys that Init or Join wrote.
func (d Dir) Keys() (k Keys, err error) {
	if err := d.Check(); err != nil {
		return Keys{}, err
	}
	if k.Identity, err = pki.LoadIdentity(d.Identity()); err != nil {
		return Keys{}, err
	}
	if k.Secrets, err = pki.LoadSecrets(d.Secrets()); err != nil {
		return Keys{}, err
	}
	if !k.Secrets.HasAuthority() {
		return Keys{}, fmt.Errorf("%s is of a mesh without certificates: move the folder away, and `meshban init` or `meshban join TOKEN`", d.Secrets())
	}
	if k.Authority, err = pki.LoadAuthority(d.Authority()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Keys{}, err
	}
	if !bytes.Equal(k.Authority.Public(), k.Secrets.Authority[:]) {
		k.Authority = pki.Authority{} // of a mesh that was given up
	}
	if k.Certificate, err = pki.LoadCertificate(d.Certificate()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Keys{}, err
	}
	return k, nil
}

// found makes the authority's key, or loads the one that an interrupted run left, and binds the secrets to it.
func (d Dir) found(secrets pki.Secrets) (pki.Secrets, pki.Authority, error) {
	authority, err := pki.LoadAuthority(d.Authority())
	if errors.Is(err, fs.ErrNotExist) {
		authority, err = pki.CreateAuthority(d.Authority())
	}
	if err != nil {
		return pki.Secrets{}, pki.Authority{}, err
	}
	copy(secrets.Authority[:], authority.Public())
	return secrets, authority, nil
}

// identity loads the node's key, or makes it.
func (d Dir) identity() (pki.Identity, error) {
	if err := d.Make(); err != nil {
		return pki.Identity{}, err
	}
	id, err := pki.LoadIdentity(d.Identity())
	if errors.Is(err, fs.ErrNotExist) {
		return pki.CreateIdentity(d.Identity())
	}
	return id, err
}

// configMode lets the group of the agent's user read the config file.
const configMode fs.FileMode = 0o640

// writeConfig writes the config file atomically. It leaves an existing file alone unless replace is set; then it
// keeps the old text in meshban.yaml.old.
func (d Dir) writeConfig(cfg config.Config, replace bool) error {
	path := d.Config()
	old, err := readFile(path)
	switch {
	case err == nil && !replace:
		return nil
	case err == nil:
		if err := ownfile.Replace(path+".old", old, configMode); err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("read config: %w", err)
	}
	return ownfile.Replace(path, config.Render(cfg), configMode)
}

func readFile(path string) ([]byte, error) {
	f, err := ownfile.Open(path, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}
