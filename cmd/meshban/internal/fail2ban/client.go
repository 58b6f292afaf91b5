package fail2ban

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"
)

const (
	// MaxAtOnce is the most addresses that one call lifts.
	MaxAtOnce = 500
	// maxJails bounds the jails that are queried.
	maxJails = 500
	// OwnJail is the jail that shows the mesh's bans.
	OwnJail = "meshban"
	// ActionDefault is our action as jail.d/meshban.conf adds it, and ActionByHand as an administrator writes it.
	ActionDefault, ActionByHand = "meshban-default", "meshban"
	// letInPrefix begins the names of jails whose "bans" let somebody in; our action skips them.
	letInPrefix = "pass2allow"
)

// jailName matches names that may be queried; fail2ban itself hardly allows more.
var jailName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}$`)

// IsJailName reports whether s can be the name of a jail that may be queried.
func IsJailName(s string) bool { return jailName.MatchString(s) }

// Client runs fail2ban-client.
type Client struct {
	Args []string // before the client's own; nil = this machine's server
}

// Jail is what the running server says about a jail.
type Jail struct {
	Name  string
	Tells bool // its bans reach the line file
	Reads bool // it reads the line file, so its bans are echoes
}

// Jails queries the server for all of its jails; lineFile is the agent's.
func (c Client) Jails(ctx context.Context, lineFile string) ([]Jail, error) {
	s, err := open(ctx, c.Args)
	if err != nil {
		return nil, err
	}
	defer s.close()
	status, err := s.ask("status")
	if err != nil {
		return nil, err
	}
	names := jailList(status)
	jails := make([]Jail, 0, len(names))
	for _, name := range names {
		j := Jail{Name: name}
		actions, err := s.ask("get", name, "actions")
		if err != nil {
			return nil, err
		}
		for _, action := range []string{ActionDefault, ActionByHand} {
			if !slices.Contains(actionList(actions), action) {
				continue // the server would log the question as an error
			}
			file, err := s.ask("get", name, "action", action, "file")
			if err != nil {
				return nil, err
			}
			j.Tells = j.Tells || file == lineFile
		}
		paths, err := s.ask("get", name, "logpath")
		if err != nil {
			return nil, err
		}
		for line := range strings.SplitSeq(paths, "\n") {
			j.Reads = j.Reads || strings.TrimLeft(line, "|-` ") == lineFile
		}
		jails = append(jails, j)
	}
	return jails, nil
}

// JailSetup is what a jail reads and runs.
type JailSetup struct {
	Name    string
	Reads   bool     // it reads a log file or the journal
	Actions []string // names of its actions
}

// Setup queries the server for what its jails read and run.
func (c Client) Setup(ctx context.Context) ([]JailSetup, error) {
	s, err := open(ctx, c.Args)
	if err != nil {
		return nil, err
	}
	defer s.close()
	status, err := s.ask("status")
	if err != nil {
		return nil, err
	}
	var jails []JailSetup
	for _, name := range jailList(status) {
		actions, err := s.ask("get", name, "actions")
		if err != nil {
			return nil, err
		}
		about, err := s.ask("get", name, "logpath")
		if err != nil {
			return nil, err
		}
		reads := strings.Contains(about, "- /")
		if !reads { // only this answer says whether it is the journal that a jail reads
			if about, err = s.ask("status", name); err != nil {
				return nil, err
			}
			reads = strings.Contains(about, "Journal matches:")
		}
		jails = append(jails, JailSetup{name, reads, actionList(actions)})
	}
	return jails, nil
}

// jailList parses the jails in the answer to "status".
func jailList(status string) []string {
	_, list, _ := strings.Cut(status, "Jail list:")
	list, _, _ = strings.Cut(list, "\n")
	var names []string
	for word := range strings.FieldsFuncSeq(list, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' }) {
		if jailName.MatchString(word) && len(names) < maxJails {
			names = append(names, word)
		}
	}
	return names
}

// actionList parses the names in the answer to "get JAIL actions".
func actionList(answer string) []string {
	return strings.Split(answer[strings.LastIndexByte(answer, '\n')+1:], ", ")
}

// Ban is one ban of the server.
type Ban struct {
	Jail   string
	Prefix netip.Prefix
}

// Banned returns the server's bans that overlap one of prefixes, except those in OwnJail.
func (c Client) Banned(ctx context.Context, prefixes []netip.Prefix) ([]Ban, error) {
	s, err := open(ctx, c.Args)
	if err != nil {
		return nil, err
	}
	defer s.close()
	bans, err := s.banned(prefixes)
	return withoutOwn(bans), err
}

// Unban makes the server lift its bans inside prefixes, at most MaxAtOnce addresses. It returns those that the server
// still has, and its bans around prefixes. more means that it must be called again.
func (c Client) Unban(ctx context.Context, prefixes []netip.Prefix) (still []Ban, more bool, err error) {
	s, err := open(ctx, c.Args)
	if err != nil {
		return nil, false, err
	}
	defer s.close()
	before, err := s.banned(prefixes)
	if err != nil {
		return nil, false, err
	}
	command := []string{"unban"}
	for _, b := range before {
		word := text(b.Prefix)
		if !inside(b.Prefix, prefixes) || slices.Contains(command, word) {
			continue
		}
		if more = len(command) > MaxAtOnce; more {
			break
		}
		command = append(command, word)
	}
	if still = before; len(command) > 1 {
		s.limit.Reset(sessionLimit + time.Duration(len(command))*perUnban)
		if _, err := s.ask(command...); err != nil {
			return nil, false, err
		}
		if still, err = s.banned(prefixes); err != nil {
			return nil, false, err
		}
	}
	return withoutOwn(still), more, nil
}

// withoutOwn drops the bans in OwnJail.
func withoutOwn(bans []Ban) []Ban {
	return slices.DeleteFunc(bans, func(b Ban) bool { return b.Jail == OwnJail })
}

// banned queries all bans and keeps those that overlap one of prefixes.
func (s *session) banned(prefixes []netip.Prefix) ([]Ban, error) {
	answer, err := s.ask("banned")
	if err != nil {
		return nil, err
	}
	bans, err := parseBanned(answer)
	if err != nil {
		return nil, err
	}
	single := make(map[netip.Prefix]struct{}, len(prefixes))
	var wide []netip.Prefix
	for _, p := range prefixes {
		if single[p] = struct{}{}; !p.IsSingleIP() {
			wide = append(wide, p)
		}
	}
	return slices.DeleteFunc(bans, func(b Ban) bool {
		if _, ok := single[b.Prefix]; ok {
			return false
		}
		if b.Prefix.IsSingleIP() {
			return !slices.ContainsFunc(wide, b.Prefix.Overlaps)
		}
		return !slices.ContainsFunc(prefixes, b.Prefix.Overlaps)
	}), nil
}

// inside reports whether one of prefixes contains p.
func inside(p netip.Prefix, prefixes []netip.Prefix) bool {
	return slices.ContainsFunc(prefixes, func(q netip.Prefix) bool { return q.Bits() <= p.Bits() && q.Contains(p.Addr()) })
}

// text formats a prefix as fail2ban does.
func text(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// parseBanned parses the answer to "banned", a Python list: [{'sshd': ['192.0.2.1', '203.0.113.0/28']}, {'nginx':
// []}]. It skips what is not an address, such as the users that a jail may ban.
func parseBanned(answer string) ([]Ban, error) {
	if !strings.HasPrefix(answer, "[") || !strings.HasSuffix(answer, "]") {
		return nil, fmt.Errorf("%s banned: %q", program, answer[:min(len(answer), maxSaid)])
	}
	var bans []Ban
	jail := ""
	for rest := answer; ; {
		start := strings.IndexAny(rest, `'"`)
		if start < 0 {
			return bans, nil
		}
		quote := rest[start]
		rest = rest[start+1:]
		end := 0
		for end < len(rest) && rest[end] != quote {
			if rest[end] == '\\' {
				end++
			}
			end++
		}
		if end >= len(rest) {
			return nil, fmt.Errorf("%s banned: unterminated string", program)
		}
		word := rest[:end]
		rest = rest[end+1:]
		if strings.HasPrefix(rest, ":") {
			jail = word
		} else if p, err := parsePrefix(word); err == nil {
			bans = append(bans, Ban{jail, p})
		}
	}
}

func parsePrefix(word string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(word); err == nil {
		addr = addr.Unmap().WithZone("")
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(word)
	return p.Masked(), err
}

// Running returns nil if a server answers, or else ErrNotInstalled or ErrNotRunning.
func (c Client) Running(ctx context.Context) error {
	s, err := open(ctx, c.Args)
	if err != nil {
		return err
	}
	s.close()
	return nil
}

// Reload makes the server read its configuration and restart every jail, which keeps the bans. Without --restart,
// fail2ban 1.0.2 ignores an action that is new to a running jail.
func (c Client) Reload(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, reloadLimit)
	defer cancel()
	var talk stderrText
	cmd := exec.CommandContext(ctx, program, append(slices.Clone(c.Args), "reload", "--restart")...)
	cmd.Stderr, cmd.WaitDelay = &talk, killLimit
	err := cmd.Run()
	if errors.Is(err, exec.ErrNotFound) {
		return ErrNotInstalled
	}
	if err != nil {
		return fmt.Errorf("%s reload --restart: %w: %s", program, err, talk.last())
	}
	return nil
}

// Split returns the names of the jails that report to the mesh and of those that do not. OwnJail and jails that let
// somebody in are neither.
func Split(jails []Jail) (tells, silent []string) {
	for _, j := range jails {
		switch {
		case j.Name == OwnJail || strings.HasPrefix(j.Name, letInPrefix):
		case j.Tells:
			tells = append(tells, j.Name)
		default:
			silent = append(silent, j.Name)
		}
	}
	return tells, silent
}
