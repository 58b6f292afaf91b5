package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// shortID is how many hex digits of a node's id people see.
const shortID = 8

func short(id string) string { return id[:min(len(id), shortID)] }

func (c *command) members(ctx *cli.Context) error {
	members, err := c.client().Members(ctx.Context)
	if err != nil {
		return err
	}
	alike := make(map[string]int)
	for _, m := range members {
		alike[m.Name]++
	}
	t := c.newTable("NAME", "ID", "ADDRESS", "STATE", "IN SYNC", "RTT", "VERSION", "BACKEND", "ENFORCED", "PROBLEMS")
	return show(c, ctx, t, "no members are known", func(m control.Member) []string {
		name, rtt, sync := m.Name, "-", unconfirmed(m.ConfirmedS)
		if alike[m.Name] > 1 {
			name += " (" + short(m.ID) + ")"
		}
		if m.Self {
			name += " *"
		}
		if m.RTTms != nil {
			rtt = fmt.Sprintf("%.1f ms", *m.RTTms)
		}
		switch {
		case m.InSync:
			sync = "yes"
		case m.State != control.MemberAlive && m.State != control.MemberSuspect:
			sync = "-"
		}
		state := m.State
		switch m.Certificate {
		case control.CertRevoked:
			state += ", revoked"
		case control.CertNone:
			state += ", not certified"
		}
		if m.UDP != "" && m.UDP != control.UDPFine {
			state += ", " + m.UDP
		}
		return []string{name, short(m.ID), cmp.Or(m.Addr, "-"), state, sync, rtt, cmp.Or(m.Version, "-"), said(m.Backend), saidCount(m.Enforced), problemCount(m)}
	}, streamed(members))
}

// unsaid stands for what a node has not reported.
const unsaid = "?"

func said(text *string) string {
	if text == nil {
		return unsaid
	}
	return *text
}

func saidCount(n *int) string {
	if n == nil {
		return unsaid
	}
	return control.Count(*n)
}

func problemCount(m control.Member) string {
	if m.Problems == nil {
		return unsaid
	}
	return control.Count(len(m.Problems))
}

// unconfirmed returns when a member that is not known to be in sync was last confirmed to be.
func unconfirmed(seconds *float64) string {
	if seconds == nil {
		return "unknown, never confirmed"
	}
	return "unknown, last confirmed " + ago(*seconds) + " ago"
}

func (c *command) status(ctx *cli.Context) error {
	s, err := c.client().Status(ctx.Context)
	if err != nil {
		return err
	}
	var nodes []control.Member
	if ctx.Bool("all") {
		if nodes, err = c.client().Members(ctx.Context); err != nil {
			return err
		}
	}
	wrong := s.Problems
	for _, m := range nodes {
		wrong = append(wrong[:len(wrong):len(wrong)], problemsOf(m)...)
	}
	check := ctx.Bool("check")
	switch {
	case ctx.Bool("json"):
		if s.Problems == nil {
			s.Problems = []string{}
		}
		if err := writeObject(c.out, statusReport{s, nodes}); err != nil {
			return err
		}
	case check && len(wrong) == 0:
		fmt.Fprintf(c.out, "ok: %s\n", control.Printable(summary(s)))
	case check:
		for _, p := range wrong {
			fmt.Fprintln(c.out, c.screen.paint(styleBad, control.Printable(p)))
		}
	default:
		c.statusText(s, nodes)
	}
	if check && len(wrong) > 0 {
		return reported{control.CodeFailed}
	}
	return nil
}

// statusReport is what status --json prints; Nodes is there with --all.
type statusReport struct {
	control.Status
	Nodes []control.Member `json:"nodes,omitempty"`
}

// summary returns in one line that a node does its work.
func summary(s control.Status) string {
	return fmt.Sprintf("%s, %s enforced, %d of %s alive, %d in sync", s.Firewall.Backend, control.Count(s.Firewall.Enforced),
		s.Mesh.Alive, plural(s.Mesh.Total, "member", "members"), s.Mesh.InSync)
}

// problemsOf returns what is wrong with another node. One that has left is down on purpose.
func problemsOf(m control.Member) (wrong []string) {
	switch {
	case m.Self || m.State == control.MemberLeft || m.Certificate == control.CertRevoked:
		return nil
	case m.State != control.MemberAlive:
		return []string{m.Name + ": " + m.State}
	case m.Problems == nil:
		return []string{m.Name + ": it does not answer"}
	}
	for _, p := range m.Problems {
		wrong = append(wrong, m.Name+": "+p)
	}
	return wrong
}

// statusText prints the status for people.
func (c *command) statusText(s control.Status, nodes []control.Member) {
	node := fmt.Sprintf("%s (%s), version %s, up %s", s.Name, short(s.ID), s.Version, ago(s.UptimeS))
	if s.Addr != "" {
		node += ", on " + s.Addr
	}
	field(c.out, "node", node)
	mesh := fmt.Sprintf("%d of %s alive, %d in sync, digest %s",
		s.Mesh.Alive, plural(s.Mesh.Total, "member", "members"), s.Mesh.InSync, s.Mesh.Digest)
	if s.Mesh.KeyGeneration > 0 {
		mesh += fmt.Sprintf(", key generation %d", s.Mesh.KeyGeneration)
	}
	lines := []string{mesh}
	for _, m := range s.Mesh.Unconfirmed {
		lines = append(lines, fmt.Sprintf("%s in sync: %s", m.Name, unconfirmed(m.ConfirmedS)))
	}
	field(c.out, "mesh", lines...)
	field(c.out, "bans", fmt.Sprintf("%s active, %s pending, %s held, %s allowed",
		control.Count(s.Bans.Active), control.Count(s.Bans.Pending), control.Count(s.Bans.Held), control.Count(s.Bans.Allowed)))
	fw := []string{fmt.Sprintf("%s, %s enforced, %s", s.Firewall.Backend, control.Count(s.Firewall.Enforced),
		plural(int(s.Firewall.Repairs), "repair", "repairs"))}
	for _, t := range s.Firewall.Tried {
		fw = append(fw, fmt.Sprintf("%s does not work here: %s", t.Backend, t.Error))
	}
	if n := s.Firewall.NotEnforced; n > 0 {
		fw = append(fw, plural(n, "ban", "bans")+" not enforced")
	}
	if s.Firewall.LeavesOut != "" {
		fw = append(fw, s.Firewall.LeavesOut)
	}
	if d := s.Firewall.Dropped; d != nil {
		fw = append(fw, fmt.Sprintf("dropped: %s of IPv4, %s of IPv6", dropped(d.IPv4), dropped(d.IPv6)))
	}
	if p := s.Paused; p != nil {
		fw = append(fw, "paused until "+p.Until.String()+": nothing is dropped")
	}
	field(c.out, "firewall", fw...)
	field(c.out, "lines", fmt.Sprintf("%s accepted, %s ignored, %s, %s emitted%s", control.Count(s.Lines.Accepted),
		control.Count(s.Lines.Ignored), plural(int(s.Lines.Echoes), "echo", "echoes"), control.Count(s.Lines.Emitted), in(s.Lines.File)),
		byReason("ignored", s.Lines.IgnoredBy), byReason("banned in spite of", s.Lines.MisreadBy))
	if a := s.API; a != nil {
		lines := []string{fmt.Sprintf("%s, %s held", cmp.Or(a.Listen, "not yet open"), plural(a.Held, "answer", "answers"))}
		field(c.out, "api", append(lines, control.NotTold(a.LeftOut, a.RangesLeftOut))...)
	}
	if f := s.Fail2ban; f != nil {
		field(c.out, "fail2ban", f.Text()...)
	}
	if s.Drill != nil {
		field(c.out, "drill", drillText(*s.Drill))
	}
	for _, p := range s.Problems {
		c.problem("problem", p)
	}
	for _, r := range s.Reminders {
		field(c.out, "reminder", r)
	}
	for _, m := range nodes {
		if m.Self {
			continue
		}
		lines := []string{fmt.Sprintf("%s (%s), %s, %s, %s enforced", m.Name, short(m.ID), m.State, said(m.Backend), saidCount(m.Enforced))}
		for _, p := range m.Problems {
			lines = append(lines, "problem: "+p)
		}
		field(c.out, "node", lines[0])
		c.problem("", lines[1:]...)
	}
}

// problem writes lines as field does, in the colour of problems.
func (c *command) problem(name string, lines ...string) {
	var b strings.Builder
	field(&b, name, lines...)
	for line := range strings.Lines(b.String()) {
		fmt.Fprintln(c.out, c.screen.paint(styleBad, strings.TrimSuffix(line, "\n")))
	}
}

func dropped(d control.Dropped) string {
	return plural(int(d.Packets), "packet", "packets") + " (" + size(d.Bytes) + ")"
}

func in(file string) string {
	if file == "" {
		return ""
	}
	return " in " + file
}

// byReason lists the line counts by reason, the most frequent first, after what.
func byReason(what string, reasons map[string]uint64) string {
	type reason struct {
		name string
		n    uint64
	}
	var all []reason
	for name, n := range reasons {
		all = append(all, reason{name, n})
	}
	slices.SortFunc(all, func(a, b reason) int {
		return cmp.Or(cmp.Compare(b.n, a.n), cmp.Compare(a.name, b.name))
	})
	var parts []string
	for _, r := range all {
		parts = append(parts, fmt.Sprintf("%s %s", control.Count(r.n), r.name))
	}
	if len(parts) == 0 {
		return ""
	}
	return what + ": " + strings.Join(parts, ", ")
}
