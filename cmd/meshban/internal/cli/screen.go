package cli

import (
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// screen is what is known of the terminal that stdout is.
type screen struct {
	width  int // in columns; 0 = not a terminal, or unknown
	colour bool
}

// screenOf asks a terminal for its size. NO_COLOR (no-color.org) and TERM=dumb say that there are no colours.
func screenOf(f *os.File) screen {
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return screen{} // another device, such as /dev/null
	}
	term := os.Getenv("TERM")
	return screen{width: int(size.Col), colour: os.Getenv("NO_COLOR") == "" && term != "" && term != "dumb"}
}

// Colours, as ANSI sequences.
const (
	styleBad    = "\x1b[31m" // red: a problem
	styleWaits  = "\x1b[33m" // yellow: somebody has to decide, or look
	styleLifted = "\x1b[32m" // green: let through
	styleEnd    = "\x1b[0m"
)

// styles are the colours of states.
var styles = map[string]string{
	control.StateNotEnforced: styleBad, control.StateHeld: styleWaits, control.StateAllowed: styleLifted, control.StateLifted: styleLifted,
	control.MemberDead: styleBad, control.MemberSuspect: styleWaits,
}

// paint returns text in a colour, or as it is.
func (s screen) paint(style, text string) string {
	if !s.colour || style == "" {
		return text
	}
	return style + text + styleEnd
}

// cut shortens text to width columns, one a character.
func cut(text string, width int) string {
	if utf8.RuneCountInString(text) <= width {
		return text
	}
	runes := []rune(text)
	return strings.TrimRight(string(runes[:max(width-1, 0)]), " ") + "…"
}

// leastWidth is the width that no column is cut below, unless its head is wider.
const leastWidth = 8

// fit narrows the widest columns until the rows fit the screen, as far as that is possible.
func (t *table) fit() {
	if t.screen.width == 0 {
		return
	}
	over := 2*(len(t.widths)-1) - t.screen.width
	for _, w := range t.widths {
		over += w
	}
	for ; over > 0; over-- {
		widest := 0
		for i := 1; i < len(t.widths); i++ {
			least := max(leastWidth, utf8.RuneCountInString(t.rows[0][i]))
			if t.widths[i] > least && (widest == 0 || t.widths[i] > t.widths[widest]) {
				widest = i
			}
		}
		if widest == 0 {
			return
		}
		t.widths[widest]--
	}
}
