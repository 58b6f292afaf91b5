// Package doctor checks what an administrator would: whether this machine, its fail2ban, its firewall and its mesh are
// as meshban needs them. Each check returns one sentence and, if something is wrong, what to type.
//
// Checks about the machine look for themselves. What the agent knows is asked of the agent, never measured anew.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/fail2ban"
	"github.com/meshban/meshban/cmd/meshban/internal/hostinfo"
)

// States of a Finding, from the best to the worst.
const (
	OK         = "ok"
	NotChecked = "not checked" // the text says why
	Warn       = "warn"
	Bad        = "bad"
)

// Finding is the result of one check.
type Finding struct {
	Check  string `json:"check"` // its name
	State  string `json:"state"`
	Text   string `json:"text"`             // one sentence
	Remedy string `json:"remedy,omitempty"` // what to type; always there with Warn and Bad
}

// Options say what to look at.
type Options struct {
	Dir    string // the state folder
	Config config.Config
	Client *control.Client
	Peer   string // name or id of the one peer to look at; "" = all
}

// runLimit bounds each program that a check runs, and dialLimit each connection and look-up of a name. maxDials bounds
// the peers that are connected to.
const (
	runLimit, dialLimit = 10 * time.Second, 3 * time.Second
	maxDials            = 64
)

// machine is what the checks look at. Tests replace its parts.
type machine struct {
	root    string // prefix of every file that is read; "" = this machine
	config  config.Config
	dir     string
	euid    int
	from    string // SSH_CONNECTION
	peer    string
	status  *control.Status // nil = no agent answers
	members []control.Member
	allowed []control.AllowEntry
	reach   []control.Reach
	setUp   bool // `meshban setup fail2ban` has connected fail2ban

	jails    func(context.Context) ([]fail2ban.JailSetup, error)
	sessions func() ([]hostinfo.Entry, error)
	run      func(ctx context.Context, name string, args ...string) (string, error)
	find     func(program string) error
	dial     func(ctx context.Context, addr string) error
	resolve  func(ctx context.Context, host string) error
}

// finding is what a check returns; the zero value is OK.
type finding struct{ state, text, remedy string }

func ok(format string, args ...any) finding { return finding{OK, fmt.Sprintf(format, args...), ""} }

func skip(format string, args ...any) finding {
	return finding{NotChecked, fmt.Sprintf(format, args...), ""}
}

func warn(remedy, format string, args ...any) finding {
	return finding{Warn, fmt.Sprintf(format, args...), remedy}
}

func bad(remedy, format string, args ...any) finding {
	return finding{Bad, fmt.Sprintf(format, args...), remedy}
}

// check is one check. Those of agent need a running agent, and only those of peers apply to one peer.
type check struct {
	name  string
	agent bool
	peers bool
	look  func(*machine, context.Context) finding
}

// checks are all checks, in the order of the output.
var checks = []check{
	{"fail2ban", false, false, (*machine).fail2ban},
	{"jails", false, false, (*machine).jailsTell},
	{"banactions", false, false, (*machine).banactions},
	{"backend", true, false, (*machine).backend},
	{"first rule", true, false, (*machine).firstRule},
	{"repairs", true, false, (*machine).repairs},
	{"mixed rules", false, false, (*machine).mixedRules},
	{"privileges", false, false, (*machine).privileges},
	{"sets", true, false, (*machine).sets},
	{"ports", true, true, (*machine).ports},
	{"address", true, false, (*machine).address},
	{"datagrams", true, true, (*machine).datagrams},
	{"clocks", true, true, (*machine).clocks},
	{"time zone", false, false, (*machine).timeZone},
	{"join list", false, false, (*machine).joinList},
	{"versions", true, true, (*machine).versions},
	{"certificates", true, true, (*machine).certificates},
	{"line file", false, false, (*machine).lineFile},
	{"kernel drops", false, false, (*machine).kernelDrops},
	{"your login", true, false, (*machine).login},
	{"resources", false, false, (*machine).resources},
	{"saved rules", false, false, (*machine).savedRules},
}

// Run runs the checks. It fails only if Peer names nobody.
func Run(ctx context.Context, o Options) ([]Finding, error) {
	m := newMachine(o)
	status, err := o.Client.Status(ctx)
	if err == nil {
		m.status = &status
		if m.members, err = o.Client.Members(ctx); err == nil {
			m.allowed, err = o.Client.Allowed(ctx)
		}
		m.reach, _ = o.Client.Reach(ctx) // an older agent cannot tell
	}
	if err != nil && (!errors.Is(err, control.ErrNoAgent) || o.Peer != "") {
		return nil, err
	}
	if o.Peer != "" && len(m.others()) == 0 {
		return nil, &control.Error{Code: control.CodeNotFound, Message: fmt.Sprintf("no other node is called %q", o.Peer), Hint: "`meshban members` lists them"}
	}
	return m.examine(ctx), nil
}

func (m *machine) examine(ctx context.Context) []Finding {
	var all []Finding
	for _, c := range checks {
		if m.peer != "" && !c.peers {
			continue
		}
		f := skip("no agent")
		if !c.agent || m.status != nil {
			f = c.look(m, ctx)
		}
		all = append(all, Finding{c.name, f.state, f.text, f.remedy})
	}
	return all
}

// others returns the members that the checks of peers are about.
func (m *machine) others() []control.Member {
	return slices.DeleteFunc(slices.Clone(m.members), func(p control.Member) bool {
		gone := p.State == control.MemberLeft || p.Certificate == control.CertRevoked
		return p.Self || gone || m.peer != "" && p.Name != m.peer && (len(m.peer) < control.MinNodeID || !strings.HasPrefix(p.ID, m.peer))
	})
}

// problem returns the agent's first problem of one of kinds, and what it says to do. With a peer, only those that name it
// count.
func (m *machine) problem(kinds ...string) (text, remedy string) {
	for _, p := range m.status.Problems {
		kind, rest, _ := strings.Cut(p, ": ")
		if slices.Contains(kinds, kind) && (m.peer == "" || strings.Contains(rest, m.peer)) {
			text, remedy, _ = strings.Cut(rest, "; ")
			return text, remedy
		}
	}
	return "", ""
}

// known returns a finding about the agent's problem of one of kinds, if it has one.
func (m *machine) known(state string, kinds ...string) (finding, bool) {
	text, remedy := m.problem(kinds...)
	if remedy == "" {
		remedy = "meshban status"
	}
	return finding{state, text, remedy}, text != ""
}

func runProgram(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, runLimit)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).Output()
	return string(out), err
}

func findProgram(name string) error {
	_, err := exec.LookPath(name)
	return err
}

func dial(ctx context.Context, addr string) error {
	d := net.Dialer{Timeout: dialLimit}
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	return c.Close()
}

func resolve(ctx context.Context, host string) error {
	if _, err := netip.ParseAddr(host); err == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	_, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	return err
}
