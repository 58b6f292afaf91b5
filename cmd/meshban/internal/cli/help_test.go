package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestHelp compares every help text with its golden file; -update writes them.
func TestHelp(t *testing.T) {
	verbs := newCommand(fakeActions(), nil, nil, nil).verbs()
	cases := map[string][]string{"main": {"--help"}}
	for _, v := range verbs {
		if !v.hidden {
			cases[v.name] = []string{v.name, "--help"}
		}
	}
	for name, args := range cases {
		t.Run(name, func(t *testing.T) {
			got := printed(t, 0, args...)
			for line := range strings.SplitSeq(got, "\n") {
				if len(line) > helpWidth+12 || strings.TrimRight(line, " ") != line {
					t.Errorf("too long, or blanks at the end: %q", line)
				}
			}
			golden(t, filepath.Join("testdata", "help", name+".txt"), got)
			if again := printed(t, 0, slices.Concat([]string{"help"}, args[:len(args)-1])...); again != got {
				t.Errorf("`meshban help` says something else:\n%s", again)
			}
		})
	}
	files, err := os.ReadDir(filepath.Join("testdata", "help"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if _, ok := cases[strings.TrimSuffix(f.Name(), ".txt")]; !ok {
			t.Errorf("%s belongs to no command", f.Name())
		}
	}
}

// Every command has an example, and every example uses only what exists.
func TestExamples(t *testing.T) {
	verbs := newCommand(fakeActions(), nil, nil, nil).verbs()
	if texts, err := os.ReadDir("help/commands"); err != nil || len(texts) != len(verbs) {
		t.Errorf("%d texts of %d commands (%v)", len(texts), len(verbs), err)
	}
	for _, v := range verbs {
		long, examples := v.text()
		if long == "" || !strings.Contains(examples, programName+" "+v.name) {
			t.Errorf("%s has no text, or no example", v.name)
		}
		for line := range strings.SplitSeq(examples, "\n") {
			for part := range strings.FieldsFuncSeq(line, func(r rune) bool { return strings.ContainsRune("|&>;", r) }) {
				_, call, ok := strings.Cut(part, programName+" ")
				if !ok {
					continue
				}
				if _, err := arrange(strings.Fields(call), verbs); err != nil {
					t.Errorf("example %q: %v", line, err)
				}
			}
		}
	}
}

// printed runs a command in this process and returns its stdout.
func printed(t *testing.T, code int, args ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	if got := newCommand(fakeActions(), strings.NewReader(""), &out, &errs).run(t.Context(), args); got != code {
		t.Fatalf("%q: exit code %d, want %d\n%s", args, got, code, &errs)
	}
	return out.String()
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("differs from %s (go test -run %s -update writes it):\n%s", path, t.Name(), got)
	}
}
