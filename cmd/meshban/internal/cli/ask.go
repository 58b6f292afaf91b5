package cli

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// isKeyboard reports whether somebody may type into r: a terminal, and not /dev/null, which is a character device too.
func isKeyboard(r io.Reader) bool {
	f, ok := r.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(info, null)
}

// ask asks on stderr whether to go on, where stdin is a terminal. Without one, or with yes, it goes on. An answer other
// than y or yes is an error.
func (c *command) ask(question string, yes bool) error {
	if yes || !c.asks {
		return nil
	}
	fmt.Fprintf(c.err, "meshban: %s [y/N] ", question)
	answer, err := bufio.NewReader(c.in).ReadString('\n')
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	if err != nil {
		fmt.Fprintln(c.err)
	}
	return &control.Error{Code: control.CodeFailed, Message: "nothing was changed", Hint: "answer y, or give --yes"}
}
