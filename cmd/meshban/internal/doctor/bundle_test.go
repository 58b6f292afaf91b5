package doctor

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/apikey"
	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/control/controltest"
	"github.com/meshban/meshban/cmd/meshban/internal/statedir"
)

func sha256Of(text string) []byte {
	sum := sha256.Sum256([]byte(text))
	return sum[:]
}

// unpack returns the files of a bundle, and all of them together.
func unpack(t *testing.T, data []byte) (files map[string]string, all string) {
	t.Helper()
	zip, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	files = map[string]string{}
	for r := tar.NewReader(zip); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files, all
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = string(text)
		all += string(text)
	}
}

// serve runs a made-up agent in dir until the test ends.
func serve(t *testing.T, dir string, agent control.Agent) *control.Client {
	t.Helper()
	path := filepath.Join(dir, control.SocketName)
	s, err := control.NewServer(control.ServerConfig{Agent: agent, Path: path})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	<-s.Ready()
	return control.NewClient(path)
}

// A bundle holds no key in any form, no token and, unless asked for, no address.
func TestBundleHoldsNoSecret(t *testing.T) {
	dir := t.TempDir()
	key := sha256.Sum256([]byte("a key"))
	forms := []string{
		string(key[:]), hex.EncodeToString(key[:]), strings.ToUpper(hex.EncodeToString(key[:])),
		base64.StdEncoding.EncodeToString(key[:]), base64.RawStdEncoding.EncodeToString(key[:]),
		base64.URLEncoding.EncodeToString(key[:]), base64.RawURLEncoding.EncodeToString(key[:]), "mb1-short",
		"https://ntfy.example/topic",
	}
	keys, err := apikey.Open(statedir.Dir(dir).APIKeys())
	if err != nil {
		t.Fatal(err)
	}
	secret, err := keys.Add(apikey.Key{Name: "firewall", May: []string{apikey.Read}, Rate: 1}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	kept, err := os.ReadFile(statedir.Dir(dir).APIKeys())
	hash := hex.EncodeToString(sha256Of(secret))
	if err != nil || !strings.Contains(string(kept), hash) {
		t.Fatalf("%v: the file of keys has no hash of the key: %s", err, kept)
	}
	forms = append(forms, secret, hash)
	for _, name := range []string{"node.key", "mesh.key", "ca.key"} {
		if err := os.WriteFile(filepath.Join(dir, name), key[:], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "hook.url"), []byte("https://ntfy.example/topic\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	agent := controltest.New()
	addrs := []string{"192.0.2.200", "2001:db8::77", "203.0.113.9"}
	for i, form := range forms[1:] { // who asks for trouble puts a key where people see it
		agent.Audited = append(agent.Audited, control.AuditEntry{What: "ban", Reason: form + " " + addrs[i%3] + ":22", Prefixes: control.Prefixes{netip.MustParsePrefix("2001:db8::77/128")}})
	}
	cfg := config.Default(dir)
	cfg.Allow = []config.Allowed{{Prefix: netip.MustParsePrefix("192.0.2.200/32")}, {Prefix: netip.MustParsePrefix("2001:db8::/32")}}
	cfg.Join = []string{"[2001:db8::77]:7946", "192.0.2.200:7946", "web2.example:7946"}
	cfg.Hooks = []config.Hook{{Name: "mail", Exec: []string{"/usr/bin/curl", "--user=me:hunter2"}}, {Name: "ops", Webhook: config.Webhook{URLFile: "/etc/meshban/ops.url", Body: "password=hunter2"}}}
	forms = append(forms, "hunter2")
	o := Options{Dir: dir, Config: cfg, Client: serve(t, dir, agent)}
	found := []Finding{{"ports", Bad, "TCP to ::ffff:203.0.113.9 does not arrive; at 11:02:11 key:2001:db8::77:", ""}}
	for _, addresses := range []bool{false, true} {
		var out bytes.Buffer
		if err := WriteBundle(t.Context(), &out, o, found, addresses, "1.2.3"); err != nil {
			t.Fatal(err)
		}
		files, all := unpack(t, out.Bytes())
		for _, name := range []string{"doctor.jsonl", "status.json", "members.jsonl", "meshban.yaml", "audit.jsonl", "log.txt", "versions.txt"} {
			if files["meshban/"+name] == "" {
				t.Errorf("the bundle has no %s, or it is empty", name)
			}
		}
		for _, form := range forms {
			if strings.Contains(all, form) {
				t.Errorf("the bundle holds %q", form)
			}
		}
		for _, a := range addrs {
			if strings.Contains(all, a) != addresses {
				t.Errorf("addresses %t: the bundle has %s: %t", addresses, a, !addresses)
			}
		}
		if addresses {
			continue
		}
		if strings.Contains(all, "192.0.2.") || strings.Contains(all, "2001:") {
			t.Errorf("a part of an address is left:\n%s", all)
		}
		doctor := files["meshban/doctor.jsonl"]
		if !strings.Contains(doctor, "11:02:11") || !strings.Contains(files["meshban/versions.txt"], "meshban 1.2.3") {
			t.Errorf("what is no address is changed: %s", doctor)
		}
		// 203.0.113.9 has the same name everywhere, also as an IPv6 address.
		_, rest, _ := strings.Cut(doctor, "TCP to ")
		name, _, _ := strings.Cut(rest, " ")
		if !strings.HasPrefix(name, "A") || !strings.Contains(files["meshban/audit.jsonl"], " "+name+":22") {
			t.Errorf("203.0.113.9 is %q in one file, and not so in the other", name)
		}
	}
}
