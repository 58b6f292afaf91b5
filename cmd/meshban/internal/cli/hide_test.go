package cli

import (
	"slices"
	"strings"
	"testing"
)

func TestTokensAreHiddenFromTheProcessList(t *testing.T) {
	for _, c := range []struct {
		name, argv, shown string
	}{
		{"ok: join", "join mb1-secret --name web2", "join mb1-...... --name web2"},
		{"ok: node-key, folder first", "--dir mb1 rotate node-key mb1-secret", "--dir mb1 rotate node-key mb1-......"},
		{"ok: the prefix alone", "join mb1-", "join mb1-"},
		{"ok: none", "ban 192.0.2.1 --reason secret", "ban 192.0.2.1 --reason secret"},
	} {
		t.Run(c.name, func(t *testing.T) {
			argv := strings.Fields(strings.Clone(c.argv)) // shares one writable piece of memory, as a real argv does
			args := hideTokens(argv)
			if got := strings.Join(argv, " "); got != c.shown {
				t.Errorf("the process list shows %q, want %q", got, c.shown)
			}
			if want := strings.Fields(c.argv); !slices.Equal(args, want) {
				t.Errorf("the program reads %q, want %q", args, want)
			}
		})
	}
}
