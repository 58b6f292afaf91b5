//go:build linux && netns

package test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/meshban/meshban/test/rig"
)

// ociConfig is what is read of an image's config.
type ociConfig struct {
	Config struct {
		Entrypoint, Cmd, Env []string
	}
}

// blob reads a JSON object of an image layout by its digest.
func blob(t *testing.T, dir, digest string, into any) {
	t.Helper()
	check(t, json.Unmarshal([]byte(read(t, filepath.Join(dir, "blobs", strings.Replace(digest, ":", "/", 1)))), into))
}

// unpackImage unpacks the image for this machine into a folder and returns its config.
func unpackImage(t *testing.T, archive, root string) (c ociConfig) {
	t.Helper()
	dir := t.TempDir()
	output(t, "tar", "-C", dir, "-xf", archive)
	type descriptor struct {
		Digest   string
		Platform struct{ Architecture string }
	}
	var index struct{ Manifests []descriptor }
	check(t, json.Unmarshal([]byte(read(t, filepath.Join(dir, "index.json"))), &index))
	for _, m := range index.Manifests {
		if m.Platform.Architecture != runtime.GOARCH {
			continue
		}
		var manifest struct {
			Config descriptor
			Layers []descriptor
		}
		blob(t, dir, m.Digest, &manifest)
		blob(t, dir, manifest.Config.Digest, &c)
		for _, l := range manifest.Layers {
			output(t, "tar", "-C", root, "-xzf", filepath.Join(dir, "blobs", strings.Replace(l.Digest, ":", "/", 1)))
		}
		return c
	}
	t.Fatalf("no image for %s in %+v", runtime.GOARCH, index)
	return c
}

// bundle writes what crun starts: the image's program, in the host's network, as container engines start it.
func bundle(t *testing.T, dir string, image ociConfig) {
	t.Helper()
	caps := []string{"CAP_NET_ADMIN", "CAP_NET_RAW"}
	spec := map[string]any{
		"ociVersion": "1.0.0",
		"root":       map[string]any{"path": "rootfs"},
		"process": map[string]any{
			"args": append(image.Config.Entrypoint, image.Config.Cmd...), "env": image.Config.Env, "cwd": "/", "noNewPrivileges": true,
			"capabilities": map[string]any{"bounding": caps, "effective": caps, "permitted": caps},
		},
		"mounts": []map[string]any{{"destination": "/proc", "type": "proc", "source": "proc"}, {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"}},
		"linux":  map[string]any{"namespaces": []map[string]any{{"type": "mount"}, {"type": "pid"}}},
	}
	text, err := json.Marshal(spec)
	check(t, err)
	check(t, os.WriteFile(filepath.Join(dir, "config.json"), text, 0o600))
}

// The image holds all that a node needs: started by crun, it drops packets.
func TestImage(t *testing.T) {
	t.Parallel()
	built := must(released())(t)
	m := newFleet(t, 1)
	n := m.nodes[0]
	must(n.Shell("mount -t cgroup2 cgroup2 /sys/fs/cgroup"))(t) // crun looks at it
	const dir = "/var/lib/bundle"
	root := n.Path(dir + "/rootfs")
	check(t, os.MkdirAll(root, 0o755))
	image := unpackImage(t, filepath.Join(built, "meshban-0.1.0.oci.tar"), root)
	bundle(t, n.Path(dir), image)
	said := ""
	_, err := n.StartDaemon(rig.Cmd{Argv: []string{"crun", "--root", "/run/crun", "--cgroup-manager=disabled", "run", "--bundle", dir, "demo"}}, machineLimit, func(*rig.Proc) error {
		r, err := n.Run("crun", "--root", "/run/crun", "exec", "demo", "/usr/sbin/meshban", "status")
		if said = r.Stdout; err == nil && r.Code != 0 {
			err = fmt.Errorf("status: exit code %d: %s", r.Code, r.Stderr)
		}
		return err
	})
	check(t, err)
	if !strings.Contains(said, "nftables") {
		t.Errorf("the node in the container says\n%s", said)
	}
	src := fresh()
	pairs := m.watchNode(t, src, n, rig.ClosedPort)
	if r := must(n.Run("crun", "--root", "/run/crun", "exec", "demo", "/usr/sbin/meshban", "ban", src.String()))(t); r.Code != 0 {
		t.Fatalf("%+v", r)
	}
	if _, err := pairs.Enforced(banLimit); err != nil {
		t.Error(err)
	}
}
