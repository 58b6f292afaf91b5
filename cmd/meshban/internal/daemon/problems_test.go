package daemon

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/ownfile"
	"github.com/meshban/meshban/logsrc"
)

// A later problem does not hide one of another culprit, up to a bound, and each disappears after its time.
func TestProblemsNameEachCulprit(t *testing.T) {
	t.Parallel()
	p := newProblems()
	for i := range 6 {
		p.add("flood", fmt.Sprint("address ", i), "")
	}
	p.add("flood", "address 3", "")
	p.set("clock", "is ahead", "set it")
	want := []string{"clock: is ahead; set it", "flood: address 3", "flood: address 5", "flood: address 4", "flood: address 2"}
	if got := p.list(time.Now()); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	old := p.byKind["flood"]
	old[len(old)-1].at = time.Now().Add(-2 * problemsKept)
	if got := p.list(time.Now()); !slices.Equal(got, want[:4]) {
		t.Errorf("later %q, want %q", got, want[:4])
	}
	if got := p.list(time.Now().Add(2 * problemsKept)); len(got) != 0 || len(p.byKind) != 0 {
		t.Errorf("much later %q", got)
	}
	p.add("flood", "address 1", "")
	if p.clear("flood"); len(p.list(time.Now())) != 0 {
		t.Error("not cleared")
	}
}

// A node whose join list reaches nobody says so for as long as that lasts.
func TestStatusTellsThatNobodyAnswers(t *testing.T) {
	t.Parallel()
	web1 := first(t, "web1")
	web2 := web1.join(t, "web2")
	web2.stop()
	web1.stop()
	cfg := web2.cfg
	cfg.Join = []string{"127.0.0.1:1"} // nobody listens there
	web2 = start(t, web2.home, cfg)
	told := func() bool {
		s, err := web2.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(s.Problems, func(p string) bool {
			return strings.HasPrefix(p, "join: nobody on the join list answers: 127.0.0.1:1 (connection refused); ")
		})
	}
	until(t, "the problem is told", told)
	web1 = start(t, web1.home, web1.cfg)
	if err := web2.mesh.SetJoin([]string{web1.mesh.Addr().String()}); err != nil {
		t.Fatal(err)
	}
	until(t, "the problem is gone", func() bool { return !told() })
}

// saysItself lists texts that contain their remedy; the tests of the functions that make them check it.
var saysItself = []string{
	"text", "detail", "held", "heldThere", "refusedThere", "d.nameNodes(f.Text)", "d.noneProblem()", "m.UDPTrouble(d.names.of(ban.Origin(m.ID)))",
	"keyProblem(d.mesh.KeyStatus(), d.names)",
}

// No problem is reported without a remedy, here or in the mesh, and `meshban help troubleshoot` has each kind.
func TestEveryProblemHasARemedy(t *testing.T) {
	// The position of the remedy among the arguments of what reports problems.
	remedyAt := map[string]int{"problems.set": 2, "problems.setFor": 2, "problems.add": 2, "problem": 2, "problems.report": 4, "warn": 3}
	help, err := os.ReadFile("../cli/help/troubleshoot.txt")
	if err != nil {
		t.Fatal(err)
	}
	isHelped := func(at token.Position, kind ast.Expr) {
		if lit, ok := kind.(*ast.BasicLit); ok && !strings.Contains(string(help), strings.Trim(lit.Value, `"`)) {
			t.Errorf("%v: help troubleshoot does not have %s", at, lit.Value)
		}
	}
	found := 0
	for _, dir := range []string{".", "../../../../mesh"} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		set := token.NewFileSet()
		for _, name := range files {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			file, err := parser.ParseFile(set, name, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(file, func(n ast.Node) bool {
				if v, ok := n.(*ast.ValueSpec); ok && (v.Names[0].Name == "kind" || strings.HasPrefix(v.Names[0].Name, "Problem")) {
					isHelped(set.Position(v.Pos()), v.Values[0])
				}
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				called := strings.Split(types.ExprString(call.Fun), ".")
				at, ok := remedyAt[strings.Join(called[max(0, len(called)-2):], ".")]
				if !ok {
					at, ok = remedyAt[called[len(called)-1]]
				}
				if !ok || len(call.Args) <= at {
					return true
				}
				found++
				isHelped(set.Position(call.Pos()), call.Args[0])
				what, remedy := types.ExprString(call.Args[at-1]), types.ExprString(call.Args[at])
				if remedy == `""` && !slices.Contains(saysItself, what) {
					t.Errorf("%v: the problem %s has no remedy", set.Position(call.Pos()), what)
				}
				return true
			})
		}
	}
	if found < 50 {
		t.Errorf("only %d problems were found", found)
	}
}

// A file that cannot be used is named, with the cause in plain words and what to type.
func TestProblemsOfFiles(t *testing.T) {
	t.Parallel()
	n := first(t, "web1")
	file := n.cfg.Lines.File
	other := "name another one with `lines: {file: PATH}` in meshban.yaml and restart the agent"
	for _, tt := range []struct {
		name string
		err  error
		want string
	}{
		{"a full disk", &fs.PathError{Op: "write", Path: file, Err: syscall.ENOSPC}, ": no space left on device; make room on the file system: `df -h " + filepath.Dir(file) + "`; or " + other},
		{"read-only", &fs.PathError{Op: "open", Path: file, Err: syscall.EROFS}, ": read-only file system; the file system is mounted read-only: `findmnt -T "},
		{"of another user", &fs.PathError{Op: "open", Path: file, Err: syscall.EACCES}, ": permission denied; `ls -ld " + filepath.Dir(file) + " " + file + "` shows who may use it; or " + other},
		{"missing", fmt.Errorf("follow %q: %w", file, &fs.PathError{Op: "open", Path: file, Err: syscall.ENOENT}), ": no such file or directory; `mkdir -p "},
		{"a folder", fmt.Errorf("follow %q: %w", file, fs.ErrInvalid), ": invalid argument; move away what is there (`ls -ld " + file + "`), or " + other},
	} {
		if text := withRemedy(n.lineFileProblem("is not read", tt.err)); !strings.HasPrefix(text, file+" is not read: ") || !strings.Contains(text, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, text, tt.want)
		}
	}
	for err, want := range map[error]string{syscall.EIO: "the disk fails: `findmnt -T /s` names it", syscall.EINVAL: "look at its disk: `findmnt -T /s` names it"} {
		if got := fileRemedy("/s/store.db", &fs.PathError{Op: "write", Path: "/s/store.db", Err: err}); !strings.HasPrefix(got, want) {
			t.Errorf("%v: %q, want %q", err, got, want)
		}
	}
	refused := &ownfile.Error{Path: "/s/audit.jsonl", Problem: "is a folder", Remedy: "move it away"}
	if got := withRemedy(cause(refused), fileRemedy("/s/audit.jsonl", refused)); !strings.HasSuffix(got, "folder: move it away") {
		t.Errorf("a refused file: %q", got)
	}
	// The same in a running agent: the line file becomes a folder.
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(file, 0o700); err != nil {
		t.Fatal(err)
	}
	until(t, "the line file's problem is told", func() bool {
		return n.problem(t, "line file: "+file+" is not read: not a regular file; move away what is there (`ls -ld "+file+"`), or "+other)
	})
	if err := n.emitter.Emit(time.Now(), []logsrc.Emission{{Origin: "web2", Addr: n.mesh.Addr().Addr()}}); err == nil {
		t.Error("a line was written into a folder")
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	until(t, "its problem is over, or says how to make it", func() bool {
		return !n.problem(t, "line file: ") || n.problem(t, "`mkdir -p "+filepath.Dir(file)+" && touch "+file+"` creates it")
	})
}
