package cli

import (
	"reflect"
	"strings"
	"testing"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

func TestArrange(t *testing.T) {
	verbs := newCommand(fakeActions(), nil, nil, nil).verbs()
	for _, c := range []struct {
		name, line string
		want       string // argv, or "help", "version", or the error
	}{
		{"ok: flag after the argument", "ban 192.0.2.7 --for 1h", "meshban ban --for=1h -- 192.0.2.7"},
		{"ok: flag between arguments", "ban 192.0.2.7 --for 1h 192.0.2.8", "meshban ban --for=1h -- 192.0.2.7 192.0.2.8"},
		{"ok: one dash", "ban -for=1h 192.0.2.7", "meshban ban --for=1h -- 192.0.2.7"},
		{"ok: global flag before", "--dir x list --json", "meshban --dir=x list --json --"},
		{"ok: global flag after", "list --json --dir=x", "meshban --dir=x list --json --"},
		{"ok: stdin", "ban - --for 1h", "meshban ban --for=1h -- -"},
		{"ok: value that looks like a flag", "ban 192.0.2.7 --reason --for", "meshban ban --reason=--for -- 192.0.2.7"},
		{"ok: all is an argument behind --", "ban -- --for", "meshban ban -- --for"},
		{"ok: empty value", "ban 192.0.2.7 --reason=", "meshban ban --reason= -- 192.0.2.7"},
		{"ok: repeated", "agent --join a --join b", "meshban agent --join=a --join=b --"},
		{"ok: help wins over the rest", "ban --nonsense --help --for", "help"},
		{"ok: version", "--version", "version"},
		{"bad: no such command", "bann", `"bann" is no command`},
		{"bad: empty command", " ", `"" is no command`},
		{"bad: no such flag", "ban --fro 1h", `ban has no flag "--fro"`},
		{"bad: flag of another command", "list --for 1h", `list has no flag "--for"`},
		{"bad: no value", "ban 192.0.2.7 --for", `--for needs a value`},
		{"bad: value of a toggle", "list --json=1", `--json takes no value`},
		{"bad: -- first", "-- ban", `a command comes before --`},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := strings.Split(c.line, " ")
			if c.line == " " {
				args = []string{""}
			}
			call, err := arrange(args, verbs)
			got := strings.Join(call.argv, " ")
			switch {
			case err != nil:
				got = err.Error()
				if control.AsError(err).Code != control.CodeUsage {
					t.Errorf("%v is no usage error", err)
				}
			case call.help:
				got = "help"
			case call.version:
				got = "version"
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// FuzzArrange: whatever is typed, urfave/cli gets a line that it reads as meant: known flags, then arguments.
func FuzzArrange(f *testing.F) {
	f.Add("ban\x00192.0.2.7\x00--for\x001h")
	f.Add("--dir\x00x\x00list\x00--json\x00--\x00-x")
	verbs := newCommand(fakeActions(), nil, nil, nil).verbs()
	f.Fuzz(func(t *testing.T, line string) {
		call, err := arrange(strings.Split(line, "\x00"), verbs)
		if err != nil || call.verb == nil || call.help {
			return
		}
		again, err := arrange(call.argv[1:], verbs)
		if err != nil || !reflect.DeepEqual(again.argv, call.argv) {
			t.Errorf("%q became %q and that %q, %v", line, call.argv, again.argv, err)
		}
	})
}

func TestNearest(t *testing.T) {
	words := []string{"ban", "unban", "list", "status", "members", "watch", "why"}
	for in, want := range map[string]string{
		"bna": "ban", "lsit": "list", "statsu": "status", "member": "members", "unbann": "unban", "whi": "why",
		"xyzzy": "", "": "", "b": "", strings.Repeat("list", 100): "",
	} {
		if got := config.Nearest(in, words); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// Every synonym leads to an existing command, and none hides one.
func TestSynonyms(t *testing.T) {
	verbs := newCommand(fakeActions(), nil, nil, nil).verbs()
	for word, name := range synonyms {
		if verbNamed(name, verbs) == nil || verbNamed(word, verbs) != nil {
			t.Errorf("%s -> %s", word, name)
		}
	}
}
