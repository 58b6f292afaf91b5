package home

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/ownfile"
	"github.com/meshban/meshban/mesh"
)

// ErrHasMesh says that the folder belongs to a mesh already.
var ErrHasMesh = errors.New("this folder belongs to a mesh already")

// Init makes a new mesh of one in the folder: the node's key, the mesh's authority and secrets, the node's certificate, so
// that it counts wherever the authority's key goes, and, where none is there, a config file that says what cfg says. It returns ErrHasMesh when the folder belongs to one.
func (d Dir) Init(cfg config.Config) (mesh.Identity, mesh.Secrets, error) {
	if has, err := d.SetUp(); err != nil {
		return mesh.Identity{}, mesh.Secrets{}, err
	} else if has {
		return mesh.Identity{}, mesh.Secrets{}, ErrHasMesh
	}
	id, err := d.identity()
	if err != nil {
		return mesh.Identity{}, mesh.Secrets{}, err
	}
	secrets, err := mesh.NewSecrets()
	if err != nil {
		return mesh.Identity{}, mesh.Secrets{}, err
	}
	keys := Keys{Identity: id}
	if keys.Secrets, keys.Authority, err = d.found(secrets); err != nil {
		return mesh.Identity{}, mesh.Secrets{}, err
	}
	secrets = keys.Secrets
	enrolment, err := d.recertify(context.Background(), keys, id, "", cfg.Name)
	if err == nil {
		err = mesh.SaveCertificate(d.Certificate(), enrolment.Certificate)
	}
	if err != nil {
		return mesh.Identity{}, mesh.Secrets{}, err
	}
	if err := d.writeConfig(cfg, false); err != nil {
		return mesh.Identity{}, mesh.Secrets{}, err
	}
	// The secrets come last: their presence says that the rest is there.
	if err := secrets.Save(d.Secrets()); err != nil {
		return mesh.Identity{}, mesh.Secrets{}, err
	}
	return id, secrets, nil
}

// Join enrols the node with a token and writes what came back. A folder that holds a mesh of its own gives it up only
// when alone is true: nobody else was ever in it. cfg.Join is replaced by the list that came with the token.
func (d Dir) Join(ctx context.Context, token string, cfg config.Config, alone bool) (mesh.Identity, mesh.Enrolment, error) {
	has, err := d.SetUp()
	if err != nil {
		return mesh.Identity{}, mesh.Enrolment{}, err
	}
	if has && !alone {
		return mesh.Identity{}, mesh.Enrolment{}, ErrHasMesh
	}
	id, err := d.identity()
	if err != nil {
		return mesh.Identity{}, mesh.Enrolment{}, err
	}
	enrolment, err := mesh.Enrol(ctx, token, id, cfg.Name)
	if err != nil {
		return mesh.Identity{}, mesh.Enrolment{}, err
	}
	if err := d.settle(enrolment, cfg); err != nil {
		return mesh.Identity{}, mesh.Enrolment{}, err
	}
	return id, enrolment, nil
}

// Keys is what the folder holds of keys.
type Keys struct {
	Identity    mesh.Identity
	Secrets     mesh.Secrets
	Authority   mesh.Authority   // zero: it is not on this node
	Certificate mesh.Certificate // zero: none
}

// Keys loads what Init or Join left.
func (d Dir) Keys() (k Keys, err error) {
	if err := d.Check(); err != nil {
		return Keys{}, err
	}
	if k.Identity, err = mesh.LoadIdentity(d.Identity()); err != nil {
		return Keys{}, err
	}
	if k.Secrets, err = mesh.LoadSecrets(d.Secrets()); err != nil {
		return Keys{}, err
	}
	if k.Authority, err = mesh.LoadAuthority(d.Authority()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Keys{}, err
	}
	if !bytes.Equal(k.Authority.Public(), k.Secrets.Authority[:]) {
		k.Authority = mesh.Authority{} // of a mesh that was given up
	}
	if k.Certificate, err = mesh.LoadCertificate(d.Certificate()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Keys{}, err
	}
	return k, nil
}

// Found gives a mesh of one that a version without authorities made an authority.
func (d Dir) Found(k Keys) (Keys, error) {
	var err error
	if k.Secrets, k.Authority, err = d.found(k.Secrets); err != nil {
		return Keys{}, err
	}
	return k, k.Secrets.Save(d.Secrets())
}

// found makes the authority's key, or takes the one that an interrupted run left, and binds the secrets to it.
func (d Dir) found(secrets mesh.Secrets) (mesh.Secrets, mesh.Authority, error) {
	authority, err := mesh.LoadAuthority(d.Authority())
	if errors.Is(err, fs.ErrNotExist) {
		authority, err = mesh.CreateAuthority(d.Authority())
	}
	if err != nil {
		return mesh.Secrets{}, mesh.Authority{}, err
	}
	copy(secrets.Authority[:], authority.Public())
	return secrets, authority, nil
}

// identity loads the node's key, or makes it where there is none.
func (d Dir) identity() (mesh.Identity, error) {
	if err := d.Make(); err != nil {
		return mesh.Identity{}, err
	}
	id, err := mesh.LoadIdentity(d.Identity())
	if errors.Is(err, fs.ErrNotExist) {
		return mesh.CreateIdentity(d.Identity())
	}
	return id, err
}

// writeConfig writes the config file atomically; an existing one stays unless replace is set, and then its former text
// is kept beside it as meshban.yaml.old.
func (d Dir) writeConfig(cfg config.Config, replace bool) error {
	path := d.Config()
	old, err := readFile(path)
	switch {
	case err == nil && !replace:
		return nil
	case err == nil:
		if err := writeFile(path+".old", old); err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("read config: %w", err)
	}
	return writeFile(path, config.Render(cfg))
}

func readFile(path string) ([]byte, error) {
	f, err := ownfile.Open(path, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

func writeFile(path string, text []byte) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".meshban-*")
	if err != nil {
		return fmt.Errorf("write %q: %w", path, err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp.Name())
			err = fmt.Errorf("write %q: %w", path, err)
		}
	}()
	if _, err = tmp.Write(text); err != nil {
		return errors.Join(err, tmp.Close())
	}
	if err = errors.Join(tmp.Chmod(0o640), tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
