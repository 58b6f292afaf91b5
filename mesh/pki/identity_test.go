package pki

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/meshban/meshban/mesh/frame"
)

func TestIdentityFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node.key")
	if _, err := LoadIdentity(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing key: %v", err)
	}
	id, err := CreateIdentity(path)
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	if _, err := CreateIdentity(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second key at the same place: %v", err)
	}
	back, err := LoadIdentity(path)
	if err != nil || back.ID() != id.ID() || !back.Public().Equal(id.Public()) {
		t.Errorf("loaded %v, %v; want %v", back.ID(), err, id.ID())
	}
	if parsed, err := frame.ParseID(id.ID().String()); err != nil || parsed != id.ID() || len(id.ID().Short()) != 8 {
		t.Errorf("parsed %v, %v", parsed, err)
	}
	for _, bad := range []string{"", "x", id.ID().String()[:31], "ABCDEF" + id.ID().String()[6:], id.ID().String() + "0"} {
		if _, err := frame.ParseID(bad); err == nil {
			t.Errorf("id %q accepted", bad)
		}
	}

	secrets := newSecrets(t)
	for range 2 { // the second time, the file is replaced
		if err := secrets.Save(path); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := LoadSecrets(path); err != nil || got != secrets {
		t.Errorf("loaded other secrets, %v", err)
	}
	if _, err := LoadIdentity(path); err == nil {
		t.Error("secrets were loaded as a key")
	}
	for name, content := range map[string][]byte{"empty": nil, "text": []byte("hello"), "large": make([]byte, maxKeyFile+1)} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadSecrets(path); err == nil {
			t.Errorf("%s file was loaded", name)
		}
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
