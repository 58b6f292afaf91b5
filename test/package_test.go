//go:build linux && netns

package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshban/meshban/test/rig"
)

// releaseLimit bounds a build of packages on a busy machine.
const releaseLimit = 10 * time.Minute

// release builds packages of the last commit by test/release into a folder; env narrows what is built.
func release(dir, version string, env ...string) error {
	cmd := exec.Command("timeout", fmt.Sprint(releaseLimit.Seconds()), "bash", "release", version, dir)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("test/release %s: %w\n%s", version, err, out)
	}
	return nil
}

// released returns the folder of all of 0.1.0, built once.
var released = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(filepath.Dir(program), "release")
	return dir, release(dir, "0.1.0")
})

// read returns a file's text.
func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	check(t, err)
	return string(text)
}

// output returns what a program prints.
func output(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return string(out)
}

// Two builds of a commit give the same bytes; every package has every file, and Debian's and rpm's tools accept theirs.
func TestRelease(t *testing.T) {
	t.Parallel()
	dir, other := must(released())(t), t.TempDir()
	sums := read(t, filepath.Join(dir, "SHA256SUMS"))
	check(t, release(other, "0.1.0"))
	if again := read(t, filepath.Join(other, "SHA256SUMS")); again != sums {
		t.Errorf("a second build gives\n%swant\n%s", again, sums)
	}
	for _, name := range []string{"meshban_0.1.0-1_amd64.deb", "meshban_0.1.0-1_arm64.deb", "meshban-0.1.0-1.x86_64.rpm", "meshban-0.1.0-1.aarch64.rpm",
		"meshban_0.1.0-r1_x86_64.apk", "meshban_0.1.0-r1_aarch64.apk", "meshban-0.1.0-1-x86_64.pkg.tar.zst", "meshban-0.1.0-1-aarch64.pkg.tar.zst",
		"meshban-0.1.0.oci.tar", "meshban-0.1.0-amd64.cdx.json", "meshban-0.1.0-arm64.cdx.json"} {
		if !strings.Contains(sums, "  "+name+"\n") {
			t.Errorf("no %s in\n%s", name, sums)
		}
	}
	if n := strings.Count(sums, "\n"); n != 11 {
		t.Errorf("%d files:\n%s", n, sums)
	}

	deb := filepath.Join(dir, "meshban_0.1.0-1_"+runtime.GOARCH+".deb")
	tree := t.TempDir()
	output(t, "dpkg-deb", "-x", deb, tree)
	said := output(t, tree+"/usr/sbin/meshban", "version")
	commit := strings.TrimSpace(output(t, "git", "-c", "safe.directory=*", "rev-parse", "--short=12", "HEAD"))
	if !strings.Contains(said, "v0.1.0") || !strings.Contains(said, commit+" ") {
		t.Errorf("the program says %q, want v0.1.0 and %s", said, commit)
	}
	if text := read(t, tree+"/usr/sbin/meshban"); strings.Contains(text, os.TempDir()+"/tmp.") || strings.Contains(text, "debug_info") {
		t.Error("the program has paths of the machine that built it, or what a debugger reads")
	}
	for _, path := range []string{"usr/lib/systemd/system/meshban.service", "usr/lib/systemd/system/meshban-sets.service", "usr/lib/sysusers.d/meshban.conf",
		"etc/logrotate.d/meshban", "usr/share/bash-completion/completions/meshban", "usr/share/zsh/vendor-completions/_meshban",
		"usr/share/fish/vendor_completions.d/meshban.fish", "usr/share/man/man1/meshban.1.gz", "usr/share/man/man5/meshban.yaml.5.gz",
		"usr/share/doc/meshban/copyright", "usr/share/doc/meshban/changelog.gz", "usr/share/doc/meshban/changelog.Debian.gz", "usr/share/doc/meshban/licenses.gz"} {
		if info, err := os.Stat(filepath.Join(tree, path)); err != nil || info.Size() == 0 || info.Mode().Perm() != 0o644 {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	if licenses := output(t, "zcat", tree+"/usr/share/doc/meshban/licenses.gz"); !strings.Contains(licenses, "==> github.com/hashicorp/memberlist ") || !strings.Contains(licenses, "==> Go go1.") {
		t.Error("licenses.gz lacks those of memberlist or Go")
	}
	if parts := read(t, filepath.Join(dir, "meshban-0.1.0-amd64.cdx.json")); !strings.Contains(parts, `"CycloneDX"`) || !strings.Contains(parts, "pkg:golang/github.com/hashicorp/memberlist@v") {
		t.Error("the list of parts lacks memberlist")
	}
	output(t, "lintian", "--allow-root", "--fail-on", "error,warning", deb)

	rpm := filepath.Join(dir, "meshban-0.1.0-1."+map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]+".rpm")
	root := t.TempDir()
	output(t, "rpm", "--root", root, "--initdb")
	output(t, "rpm", "--root", root, "--nodeps", "--noscripts", "-i", rpm)
	output(t, "rpm", "--root", root, "--nodeps", "--noscripts", "-V", "meshban")
	output(t, "rpm", "--root", root, "--nodeps", "--noscripts", "-e", "meshban")
	if left := output(t, "find", root, "-name", "*meshban*"); left != "" {
		t.Errorf("rpm -e leaves\n%s", left)
	}
}

// install installs a package as apt does once it has fetched it, and returns what dpkg says.
func (n *node) install(t testing.TB, dir string) string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, "*_"+runtime.GOARCH+".deb"))
	if err != nil || len(all) != 1 {
		t.Fatalf("%v, %v", all, err)
	}
	name := filepath.Base(all[0])
	if _, err := os.Stat(n.Path("/root/" + name)); err != nil {
		check(t, copyFile(all[0], n.Path("/root/"+name)))
	}
	r := must(n.Run("dpkg", "-i", "/root/"+name))(t)
	t.Logf("%s# dpkg -i %s\n%s%s", n.Name, name, r.Stdout, r.Stderr)
	if r.Code != 0 {
		t.Fatalf("%s: dpkg -i %s: exit code %d", n.Name, name, r.Code)
	}
	return r.Stdout + r.Stderr
}

// Debian's package on two machines: installed, set up, upgraded, removed, installed again, purged.
func TestPackage(t *testing.T) {
	t.Parallel()
	before, now := t.TempDir(), must(released())(t)
	check(t, release(before, "0.0.9", "ARCHES="+runtime.GOARCH, "PACKAGERS=deb"))
	m := bootMachines(t, 2)
	web1, web2 := m.nodes[0], m.nodes[1]
	web1.Name, web2.Name = "web1", "web2"

	// Nothing runs before init or join, and nothing has failed.
	if said := web1.install(t, before); !strings.Contains(said, "next: meshban init, or meshban join TOKEN") {
		t.Errorf("dpkg does not say what is next: %s", said)
	}
	if got := web1.unit(t, "ActiveState") + " " + web1.unit(t, "UnitFileState"); got != "inactive enabled" {
		t.Errorf("after the installation the unit is %q", got)
	}
	lines := readmeCommands(t, "With the package, four commands a node")
	if lines[0] != "apt install ./meshban_0.1.0-1_amd64.deb" { // install has done that
		t.Errorf("README.md begins with %s", lines[0])
	}
	web1.types(t, "! meshban status", "getent group meshban")
	web1.types(t, lines[1:]...)
	web1.types(t, `test -z "$(systemctl --failed --no-legend)"`)

	// web2 had been set up by hand. The package says what hides its unit, and setup takes that away.
	token := strings.TrimSpace(web1.run(t, "invite"))
	web2.types(t, "install -m 755 meshban /usr/local/sbin/", "meshban join "+token+" --name web2",
		"meshban setup systemd && systemctl daemon-reload && systemctl enable --now meshban")
	said := web2.install(t, now)
	for _, want := range []string{"/etc/systemd/system/meshban.service hides the unit", "/etc/systemd/system/meshban-sets.service hides the unit", "/usr/local/sbin/meshban hides /usr/sbin/meshban"} {
		if !strings.Contains(said, want) {
			t.Errorf("dpkg does not say %q: %s", want, said)
		}
	}
	web2.types(t, "rm /usr/local/sbin/meshban", "/usr/sbin/meshban setup systemd", "systemctl daemon-reload", "systemctl reenable meshban", "systemctl restart meshban",
		"test ! -e /etc/systemd/system/meshban.service")
	if path := web2.unit(t, "FragmentPath"); !strings.HasSuffix(path, "/lib/systemd/system/meshban.service") {
		t.Errorf("the unit is %s", path)
	}
	m.inSync(t, machineLimit)

	// An upgrade leaves no gap, and the new program runs.
	src := fresh()
	pairs := m.watch(t, src)
	web2.run(t, "ban", src.String())
	dropped := rig.Last(must(pairs.Enforced(machineLimit))(t))
	pid := web1.unit(t, "MainPID")
	web1.install(t, now)
	web1.unitIs(t, "ActiveState", "active")
	if again := web1.unit(t, "MainPID"); again == pid {
		t.Error("the upgrade has not restarted the agent")
	}
	m.inSync(t, machineLimit)
	if text := web1.run(t, "status", "--json"); !strings.Contains(text, `"v0.1.0"`) {
		t.Errorf("after the upgrade: %s", text)
	}

	// Removed, the state and the bans stay; installed again, it is the node that it was.
	id := web1.status(t).ID
	web1.types(t, "dpkg --remove meshban", "test ! -e /usr/sbin/meshban", "test -e "+stateDir+"/mesh.key")
	web1.install(t, now)
	web1.unitIs(t, "ActiveState", "active")
	if got := web1.status(t).ID; got != id {
		t.Errorf("the node is %s after it was installed again, and was %s", got, id)
	}
	m.inSync(t, machineLimit)
	for _, p := range pairs {
		if w := p.Count(dropped, time.Now()); w.Answered > 0 || w.Sent == 0 {
			t.Errorf("%v: %d of %d probes were answered over upgrade and removal", p, w.Answered, w.Sent)
		}
	}

	// A purge takes all away, but for the authority's key, which nobody can make again.
	begin := time.Now()
	web1.types(t, "dpkg --purge meshban")
	web2.types(t, "dpkg --purge meshban")
	open(t, pairs, begin, machineLimit)
	web1.leaves(t, stateDir+"\n"+stateDir+"/ca.key\n")
	web2.leaves(t, "")
}

// leaves checks that nothing of meshban is on the machine but these files.
func (n *node) leaves(t *testing.T, files string) {
	t.Helper()
	for look, want := range map[string]string{
		// The group stays, as Debian has it.
		"find / -xdev -name '*meshban*' ! -path '/root/*' ! -path '/usr/share/doc/*' ! -path '/var/lib/systemd/*' | sort": strings.SplitAfter(files, "\n")[0],
		"find " + stateDir + " | sort || true":       files,
		"nft list ruleset | grep -i meshban || true": "",
		"iptables-save | grep -i meshban || true":    "",
		"ipset list -n": "",
		"systemctl --all --plain --no-legend list-units 'meshban*'": "",
		"systemctl --failed --plain --no-legend":                    "",
		"fail2ban-client status | grep meshban || true":             "",
		"dpkg -l meshban 2>&1 | grep -E '^(ii|rc)' || true":         "",
		"ls -A /etc/systemd/system/*.wants | grep meshban || true":  "",
	} {
		if got := must(n.Shell(look))(t); got != want {
			t.Errorf("%s: %s: %q, want %q", n.Name, look, got, want)
		}
	}
}
