package node

import (
	"os"
	"strings"
	"testing"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/statedir"
)

// A node that holds the authority's key certifies its new key itself; a failed rekey leaves the former key in force.
func TestRekey(t *testing.T) {
	dir := t.TempDir()
	refused := func(name, token string, code control.Code, text string) {
		t.Helper()
		before, _ := os.ReadFile(statedir.Dir(dir).Identity())
		_, err := Rekey(t.Context(), dir, token)
		if err == nil {
			t.Fatalf("%s: done", name)
		}
		if e := control.AsError(err); e.Code != code || !strings.Contains(e.Message+" "+e.Hint, text) {
			t.Errorf("%s: %+v, want %v and %q", name, e, code, text)
		}
		after, _ := os.ReadFile(statedir.Dir(dir).Identity())
		if string(after) != string(before) {
			t.Errorf("%s: the key has changed", name)
		}
		if _, err := os.Stat(statedir.Dir(dir).Identity() + ".new"); !os.IsNotExist(err) {
			t.Errorf("%s: a key is left over: %v", name, err)
		}
	}
	refused("bad: no mesh", "", control.CodeNotFound, "meshban join TOKEN")
	first, err := Init(t.Context(), JoinOptions{Dir: dir, Name: "web1"})
	if err != nil {
		t.Fatal(err)
	}
	// The leftovers of a killed run are no obstacle.
	if err := os.WriteFile(statedir.Dir(dir).Identity()+".new", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := Rekey(t.Context(), dir, "")
	if err != nil {
		t.Fatal(err)
	}
	keys, err := statedir.Dir(dir).Keys()
	if err != nil {
		t.Fatal(err)
	}
	if got.Former != first.ID || got.ID == first.ID || keys.Identity.ID().String() != got.ID {
		t.Errorf("%+v, was %s, the folder has %s", got, first.ID, keys.Identity.ID())
	}
	if keys.Certificate.ID() != keys.Identity.ID() || keys.Certificate.Name == "" {
		t.Errorf("the certificate is of %s", keys.Certificate.ID())
	}

	refused("bad: no token of ours", "mb1-x", control.CodeUsage, "meshban invite")
	release, err := statedir.Dir(dir).Lock()
	if err != nil {
		t.Fatal(err)
	}
	refused("bad: an agent runs", "", control.CodeFailed, "stop it first")
	if err := release(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(statedir.Dir(dir).Authority()); err != nil {
		t.Fatal(err)
	}
	refused("bad: the authority is elsewhere", "", control.CodeUsage, "rotate node-key TOKEN")
}
