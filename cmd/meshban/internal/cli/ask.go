package cli

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// isKeyboard reports whether somebody may type into r: a terminal, but not /dev/null, which is also a character device.
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

// ask asks on stderr whether to go on, and returns an error unless the answer is y or yes. It does not ask if yes is
// set or stdin is no terminal.
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
