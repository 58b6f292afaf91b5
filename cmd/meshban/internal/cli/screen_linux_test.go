package cli

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/control/controltest"
)

// terminal returns both ends of a pseudo-terminal of this width.
func terminal(t *testing.T, width uint16) (screen, user *os.File) {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = user.Close() })
	fd := int(user.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: width})
	}
	if err == nil {
		screen, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = screen.Close() })
	return screen, user
}

// shown runs a command on a terminal and returns the lines that appear.
func shown(t *testing.T, width uint16, args ...string) (lines []string) {
	t.Helper()
	screen, user := terminal(t, width)
	got := make(chan []string)
	go func() { // a terminal holds only a few kilobytes
		var lines []string
		for in := bufio.NewScanner(user); in.Scan() && in.Text() != "END"; {
			lines = append(lines, in.Text())
		}
		got <- lines
	}()
	code := newCommand(fakeActions(), strings.NewReader(""), screen, os.Stderr).run(t.Context(), args)
	fmt.Fprintln(screen, "END")
	if lines = <-got; code != exitDone {
		t.Errorf("%q: exit code %d", args, code)
	}
	return lines
}

// On a terminal a table is as wide as that, addresses are whole, and states have colours; elsewhere nothing is cut or
// coloured.
func TestTablesFitTheTerminal(t *testing.T) {
	long := strings.TrimSpace(strings.Repeat("a long reason ", 12))
	entries := exported()
	for i := range entries {
		entries[i].Reason, entries[i].Source, entries[i].State = long, "import:a-list-with-a-long-name", control.StateHeld
	}
	dir := t.TempDir()
	serveFake(t, dir, controltest.New(entries...))
	for _, c := range []struct {
		name, term, noColor string
		width               uint16
		colour              bool
	}{
		{"ok: a terminal", "xterm", "", 80, true}, {"ok: a wide one", "xterm", "", 400, true}, {"ok: a narrow one", "xterm", "", 30, true},
		{"bad: NO_COLOR", "xterm", "1", 80, false}, {"bad: no colours", "dumb", "", 80, false}, {"bad: unknown", "", "", 80, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("TERM", c.term)
			t.Setenv("NO_COLOR", c.noColor)
			lines := shown(t, c.width, "--dir", dir, "list")
			if len(lines) < 2 {
				t.Fatalf("%q", lines)
			}
			for _, line := range lines[1:] {
				plain := strings.NewReplacer(styleWaits, "", styleEnd, "").Replace(line)
				if (plain != line) != c.colour || strings.Contains(plain, "\x1b") {
					t.Errorf("colours: %q", line)
				}
				address, _, _ := strings.Cut(plain, " ")
				if !strings.ContainsFunc(address, func(r rune) bool { return r == '.' || r == ':' }) || strings.Contains(address, "…") {
					t.Errorf("the address is cut: %q", line)
				}
				switch n := utf8.RuneCountInString(plain); {
				case c.width == 80 && n > 80:
					t.Errorf("%d columns: %q", n, plain)
				case c.width == 400 && !strings.HasSuffix(plain, long):
					t.Errorf("cut in spite of its room: %q", plain)
				case c.width < 400 && !strings.Contains(plain, "…"):
					t.Errorf("not cut: %q", plain)
				}
			}
		})
	}
	if text := printed(t, exitDone, "--dir", dir, "list"); strings.Contains(text, "\x1b") || !strings.Contains(text, long) {
		t.Errorf("in a pipe: %q", text)
	}
	t.Setenv("TERM", "xterm")
	t.Setenv("NO_COLOR", "")
	if text := strings.Join(shown(t, 80, "--dir", dir, "status"), "\n"); !strings.Contains(text, styleBad+"problem   web2 has not") {
		t.Errorf("no problem stands out: %q", text)
	}
}
