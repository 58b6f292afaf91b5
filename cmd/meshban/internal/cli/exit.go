package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/node"
	"github.com/meshban/meshban/cmd/meshban/internal/ownfile"
)

// Exit codes. --help shows the table below.
const (
	exitDone     = 0
	exitFailed   = 1
	exitUsage    = 2
	exitNoAgent  = 3
	exitPolicy   = 4
	exitNotFound = 5
	exitConfig   = 78 // EX_CONFIG of sysexits.h: 2 is also how Go ends a crash
)

var exitCodes = []struct {
	code    int
	meaning string
}{
	{exitDone, "done"},
	{exitFailed, "failed"},
	{exitUsage, "wrong usage, or an error in the config file (agent: 78)"},
	{exitNoAgent, "no agent answers on the control socket"},
	{exitPolicy, "refused by policy, or without effect: never-ban list, prefix too wide, no permission, cancelled"},
	{exitNotFound, "not found"},
	{exitConfig, "the agent's config is wrong: file, environment or folder; a supervisor need not start it again"},
}

// codeExit maps each kind of error to its exit code.
var codeExit = map[control.Code]int{
	control.CodeFailed:   exitFailed,
	control.CodeUsage:    exitUsage,
	control.CodePolicy:   exitPolicy,
	control.CodeNotFound: exitNotFound,
}

// usagef returns a usage error, with a hint what to do instead.
func usagef(hint, format string, args ...any) error {
	return &control.Error{Code: control.CodeUsage, Message: fmt.Sprintf(format, args...), Hint: hint}
}

// reported is a failure that has already been reported, address by address.
type reported struct{ code control.Code }

func (r reported) Error() string { return "some addresses: " + string(r.code) }

// wrongEnvironment is the error for a wrong value in the environment.
type wrongEnvironment struct{ error }

func (w wrongEnvironment) Unwrap() error { return w.error }

// exitCode maps an error to an exit code.
func exitCode(err error) int {
	var refused *control.Error
	var told reported
	var conf *config.Error
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, new(node.ConfigError)):
		return exitConfig
	case errors.As(err, &told):
		return codeExit[told.code]
	case errors.Is(err, control.ErrNoAgent):
		return exitNoAgent
	case errors.As(err, &refused):
		if code, ok := codeExit[refused.Code]; ok {
			return code
		}
	case errors.As(err, &conf):
		return exitUsage
	}
	return exitFailed
}

// tell writes err as error lines and then a hint line. Each of several joined errors gets a line.
func tell(w io.Writer, err error, hint string) {
	if errors.As(err, new(reported)) {
		return
	}
	message := err.Error()
	var refused *control.Error
	if errors.As(err, &refused) {
		if hint == "" {
			hint = refused.Hint
		}
		message = byRule(message, refused)
	}
	if errors.Is(err, context.Canceled) {
		message = "interrupted"
	}
	if hint == "" {
		hint = diskHint(err)
	}
	for line := range strings.SplitSeq(message, "\n") {
		fmt.Fprintf(w, "meshban: error: %s\n", control.Printable(line))
	}
	tellHint(w, hint)
}

// diskHint returns what to do about a file that cannot be used, or "" if err is about something else.
func diskHint(err error) string {
	var path *fs.PathError
	if !errors.As(err, &path) {
		return ""
	}
	return ownfile.Remedy(path.Path, err)
}

func tellHint(w io.Writer, hint string) {
	if hint != "" {
		fmt.Fprintf(w, "meshban: hint: %s\n", control.Printable(hint))
	}
}

// byRule adds the rule that refused to message, unless message already names it.
func byRule(message string, e *control.Error) string {
	if e.Rule == "" || strings.Contains(message, e.Rule) {
		return message
	}
	return fmt.Sprintf("%s (rule: %s)", message, e.Rule)
}
