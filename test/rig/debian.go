//go:build linux && netns

package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const (
	// debianCache keeps packages of other Debian releases between runs.
	debianCache = "/var/cache/meshban-test"
	// debianKeyring holds the keys that may sign a release's index.
	debianKeyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
	// downloadLimit bounds one run of apt-get: a release's index is 10 MB.
	downloadLimit = 5 * time.Minute
)

// DebianPackage returns the .deb file of a package of a Debian release such as "trixie". It comes from the mirror that
// this machine's apt uses and is verified by apt; the machine's own package lists stay unchanged.
func DebianPackage(release, name string) ([]byte, error) {
	path := filepath.Join(debianCache, release, name+".deb")
	if deb, err := os.ReadFile(path); err == nil {
		return deb, nil
	}
	deb, err := download(release, name)
	if err != nil {
		return nil, fmt.Errorf("get %s of Debian %s: %w", name, release, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	part, err := os.CreateTemp(filepath.Dir(path), name)
	if err != nil {
		return nil, err
	}
	_, err = part.Write(deb)
	if err = errors.Join(err, part.Close()); err != nil {
		return nil, errors.Join(err, os.Remove(part.Name()))
	}
	return deb, os.Rename(part.Name(), path) // atomically, because another run may read it
}

// download has apt fetch a package, using package lists in a scratch folder.
func download(release, name string) ([]byte, error) {
	dir, err := os.MkdirTemp(scratch, "apt-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	mirror, err := debianMirror()
	if err != nil {
		return nil, err
	}
	sources := filepath.Join(dir, "sources.list")
	source := fmt.Sprintf("deb [signed-by=%s] %s %s main\n", debianKeyring, mirror, release)
	for path, text := range map[string]string{sources: source, filepath.Join(dir, "status"): ""} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	for _, sub := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	options := []string{
		"-q", "-o", "Dir::State=" + dir, "-o", "Dir::State::status=" + dir + "/status", "-o", "Dir::Cache=" + dir + "/cache",
		"-o", "Dir::Etc::sourcelist=" + sources, "-o", "Dir::Etc::sourceparts=-", "-o", "APT::Sandbox::User=root",
		"-o", "Acquire::Languages=none", "-o", "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false", "-o", "Acquire::Retries=3",
	}
	for _, args := range [][]string{{"update"}, {"download", name}} {
		if _, err := aptGet(dir, append(options, args...)...); err != nil {
			return nil, err
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, name+"_*.deb"))
	if err != nil || len(files) != 1 {
		return nil, fmt.Errorf("apt-get download left %q: %w", files, err)
	}
	return os.ReadFile(files[0])
}

// debianMirror returns the address of the first Debian archive in this machine's apt configuration.
func debianMirror() (string, error) {
	out, err := aptGet("/", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages")
	if err != nil {
		return "", err
	}
	for mirror := range strings.FieldsSeq(out) {
		if strings.HasSuffix(strings.TrimSuffix(mirror, "/"), "/debian") {
			return mirror, nil
		}
	}
	return "", errors.New("no source of this machine's apt is a mirror of Debian")
}

// aptGet runs apt-get in dir.
func aptGet(dir string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), downloadLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "apt-get", args...)
	var out, talk bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = dir, &out, &talk, time.Second
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("apt-get %s: %w: %s", args[len(args)-1], err, bytes.TrimSpace(talk.Bytes()))
	}
	return out.String(), nil
}

// Fail2banOf replaces the machine's fail2ban with that of a Debian release, on this host alone.
func (h *Host) Fail2banOf(release string) error {
	deb, err := DebianPackage(release, "fail2ban")
	if err != nil {
		return err
	}
	if err := h.WriteFile("/root/fail2ban.deb", string(deb)); err != nil {
		return err
	}
	_, err = h.Shell("rm -rf /etc/fail2ban /usr/lib/python3/dist-packages/fail2ban; " +
		"dpkg-deb --fsys-tarfile /root/fail2ban.deb | tar -x --keep-directory-symlink -C /") // older packages have files in /lib, a link here
	return err
}
