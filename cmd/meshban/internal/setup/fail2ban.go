package setup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/fail2ban"
)

const dumpTimeout = 30 * time.Second

// dump is fail2ban's parsed configuration, from `fail2ban-client -d`: the commands that it would send to its server,
// one per line, as Python lists.
type dump struct {
	jails   []string            // enabled, in order
	actions map[string][]string // names of each jail's actions
	lines   map[string]string   // maps each command that sets up an action to its jail
	broken  []string            // fail2ban's errors about jails that it skips
}

var (
	jailLine   = regexp.MustCompile(`^\['add', (?:'([^']*)'|"([^"]*)"), `)
	actionLine = regexp.MustCompile(`^\['set', (?:'([^']*)'|"([^"]*)"), 'addaction', (?:'([^']*)'|"([^"]*)")`)
	paramLine  = regexp.MustCompile(`^\['(?:multi-)?set', (?:'([^']*)'|"([^"]*)"), 'action', (?:'([^']*)'|"([^"]*)")`)
	errorLine  = regexp.MustCompile(`^\['config-error', ["'](.*)["']\]`)
)

// parseDump parses the output of `fail2ban-client -d`. It skips what it does not know.
func parseDump(out []byte) dump {
	d := dump{actions: make(map[string][]string), lines: make(map[string]string)}
	for line := range strings.SplitSeq(string(out), "\n") {
		if m := jailLine.FindStringSubmatch(line); m != nil {
			d.jails = append(d.jails, m[1]+m[2])
		} else if m := actionLine.FindStringSubmatch(line); m != nil {
			jail, action := m[1]+m[2], m[3]+m[4]
			d.actions[jail] = append(d.actions[jail], action)
			d.lines[line] = jail
		} else if m := paramLine.FindStringSubmatch(line); m != nil {
			d.lines[line] = m[1] + m[2]
		} else if m := errorLine.FindStringSubmatch(line); m != nil {
			d.broken = append(d.broken, m[1])
		}
	}
	return d
}

// silent returns the jails that do not report their bans to meshban.
func (d dump) silent() []string {
	var jails []string
	for _, j := range d.jails {
		if j != fail2ban.OwnJail && !slices.Contains(d.actions[j], fail2ban.ActionDefault) && !slices.Contains(d.actions[j], fail2ban.ActionByHand) {
			jails = append(jails, j)
		}
	}
	return jails
}

// twice returns the jails that report each ban to meshban twice.
func (d dump) twice() []string {
	var jails []string
	for _, j := range d.jails {
		if slices.Contains(d.actions[j], fail2ban.ActionDefault) && slices.Contains(d.actions[j], fail2ban.ActionByHand) {
			jails = append(jails, j)
		}
	}
	return jails
}

// worse returns an error if the jails in after are worse off than in d: fail2ban would skip a jail, would lose an
// action or a parameter of one, or would not start because a jail has two actions of one name. Our own actions do not
// count.
func (d dump) worse(after dump) error {
	var errs []error
	for _, text := range after.broken {
		if !slices.Contains(d.broken, text) {
			errs = append(errs, fmt.Errorf("fail2ban: %s", text))
		}
	}
	changed := make(map[string]bool)
	for line, jail := range d.lines {
		if _, ok := after.lines[line]; !ok && jail != fail2ban.OwnJail && !ourAction(line) {
			changed[jail] = true
		}
	}
	for _, j := range d.jails {
		if changed[j] {
			errs = append(errs, fmt.Errorf("the actions of the jail %q would change", j))
		}
	}
	for _, j := range after.jails {
		seen := make(map[string]bool)
		for _, a := range after.actions[j] {
			if seen[a] {
				errs = append(errs, fmt.Errorf("the jail %q would have two actions named %q", j, a))
			}
			seen[a] = true
		}
	}
	return errors.Join(errs...)
}

// ourAction reports whether line is a command about one of our actions.
func ourAction(line string) bool {
	for _, re := range []*regexp.Regexp{actionLine, paramLine} {
		if m := re.FindStringSubmatch(line); m != nil {
			name := m[3] + m[4]
			return name == fail2ban.ActionDefault || name == fail2ban.ActionByHand
		}
	}
	return false
}

// errWorse means that fail2ban's jails would be worse off.
var errWorse = errors.New("fail2ban's jails would be worse off")

// dump returns what fail2ban makes of its configuration now.
func (o Options) dump(ctx context.Context) (dump, error) {
	ctx, cancel := context.WithTimeout(ctx, dumpTimeout)
	defer cancel()
	args := []string{"-d"}
	if o.Root != "" {
		args = []string{"-c", o.Root + fail2banDir, "-d"}
	}
	out, err := o.Run(ctx, "fail2ban-client", args...)
	if errors.Is(err, exec.ErrNotFound) {
		return dump{}, fail2ban.ErrNotInstalled
	}
	if err != nil {
		return dump{}, fmt.Errorf("fail2ban rejects its configuration: %w", err)
	}
	return parseDump(out), nil
}

// maxStderr bounds what an error quotes of a program's last line, in bytes.
const maxStderr = 300

// run is the default of Options.Run.
func run(ctx context.Context, name string, args ...string) ([]byte, error) {
	var out, talk bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &out, &talk
	if err := cmd.Run(); err != nil {
		lines := strings.Split(strings.TrimSpace(talk.String()), "\n")
		if last := lines[len(lines)-1]; last != "" {
			return nil, fmt.Errorf("%w: %s", err, last[:min(len(last), maxStderr)])
		}
		return nil, err
	}
	return out.Bytes(), nil
}
