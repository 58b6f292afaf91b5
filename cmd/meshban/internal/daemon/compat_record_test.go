package daemon

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/apikey"
	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/statedir"
	"github.com/meshban/meshban/mesh/pki"
)

// recordRelease has agents of this version write testdata/v0.1.0.
func recordRelease(t *testing.T) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	const month = 30 * 24 * time.Hour
	web1 := first(t, "web1")
	web2 := web1.joinWith(t, "web2", control.InviteRequest{Caps: control.Caps{Rate: 600, NoImport: true}})
	web3 := web1.join(t, "web3")
	web1.tighten(func(c *config.Config) { smallBreaker(c); c.Escalation.Factor = 2 })

	web1.ban(t, month, "192.0.2.1/32", "2001:db8::/48")
	web2.ban(t, month, "192.0.2.1/32", "192.0.2.2/32")
	web3.ban(t, month, "192.0.2.3/32")
	_, err := web1.Ban(t.Context(), control.BanRequest{Addrs: control.Prefixes{netip.MustParsePrefix("192.0.2.4/32")}, For: control.Duration(month), Ports: "22/tcp,8000-8010", Source: "import:drop", Reason: "listed"})
	check(err)
	web2.write(t, "<13>Nov 22 11:02:11 root[7]: HOST 192.0.2.5 PORT 22 bantime=2592000 jail=sshd failures=5\n")
	until(t, "web1 has the line's ban", func() bool { return web1.enforces(t, "192.0.2.5/32") })
	web2.storm(t, 1, 30, "cli") // more than web1 takes at once
	until(t, "web1 holds some", func() bool { return web1.waits() > 0 })
	web1.decide(t, control.ActionDrop, "11.1.0.28/32")
	_, err = web1.Unban(t.Context(), control.UnbanRequest{Prefixes: control.Prefixes{netip.MustParsePrefix("192.0.2.2/32")}, Reason: "a mistake"})
	check(err)
	_, err = web2.Allow(t.Context(), control.AllowRequest{Prefixes: control.Prefixes{netip.MustParsePrefix("198.51.100.0/28")}, For: control.Duration(month), Reason: "our office"})
	check(err)
	_, err = web1.Revoke(t.Context(), control.RevokeRequest{Node: "web3", Reason: "stolen"})
	check(err)
	_, err = web1.Rotate(t.Context(), control.RotateRequest{What: control.WhatMeshKey})
	check(err)
	until(t, "the new key on both", func() bool {
		return web1.meshStatus().KeyGeneration == 1 && web2.meshStatus().KeyGeneration == 1 && web2.meshStatus().InSync > 1
	})
	_, err = web2.Pause(t.Context(), control.PauseRequest{For: control.Duration(time.Hour), Reason: "maintenance"})
	check(err)
	_, err = web1.AddKey(t.Context(), control.AddKeyRequest{Key: apikey.Key{Name: "bouncer", May: []string{apikey.Read}, Rate: 60}})
	check(err)
	token, err := web1.Invite(t.Context(), control.InviteRequest{Uses: 5, For: control.Duration(24 * time.Hour)})
	check(err)
	for _, n := range []*node{web3, web1, web2} {
		n.stop()
	}

	files := map[string][]byte{"README": []byte("What agents of v0.1.0 wrote. The keys in these files are for tests alone: everybody has them.\n"),
		"token": []byte(token.Token + "\n"), "recorded": []byte(time.Now().UTC().Add(time.Minute).Format(time.RFC3339) + "\n")}
	web4 := statedir.Dir(t.TempDir())
	request, err := web4.Request("web4", true)
	check(err)
	_, answer, err := web1.home.Sign(request.Text(), "", pki.DefaultCaps(), time.Now())
	check(err)
	files["web4/request"], files["web4/answer"] = request.Text(), answer.Text()
	export := filepath.Join(t.TempDir(), "ca.key")
	check(web1.home.Export(export, false))
	files["export/ca.key"] = []byte(text(t, export))
	for name, dir := range map[string]statedir.Dir{"web1": web1.home, "web2": web2.home, "web4": web4} {
		for _, file := range []string{"meshban.yaml", "node.key", "node.cert", "mesh.key", "ca.key", "ca.exported", "store.db", "audit.jsonl", "api.keys", "newbans.log"} {
			if b, err := os.ReadFile(filepath.Join(string(dir), file)); err == nil {
				files[name+"/"+file] = b
			} else if !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
		}
	}
	check(os.RemoveAll(released))
	for name, content := range files {
		path := filepath.Join(released, name)
		check(os.MkdirAll(filepath.Dir(path), 0o755))
		check(os.WriteFile(path, content, 0o644))
	}
}
