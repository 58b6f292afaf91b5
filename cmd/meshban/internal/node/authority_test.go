package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/statedir"
)

// Enrolment without contact to a node: with the authority's key on the founder, then with the key exported, moved
// away and put back. Also what is refused on the way.
func TestEnrolByFile(t *testing.T) {
	founder, other, member := t.TempDir(), t.TempDir(), t.TempDir()
	for _, dir := range []string{founder, other} {
		if _, err := Init(t.Context(), JoinOptions{Dir: dir, Name: "web1"}); err != nil {
			t.Fatal(err)
		}
	}
	sign := func(dir, key string, request []byte) (CAResult, error) {
		return UseAuthority(t.Context(), CAOptions{Dir: dir, Do: "sign", Request: request, Key: key})
	}
	refused := func(name string, err error, code control.Code, text string) {
		t.Helper()
		if err == nil {
			t.Errorf("%s: done", name)
			return
		}
		if e := control.AsError(err); e.Code != code || !strings.Contains(e.Message+" "+e.Hint, text) {
			t.Errorf("%s: %+v, want %v and %q", name, e, code, text)
		}
	}
	_, err := Join(t.Context(), JoinOptions{Dir: member, Certificate: []byte("x")})
	refused("bad: no request was made", err, control.CodeFailed, "--request")
	request, err := Request(t.Context(), JoinOptions{Dir: member, Name: "web4"})
	if err != nil {
		t.Fatal(err)
	}
	again, err := Request(t.Context(), JoinOptions{Dir: member, Name: "web4"})
	if err != nil || string(again.Text) != string(request.Text) {
		t.Errorf("a second request has another key: %v", err)
	}
	_, err = sign(founder, "", []byte("hello"))
	refused("bad: no request", err, control.CodeUsage, "--request")
	_, err = sign(member, "", request.Text)
	refused("bad: no mesh", err, control.CodeFailed, "--dir")

	// The key leaves the founder, and signs from its file.
	key := filepath.Join(t.TempDir(), "ca.key")
	if _, err := UseAuthority(t.Context(), CAOptions{Dir: founder, Do: "export", File: key, Move: true}); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(key); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the exported key: %v, %v", fi, err)
	}
	if _, err := os.Stat(statedir.Dir(founder).Authority()); !os.IsNotExist(err) {
		t.Errorf("the key is still on the node: %v", err)
	}
	_, err = sign(founder, "", request.Text)
	refused("bad: the key is elsewhere", err, control.CodeFailed, "ca.key")
	_, err = UseAuthority(t.Context(), CAOptions{Dir: founder, Do: "export", File: key + "2"})
	refused("bad: nothing to export", err, control.CodeFailed, "ca.key")
	_, err = UseAuthority(t.Context(), CAOptions{Dir: other, Do: "export", File: key})
	refused("bad: the file is there", err, control.CodeFailed, "does not exist yet")
	_, err = UseAuthority(t.Context(), CAOptions{Dir: other, Do: "import", File: key})
	refused("bad: the key of another mesh", err, control.CodePolicy, "one and the same mesh")
	// A key file that others can write to is refused.
	if err := os.Chmod(key, 0o622); err != nil {
		t.Fatal(err)
	}
	_, err = sign(founder, key, request.Text)
	refused("bad: a key that others may write", err, control.CodeFailed, "chmod go-w")
	_, err = UseAuthority(t.Context(), CAOptions{Dir: founder, Do: "import", File: key})
	refused("bad: a key that others may write", err, control.CodeFailed, "chmod go-w")
	if err := os.Chmod(key, 0o600); err != nil {
		t.Fatal(err)
	}
	answer, err := sign(founder, key, request.Text)
	if err != nil {
		t.Fatal(err)
	}

	foreign, err := sign(other, "", request.Text)
	if err != nil {
		t.Fatal(err)
	}
	certificate := func(text []byte) string {
		return string(text[:strings.Index(string(text), "-----BEGIN MESHBAN MESH SECRETS")])
	}
	secrets := strings.TrimPrefix(string(answer.Text), certificate(answer.Text))
	for name, text := range map[string]string{
		"of another mesh": certificate(foreign.Text) + secrets,
		"holds no":        secrets,
	} {
		_, err := Join(t.Context(), JoinOptions{Dir: member, Certificate: []byte(text)})
		refused("bad: "+name, err, control.CodeFailed, name)
	}
	thief := t.TempDir()
	if _, err := Request(t.Context(), JoinOptions{Dir: thief, Name: "web4"}); err != nil {
		t.Fatal(err)
	}
	_, err = Join(t.Context(), JoinOptions{Dir: thief, Certificate: answer.Text})
	refused("bad: for another key", err, control.CodeFailed, "of another node")

	res, err := Join(t.Context(), JoinOptions{Dir: member, Certificate: answer.Text, Join: []string{"192.0.2.1:7946"}})
	if err != nil || res.Name != "web4" || len(res.Join) != 1 {
		t.Fatalf("%+v, %v", res, err)
	}
	keys, err := statedir.Dir(member).Keys()
	if err != nil || keys.Certificate.Name != "web4" || !keys.Authority.IsZero() || keys.Certificate.ID() != keys.Identity.ID() {
		t.Errorf("keys %+v, %v", keys, err)
	}
	if b, err := os.ReadFile(statedir.Dir(member).Config()); err != nil || !strings.Contains(string(b), "web4") || !strings.Contains(string(b), "192.0.2.1") {
		t.Errorf("config %s, %v", b, err)
	}
	_, err = Request(t.Context(), JoinOptions{Dir: founder})
	if err != nil {
		t.Errorf("a mesh of one may be given up: %v", err)
	}

	// The key does not move while an agent runs.
	release, err := statedir.Dir(founder).Lock()
	if err != nil {
		t.Fatal(err)
	}
	_, err = UseAuthority(t.Context(), CAOptions{Dir: founder, Do: "import", File: key})
	refused("bad: the agent runs", err, control.CodeFailed, "stop it first")
	if err := release(); err != nil {
		t.Fatal(err)
	}
	if _, err := UseAuthority(t.Context(), CAOptions{Dir: founder, Do: "import", File: key}); err != nil {
		t.Fatal(err)
	}
	if _, err := sign(founder, "", request.Text); err != nil {
		t.Errorf("after the key is back: %v", err)
	}
}
