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
)

// dumpTimeout bounds one run of fail2ban-client.
const dumpTimeout = 30 * time.Second

// dump is what fail2ban makes of its configuration, from `fail2ban-client -d`: the commands that it would
// send to its server, one a line, as Python lists.
type dump struct {
	jails   []string            // enabled, in order
	actions map[string][]string // names of each jail's actions
	lines   map[string]string   // commands that make up a jail's actions -> the jail
	broken  []string            // what it says about jails that it skips
}

var (
	jailLine   = regexp.MustCompile(`^\['add', (?:'([^']*)'|"([^"]*)"), `)
	actionLine = regexp.MustCompile(`^\['set', (?:'([^']*)'|"([^"]*)"), 'addaction', (?:'([^']*)'|"([^"]*)")`)
	paramLine  = regexp.MustCompile(`^\['(?:multi-)?set', (?:'([^']*)'|"([^"]*)"), 'action', (?:'([^']*)'|"([^"]*)")`)
	errorLine  = regexp.MustCompile(`^\['config-error', ["'](.*)["']\]`)
)

// parseDump reads the output of `fail2ban-client -d`. What it does not know it passes over.
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

// Our actions: as jail.d/meshban.conf adds it, as an administrator writes it, and the one that does nothing.
const (
	actionDefault = "meshban-default"
	actionByHand  = "meshban"
	ownJail       = "meshban"
)

// silent lists the jails whose bans meshban does not hear of.
func (d dump) silent() []string {
	var jails []string
	for _, j := range d.jails {
		if j != ownJail && !slices.Contains(d.actions[j], actionDefault) && !slices.Contains(d.actions[j], actionByHand) {
			jails = append(jails, j)
		}
	}
	return jails
}

// twice lists the jails that tell meshban of each ban twice.
func (d dump) twice() []string {
	var jails []string
	for _, j := range d.jails {
		if slices.Contains(d.actions[j], actionDefault) && slices.Contains(d.actions[j], actionByHand) {
			jails = append(jails, j)
		}
	}
	return jails
}

// worse says how the jails in after are worse off than they were in d: one that fail2ban would skip, one
// that lost an action or a parameter of it, one with two actions of one name (fail2ban then does not even
// start). Our own actions do not count.
func (d dump) worse(after dump) error {
	var errs []error
	for _, text := range after.broken {
		if !slices.Contains(d.broken, text) {
			errs = append(errs, fmt.Errorf("fail2ban: %s", text))
		}
	}
	changed := make(map[string]bool)
	for line, jail := range d.lines {
		if _, ok := after.lines[line]; !ok && jail != ownJail && !ourAction(line) {
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

// ourAction tells a command about an action of ours.
func ourAction(line string) bool {
	for _, re := range []*regexp.Regexp{actionLine, paramLine} {
		if m := re.FindStringSubmatch(line); m != nil {
			name := m[3] + m[4]
			return name == actionDefault || name == actionByHand
		}
	}
	return false
}

// errWorse says that fail2ban's jails would not be as they were.
var errWorse = errors.New("fail2ban's jails would suffer")

// errNoClient says that fail2ban-client is not on this machine.
var errNoClient = errors.New("fail2ban-client is not installed")

// dump asks fail2ban what it makes of its configuration now.
func (o Options) dump(ctx context.Context) (dump, error) {
	ctx, cancel := context.WithTimeout(ctx, dumpTimeout)
	defer cancel()
	args := []string{"-d"}
	if o.Root != "" {
		args = []string{"-c", o.Root + fail2banDir, "-d"}
	}
	out, err := o.Run(ctx, "fail2ban-client", args...)
	if errors.Is(err, exec.ErrNotFound) {
		return dump{}, errNoClient
	}
	if err != nil {
		return dump{}, fmt.Errorf("fail2ban refuses its configuration: %w", err)
	}
	return parseDump(out), nil
}

// maxStderr bounds how much of a program's last error line is repeated, in bytes.
const maxStderr = 300

// run is the Run of Options for real.
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
