package test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	module = "github.com/meshban/meshban"
	daemon = module + "/cmd/meshban/internal/daemon"

	// maxFileLines is the length above which a file must be split.
	maxFileLines = 600
)

// verbs turns argv into a request and the answer into text; what changes this machine is in package node.
const verbs = module + "/cmd/meshban/internal/cli"

// replica is the replication core of mesh.
const replica = module + "/mesh/internal/replica"

// rooms are the four packages that never import one another.
var rooms = []string{module + "/ban", module + "/mesh", module + "/fw", module + "/logsrc"}

// goPackage is what go list prints about a package of this module.
type goPackage struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
	Deps                               []string
}

// own returns everything that the package's own files import, including tests.
func (p goPackage) own() []string { return slices.Concat(p.Imports, p.TestImports, p.XTestImports) }

// listPackages returns the module's packages on every system that we build for;
// on Linux, with the tag of the system tests.
func listPackages(t *testing.T) []goPackage {
	t.Helper()
	var all []goPackage
	for _, target := range []string{"linux", "darwin", "freebsd"} {
		args := []string{"list", "-json=ImportPath,Imports,TestImports,XTestImports,Deps"}
		if target == "linux" {
			args = append(args, "-tags", "netns")
		}
		cmd := exec.Command("go", append(args, "./...")...)
		cmd.Dir = ".."
		cmd.Env = append(os.Environ(), "GOOS="+target, "CGO_ENABLED=0")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("go list on %s: %v\n%s", target, err, &stderr)
		}
		for dec := json.NewDecoder(bytes.NewReader(out)); ; {
			var p goPackage
			err := dec.Decode(&p)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("go list on %s: %v", target, err)
			}
			all = append(all, p)
		}
	}
	return all
}

// within reports whether path is the package root or one below it.
func within(path, root string) bool { return path == root || strings.HasPrefix(path, root+"/") }

// hostile speaks memberlist as an attacker would, without package mesh's limits. Only mesh and it may import memberlist.
const hostile = module + "/test/hostile"

// onlyIn maps a library to the one package that may import it.
var onlyIn = map[string]string{
	"github.com/hashicorp/memberlist": module + "/mesh",
	"github.com/coreos/go-iptables":   module + "/fw",
	"github.com/urfave/cli":           module + "/cmd/meshban/internal/cli",
	"github.com/prometheus":           daemon,
}

// meshRooms are the packages below mesh, each with the packages of this module that it may import.
var meshRooms = map[string][]string{
	module + "/mesh/internal/wire":      nil,
	module + "/mesh/frame":              {module + "/mesh/internal/wire"},
	module + "/mesh/pki":                {module + "/mesh/internal/wire", module + "/mesh/frame"},
	module + "/mesh/internal/meshtest":  {module + "/mesh/frame", module + "/mesh/pki", module + "/mesh/internal/mlwire"},
	replica:                             {module + "/mesh/internal/wire", module + "/mesh/frame", module + "/mesh/pki"},
	module + "/mesh/internal/enrol":     {module + "/mesh/internal/wire", module + "/mesh/frame", module + "/mesh/pki"},
	module + "/mesh/internal/mlwire":    nil,
	module + "/mesh/internal/roster":    {module + "/mesh/internal/wire", module + "/mesh/frame", module + "/mesh/pki"},
	module + "/mesh/internal/meta":      {module + "/mesh/internal/wire", module + "/mesh/frame", module + "/mesh/pki"},
	module + "/mesh/internal/filter":    {module + "/mesh/internal/wire", module + "/mesh/frame", module + "/mesh/pki", module + "/mesh/internal/meta", module + "/mesh/internal/mlwire"},
	module + "/mesh/internal/rotate":    {module + "/mesh/frame", module + "/mesh/pki"},
	module + "/mesh/internal/spread":    {module + "/mesh/internal/wire", module + "/mesh/frame"},
	module + "/mesh/internal/transport": {module + "/mesh/internal/wire", module + "/mesh/frame"},
}

// impure are packages that a pure state machine does not import.
var impure = []string{"net", "net/netip", "os", "sync", "sync/atomic", "context", "log/slog"}

func TestImports(t *testing.T) {
	packages := listPackages(t)
	for _, room := range rooms {
		if !slices.ContainsFunc(packages, func(p goPackage) bool { return p.ImportPath == room }) {
			t.Errorf("no package %s", room)
		}
	}
	for _, p := range packages {
		for _, err := range importFaults(p) {
			t.Error(err)
		}
	}
}

// importFaults returns a package's violations of the rules.
func importFaults(p goPackage) []error {
	var errs []error
	for _, room := range rooms {
		if !within(p.ImportPath, room) {
			continue
		}
		for _, other := range rooms {
			if other == room {
				continue
			}
			// An external test may import two of them: the simulator of mesh enforces real bans.
			for _, dep := range slices.Concat(p.Deps, p.Imports, p.TestImports) {
				if within(dep, other) {
					errs = append(errs, fmt.Errorf("%s imports %s, directly or not", p.ImportPath, dep))
				}
			}
		}
	}
	var knows []string
	for _, room := range rooms {
		if slices.ContainsFunc(p.Imports, func(dep string) bool { return within(dep, room) }) {
			knows = append(knows, room)
		}
	}
	if len(knows) == len(rooms) && p.ImportPath != daemon {
		errs = append(errs, fmt.Errorf("%s imports ban, mesh, fw and logsrc: only the daemon may", p.ImportPath))
	}
	if within(p.ImportPath, module+"/mesh") && p.ImportPath != module+"/mesh" {
		may, known := meshRooms[p.ImportPath]
		if !known {
			errs = append(errs, fmt.Errorf("%s is not in the table of mesh's rooms", p.ImportPath))
		}
		for _, dep := range p.Imports {
			if within(dep, module) && !slices.Contains(may, dep) {
				errs = append(errs, fmt.Errorf("%s imports %s: it may import %v", p.ImportPath, dep, may))
			}
		}
	}
	if p.ImportPath == replica {
		for _, dep := range p.Imports {
			if slices.Contains(impure, dep) {
				errs = append(errs, fmt.Errorf("%s imports %s: it is a pure state machine", p.ImportPath, dep))
			}
		}
	}
	if p.ImportPath == verbs {
		for _, dep := range p.Imports {
			if within(dep, daemon) || within(dep, module+"/fw") || within(dep, module+"/logsrc") || within(dep, module+"/ban") {
				errs = append(errs, fmt.Errorf("%s imports %s: only package node may", p.ImportPath, dep))
			}
		}
	}
	for library, room := range onlyIn {
		for _, dep := range p.own() {
			if within(dep, library) && !within(p.ImportPath, room) && !(p.ImportPath == hostile && room == module+"/mesh") {
				errs = append(errs, fmt.Errorf("%s imports %s: only %s may", p.ImportPath, dep, room))
			}
		}
	}
	return errs
}

func TestImportFaults(t *testing.T) {
	for _, c := range []struct {
		name   string
		p      goPackage
		faults int
	}{
		{"ok: the daemon imports all four", goPackage{ImportPath: daemon, Imports: rooms}, 0},
		{"bad: main imports all four", goPackage{ImportPath: module + "/cmd/meshban", Imports: rooms}, 1},
		{"bad: mesh reaches ban through another", goPackage{ImportPath: module + "/mesh", Deps: rooms[:1]}, 1},
		{"bad: a test in fw imports mesh", goPackage{ImportPath: module + "/fw/x", TestImports: rooms[1:2]}, 1},
		{"ok: an external test in mesh imports ban", goPackage{ImportPath: module + "/mesh", XTestImports: rooms[:1]}, 0},
		{"ok: a frame is encoded", goPackage{ImportPath: module + "/mesh/frame", Imports: []string{module + "/mesh/internal/wire"}}, 0},
		{"bad: a frame knows the mesh", goPackage{ImportPath: module + "/mesh/frame", Imports: []string{module + "/mesh"}}, 1},
		{"bad: a room that is not in the table", goPackage{ImportPath: module + "/mesh/internal/attic"}, 1},
		{"ok: the core encodes", goPackage{ImportPath: replica, Imports: []string{module + "/mesh/internal/wire", "time"}}, 0},
		{"bad: the core knows the mesh", goPackage{ImportPath: replica, Imports: []string{module + "/mesh"}}, 1},
		{"bad: the core locks", goPackage{ImportPath: replica, Imports: []string{"sync", "net/netip"}}, 2},
		{"bad: memberlist in the daemon", goPackage{ImportPath: daemon, Imports: []string{"github.com/hashicorp/memberlist"}}, 1},
		{"ok: memberlist in mesh", goPackage{ImportPath: module + "/mesh", Imports: []string{"github.com/hashicorp/memberlist"}}, 0},
		{"ok: memberlist in the hostile member", goPackage{ImportPath: hostile, Imports: []string{"github.com/hashicorp/memberlist"}}, 0},
		{"bad: go-iptables in the hostile member", goPackage{ImportPath: hostile, Imports: []string{"github.com/coreos/go-iptables/iptables"}}, 1},
		{"bad: memberlist in another test", goPackage{ImportPath: module + "/test/rig", Imports: []string{"github.com/hashicorp/memberlist"}}, 1},
		{"bad: go-iptables in a test", goPackage{ImportPath: module + "/test", XTestImports: []string{"github.com/coreos/go-iptables/iptables"}}, 1},
		{"bad: the verbs import the daemon", goPackage{ImportPath: verbs, Imports: []string{daemon}}, 1},
		{"bad: cli in ban", goPackage{ImportPath: module + "/ban", Imports: []string{"github.com/urfave/cli/v2"}}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			if errs := importFaults(c.p); len(errs) != c.faults {
				t.Errorf("%v", errs)
			}
		})
	}
}

// top lists everything that must be at the top level of the repository; nothing else may.
var top = []string{"cmd", "mesh", "ban", "fw", "logsrc", "test", "go.mod", "go.sum", "README.md", "LICENSE",
	"CHANGELOG.md", ".gitignore", ".ci"}

// trackedFiles lists the files of the repository, from its top.
func trackedFiles(t *testing.T) []string {
	t.Helper()
	cmd := exec.Command("git", "-c", "safe.directory=*", "ls-files", "-z")
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("git ls-files: %v", err)
	}
	return strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
}

func TestTopLevel(t *testing.T) {
	seen := map[string]bool{}
	for _, name := range trackedFiles(t) {
		first, _, _ := strings.Cut(name, "/")
		if !seen[first] && !slices.Contains(top, first) {
			t.Errorf("%s does not belong at the top level", first)
		}
		seen[first] = true
	}
	for _, want := range top {
		if !seen[want] {
			t.Errorf("%s is missing at the top level", want)
		}
	}
}

func TestFileLength(t *testing.T) {
	for _, name := range trackedFiles(t) {
		if path.Ext(name) != ".go" {
			continue
		}
		f, err := os.Open(filepath.Join("..", name))
		if errors.Is(err, os.ErrNotExist) { // deleted, not yet committed
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		lines := 0
		for s := bufio.NewScanner(f); s.Scan(); {
			lines++
		}
		f.Close()
		if lines > maxFileLines {
			t.Errorf("%s has %d lines, more than %d", name, lines, maxFileLines)
		}
	}
}

// The replication core of mesh has no clock and no goroutine, so that a seed replays a fleet's history exactly.
func TestReplicationCore(t *testing.T) {
	files, err := filepath.Glob("../mesh/internal/replica/*.go")
	if err != nil {
		t.Fatal(err)
	}
	files = slices.DeleteFunc(files, func(name string) bool { return strings.HasSuffix(name, "_test.go") })
	if len(files) == 0 {
		t.Fatal("no files of the core")
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, bad := range []string{"time.Now(", "time.Since(", "time.Until(", "time.After(", "\tgo "} {
			if bytes.Contains(text, []byte(bad)) {
				t.Errorf("%s uses %q", name, strings.TrimSpace(bad))
			}
		}
	}
}
