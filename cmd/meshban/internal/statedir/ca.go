package statedir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/ownfile"
	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/pki"
)

// Request returns a request for a certificate in any mesh. It makes the node's key if there is none.
func (d Dir) Request(name string, alone bool) (pki.Request, error) {
	if err := d.free(alone); err != nil {
		return pki.Request{}, err
	}
	id, err := d.identity()
	if err != nil {
		return pki.Request{}, err
	}
	return pki.NewRequest(id, name, [16]byte{})
}

// Adopt enrols the node with the answer to its request, as Join does. cfg.Join says where to find the mesh. Unless
// named is set, the node takes the name in its certificate.
func (d Dir) Adopt(answer []byte, cfg config.Config, named, alone bool) (pki.Identity, pki.Enrolment, error) {
	if err := d.free(alone); err != nil {
		return pki.Identity{}, pki.Enrolment{}, err
	}
	id, err := pki.LoadIdentity(d.Identity())
	if err != nil {
		return pki.Identity{}, pki.Enrolment{}, err
	}
	enrolment, err := pki.ParseEnrolment(answer, id)
	if err != nil {
		return pki.Identity{}, pki.Enrolment{}, err
	}
	enrolment.Join = cfg.Join
	if !named && enrolment.Certificate.Name != "" {
		cfg.Name = enrolment.Certificate.Name
	}
	return id, enrolment, d.settle(enrolment, cfg)
}

// Sign answers a request with a certificate that has these caps, signed with the authority's key in the folder, or
// with the exported key in the file key if that is not empty.
func (d Dir) Sign(request []byte, key string, caps pki.Caps, now time.Time) (pki.Request, pki.Enrolment, error) {
	authority, secrets, err := d.authority(key)
	if err != nil {
		return pki.Request{}, pki.Enrolment{}, err
	}
	q, err := pki.ParseRequest(request)
	if err != nil {
		return pki.Request{}, pki.Enrolment{}, err
	}
	e, err := authority.Enrol(q, secrets, caps, now)
	return q, e, err
}

func (d Dir) authority(key string) (pki.Authority, pki.Secrets, error) {
	keys, err := d.Keys()
	if key != "" {
		if errors.As(err, new(*ownfile.Error)) {
			return pki.Authority{}, pki.Secrets{}, err
		}
		a, s, exportErr := loadExport(key)
		if err == nil && keys.Secrets.Renews(s) {
			s = keys.Secrets // the mesh key was rotated since the export
		}
		return a, s, exportErr
	}
	if err == nil && keys.Authority.IsZero() {
		err = pki.ErrNoAuthority
	}
	return keys.Authority, keys.Secrets, err
}

// loadExport reads an exported key. It refuses a file that anyone but this user and root can have put there: another
// user's key would certify into another mesh.
func loadExport(file string) (pki.Authority, pki.Secrets, error) {
	if err := ownfile.Check(file); err != nil {
		return pki.Authority{}, pki.Secrets{}, fmt.Errorf("the authority's key: %w", err)
	}
	return pki.LoadExport(file)
}

// Export writes the authority's key and the mesh's secrets to a file. If move is set, it then deletes the key from
// the folder, whose agent must not be running.
func (d Dir) Export(file string, move bool) error {
	authority, secrets, err := d.authority("")
	if err != nil {
		return err
	}
	if err := authority.Export(file, secrets); err != nil {
		return err
	}
	if err := d.noteExport(frame.IDOf(authority.Public())); err != nil {
		return err
	}
	if !move {
		return nil
	}
	// Delete the key only if the exported one can be read.
	if _, _, err := pki.LoadExport(file); err != nil {
		return fmt.Errorf("read the exported key: %w", err)
	}
	if err := os.Remove(d.Authority()); err != nil {
		return fmt.Errorf("delete the authority's key from this node: %w", err)
	}
	return nil
}

// noteExport records that the authority's key was exported.
func (d Dir) noteExport(authority frame.ID) error {
	f, err := ownfile.Open(d.exported(), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("the key was exported, but recording that failed: %w", err)
	}
	_, err = f.WriteString(authority.String() + "\n")
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("the key was exported, but recording that failed: %w", err)
	}
	return nil
}

// Exported reports whether the authority's key was exported from this folder.
func (d Dir) Exported(authority frame.ID) bool {
	text, err := os.ReadFile(d.exported())
	return err == nil && strings.TrimSpace(string(text)) == authority.String()
}

// Import copies the authority's key from an exported file to the folder, which must belong to that authority's mesh.
// The folder's agent must not be running.
func (d Dir) Import(file string) error {
	authority, secrets, err := loadExport(file)
	if err != nil {
		return err
	}
	keys, err := d.Keys()
	if err != nil {
		return err
	}
	if keys.Secrets.MeshID != secrets.MeshID || keys.Secrets.Authority != secrets.Authority {
		return fmt.Errorf("the key in %q: %w", file, pki.ErrOtherMesh)
	}
	return authority.Save(d.Authority())
}

// settle writes the files of an enrolled node. The secrets come after the others: once they exist, the node is set
// up.
func (d Dir) settle(e pki.Enrolment, cfg config.Config) error {
	cfg.Join = e.Join
	if err := d.writeConfig(cfg, true); err != nil {
		return err
	}
	if e.Certificate.Serial != 0 {
		if err := pki.SaveCertificate(d.Certificate(), e.Certificate); err != nil {
			return err
		}
	}
	if err := e.Secrets.Save(d.Secrets()); err != nil {
		return err
	}
	// The authority of the mesh that this node gave up has no say here. Keys are never deleted.
	if err := os.Rename(d.Authority(), d.Authority()+".old"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("rename the former mesh's authority: %w", err)
	}
	return nil
}
