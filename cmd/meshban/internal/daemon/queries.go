package daemon

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/daemon/enforce"
	"github.com/meshban/meshban/fw"
	"github.com/meshban/meshban/logsrc"
	"github.com/meshban/meshban/mesh"
	"github.com/meshban/meshban/mesh/frame"
)

var _ control.Agent = (*Daemon)(nil)

// List implements control.Agent.
func (d *Daemon) List(ctx context.Context, hits bool, yield func(control.ListEntry) error) error {
	count := func(ban.Entry) *control.Dropped { return nil }
	if hits {
		of, err := d.fw.Hits(ctx)
		if err != nil {
			return d.notCounted(err)
		}
		count = func(e ban.Entry) *control.Dropped { return dropped(of, e.State, e.Prefix, e.Ports) }
	}
	var failed error
	d.state.Entries(func(e ban.Entry) bool {
		entry := d.listed(e)
		entry.Dropped = count(e)
		if failed = yield(entry); failed == nil {
			failed = ctx.Err()
		}
		return failed == nil
	})
	return failed
}

// listed returns an entry as lists show it.
func (d *Daemon) listed(e ban.Entry) control.ListEntry {
	origins, ids := make([]string, len(e.Origins)), make([]string, len(e.Origins))
	for i, id := range e.Origins {
		origins[i], ids[i] = d.names.of(id), id.String()
	}
	state, why := e.State.String(), ""
	if e.State == ban.StateEnforced {
		if why = d.notTaken(e.Prefix, e.Ports); why != "" {
			state = control.StateNotEnforced
		}
	}
	return control.ListEntry{
		Prefix: control.PrefixOf(e.Prefix), Ports: e.Ports.String(), Until: control.TimeOf(e.Until), Origins: origins, OriginIDs: ids,
		Reason: e.Reason, Source: e.Source, State: state, NotEnforced: why, LeavesOut: d.leftOut(e),
	}
}

// dropped returns what an entry has dropped, or nil if it is not in force.
func dropped(of fw.Hits, state ban.State, prefix netip.Prefix, ports ban.Ports) *control.Dropped {
	if state != ban.StateEnforced {
		return nil
	}
	return new(control.Dropped(of(enforce.Entry(ban.Rule{Prefix: prefix, Ports: ports}))))
}

// notCounted explains why the counters of each ban could not be read.
func (d *Daemon) notCounted(err error) error {
	e := &control.Error{Code: control.CodeFailed, Message: "the counters could not be read: " + err.Error()}
	if errors.Is(err, fw.ErrNotCounted) {
		e.Message = "this node does not count packets for each ban"
		e.Hint = "write `firewall: {counters: true}` into meshban.yaml, and restart the agent"
	}
	return e
}

// leftOut returns this machine's own networks that the kernel leaves out of an entry.
func (d *Daemon) leftOut(e ban.Entry) []netip.Prefix {
	if e.State != ban.StateEnforced || e.Prefix.IsSingleIP() {
		return nil
	}
	return d.fw.LeftOut(e.Prefix)
}

// Allowed implements control.Agent.
func (d *Daemon) Allowed(context.Context) ([]control.AllowEntry, error) {
	var never []ban.NeverEntry
	var allows []ban.Record
	d.state.View(func(t *ban.Table) { never, allows = t.Never(), t.Allows() })
	var out []control.AllowEntry
	for _, r := range allows {
		out = append(out, control.AllowEntry{Prefix: control.PrefixOf(r.Prefix), Until: control.TimeOf(r.Until), Origin: d.names.of(r.Origin), OriginID: r.Origin.String(), Reason: r.Reason, Source: "mesh"})
	}
	name := d.names.of(d.self)
	for _, e := range never {
		entry := control.AllowEntry{Prefix: control.PrefixOf(e.Prefix), Origin: name, OriginID: d.self.String(), Source: "built-in: " + e.Why}
		if name, ok := strings.CutPrefix(e.Why, whyConfigured); ok {
			entry.Source = "config" + name
		}
		out = append(out, entry)
	}
	return out, nil
}

// Why implements control.Agent.
func (d *Daemon) Why(ctx context.Context, prefix netip.Prefix) (control.WhyReply, error) {
	var nodes []control.NodeAnswer
	var wait sync.WaitGroup
	wait.Go(func() { nodes = d.askWhy(ctx, prefix) })
	reply, banned := d.explain(prefix)
	d.countFindings(ctx, reply.Findings)
	if !banned {
		if text := d.fail2banBans(ctx, prefix); text != "" {
			reply.Summary += " But " + text + "."
		}
	}
	wait.Wait()
	reply.Nodes = nodes
	return reply, nil
}

// countFindings adds to bans in force what they have dropped, if that is counted and read in time: all counters are read,
// which takes seconds where a million are in force.
func (d *Daemon) countFindings(ctx context.Context, findings []control.Finding) {
	inForce := func(f control.Finding) bool {
		return f.Kind == ban.KindBan.String() && strings.HasPrefix(f.Status, ban.StateEnforced.String())
	}
	if !d.config().Firewall.Counters || !slices.ContainsFunc(findings, inForce) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	of, err := d.fw.Hits(ctx)
	if err != nil {
		d.log.Debug("the counters of bans could not be read", "err", err)
		return
	}
	for i, f := range findings {
		if ports, err := ban.ParsePorts(f.Ports); err == nil && inForce(f) {
			findings[i].Dropped = dropped(of, ban.StateEnforced, f.Prefix.Prefix, ports)
		}
	}
}

// explain returns what this node does about a prefix, and whether it bans it.
func (d *Daemon) explain(prefix netip.Prefix) (reply control.WhyReply, banned bool) {
	now := time.Now()
	var findings []ban.Finding
	var verdict ban.Verdict
	var inside int
	var before []control.Finding
	var since time.Time
	d.state.View(func(t *ban.Table) {
		findings = t.Why(prefix)
		verdict, banned = t.Lookup(prefix)
		inside = t.EnforcedInside(prefix, maxInside+1)
		before, since = d.pastLocked(now, prefix, findings), d.past.since
	})
	reply = control.WhyReply{Address: control.PrefixOf(prefix), Verdict: control.VerdictNotDropped}
	why := ""
	if banned {
		if why = d.notTaken(verdict.Prefix, verdict.Ports); why == "" {
			why = d.spares(verdict.Prefix, prefix)
		}
	}
	for _, f := range findings[:min(len(findings), control.MaxFindings-len(before))] {
		out := d.finding(f)
		if f.Kind == ban.KindBan && strings.HasPrefix(f.Status, ban.StateEnforced.String()) {
			not := d.notTaken(f.Prefix, f.Ports)
			if left := d.fw.LeftOut(f.Prefix); not != "" {
				out.Status = "not enforced: " + not
			} else if len(left) > 0 {
				out.Status += ", but it " + leavesOut(left)
			}
			if text := d.api.untold(f.Prefix, f.Ports); text != "" {
				out.Status += "; " + text
			}
			if not == "" && why != "" && f.Prefix.Bits() <= prefix.Bits() && f.Ports.IsAll() && d.spares(f.Prefix, prefix) == "" {
				why, verdict.Prefix, verdict.Ports, verdict.Until = "", f.Prefix, f.Ports, f.Until // another ban drops it
			}
		}
		reply.Findings = append(reply.Findings, out)
	}
	reply.Findings = append(reply.Findings, before...)
	switch {
	case why != "":
		reply.Verdict = control.VerdictWithheld
		part := ""
		if verdict.Prefix != prefix {
			part = ", as part of " + show(verdict.Prefix)
		}
		reply.Summary = fmt.Sprintf("%s is banned until %s%s, but this node does not enforce it: %s. See `meshban status`.",
			show(prefix), control.FormatTime(verdict.Until), part, why)
	case banned && !verdict.Ports.IsAll():
		reply.Verdict = control.VerdictPorts
		reply.Summary = fmt.Sprintf("This node drops %s %s.", show(prefix), onPorts(prefix, reply.Findings))
	case banned:
		reply.Verdict = control.VerdictDropped
		reply.Summary = fmt.Sprintf("This node drops every packet from %s until %s.", show(prefix), control.FormatTime(verdict.Until))
		if verdict.Prefix != prefix {
			reply.Summary = fmt.Sprintf("This node drops every packet from %s until %s, as part of %s.", show(prefix), control.FormatTime(verdict.Until), show(verdict.Prefix))
		}
	case len(reply.Findings) == 0:
		reply.Summary = fmt.Sprintf("No record of the mesh bears on %s: this node lets it through.", show(prefix))
		if now.Sub(since) < pastKept {
			reply.Summary += fmt.Sprintf(" Nothing is known of bans that ended before %s.", control.FormatPast(since))
		}
	default:
		reply.Summary = fmt.Sprintf("This node lets %s through: %s.", show(prefix), letThrough(prefix, reply.Findings, inside))
	}
	return reply, banned
}

// onPorts returns on which ports findings drop prefix, and until when.
func onPorts(prefix netip.Prefix, findings []control.Finding) string {
	var ports []string
	ends := make(map[string]time.Time)
	for _, f := range findings {
		if f.Kind != ban.KindBan.String() || f.Prefix.Bits() > prefix.Bits() || !strings.HasPrefix(f.Status, ban.StateEnforced.String()) {
			continue
		}
		if _, ok := ends[f.Ports]; !ok {
			ports = append(ports, f.Ports)
		}
		if f.Until.After(ends[f.Ports]) {
			ends[f.Ports] = f.Until.Time
		}
	}
	for i, p := range ports {
		ports[i] = fmt.Sprintf("on ports %s until %s", p, control.FormatTime(ends[p]))
	}
	return strings.Join(ports, " and ")
}

// finding returns a record of the table as why shows it, with the names of nodes.
func (d *Daemon) finding(f ban.Finding) control.Finding {
	out := control.Finding{
		Kind: f.Kind.String(), Prefix: control.PrefixOf(f.Prefix), Ports: f.Ports.String(), Issued: control.PastOf(f.Issued), Until: control.TimeOf(f.Until),
		Reason: f.Reason, Source: f.Source, Status: f.Status,
	}
	if f.Origin != (ban.Origin{}) {
		out.Origin, out.OriginID = d.names.of(f.Origin), f.Origin.String()
	}
	if f.By != (ban.Origin{}) {
		out.Status = strings.ReplaceAll(out.Status, f.By.Short(), d.names.of(f.By))
	}
	return out
}

// maxInside bounds how far why counts the bans inside a prefix.
const maxInside = 100_000

// letThrough returns why a prefix is not dropped as a whole, given the findings about it. enforced is how many bans inside
// it are enforced; if the findings show more, their number counts.
func letThrough(prefix netip.Prefix, findings []control.Finding, enforced int) string {
	if len(findings) == 0 {
		return "the mesh has no record of it"
	}
	inside := slices.DeleteFunc(slices.Clone(findings), func(f control.Finding) bool {
		return f.Kind != ban.KindBan.String() || f.Prefix.Bits() <= prefix.Bits() || !strings.HasPrefix(f.Status, ban.StateEnforced.String())
	})
	f := findings[0]
	covers := f.Prefix.Bits() <= prefix.Bits()
	switch {
	case len(inside) > 0 && !(covers && f.Kind == ban.KindNever.String()):
		text := "no ban covers all of it, but inside it " + show(inside[0].Prefix.Prefix)
		switch more := max(len(inside), enforced) - 1; {
		case more >= maxInside:
			text += fmt.Sprintf(" and at least %d more", maxInside)
		case more > 0:
			text += fmt.Sprintf(" and %d more", more)
		}
		return text + " are banned"
	case f.Kind == ban.KindNever.String() && covers:
		return "it is on the never-ban list (" + f.Reason + ")"
	case f.Kind == ban.KindAllow.String() && f.Status == ban.StatusCounts && covers:
		why := f.Origin
		if f.Reason != "" {
			why += fmt.Sprintf(", %q", f.Reason)
		}
		return "it is on the allow list (" + why + ")"
	case f.Kind == control.KindEnded && covers:
		return fmt.Sprintf("the ban until %s %s", f.Until.String(), f.Status)
	case !covers:
		return "nothing bans all of it"
	}
	return f.Status
}

// addrText returns a node's address as text, or "" if it has none.
func addrText(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// Members implements control.Agent.
func (d *Daemon) Members(ctx context.Context) ([]control.Member, error) {
	heard := d.hearAll(ctx, membersFresh)
	members, now := d.mesh.Members(), time.Now()
	out := make([]control.Member, 0, len(members))
	listed := make(map[frame.ID]bool)
	for _, m := range members {
		c := control.Member{
			Name: d.names.plain(ban.Origin(m.ID)), ID: m.ID.String(), Addr: addrText(m.Addr), State: m.State.String(),
			InSync: m.InSync, Version: m.Version, Self: m.Self, ConfirmedS: confirmedS(m),
		}
		if m.KeyKnown {
			c.KeyGeneration = &m.KeyGeneration
		}
		d.certified(&c, d.mesh.Standing(m.ID))
		listed[m.ID] = true
		if m.Self {
			d.tell(now).fill(&c)
		} else if h, ok := heard[m.ID]; ok && h.err == nil {
			h.fill(&c)
		}
		if !m.Self {
			c.UDP = udpText(m)
			if h, ok := heard[m.ID]; ok {
				c.TCP = tcpText(h.err)
			}
		}
		if m.RTT > 0 {
			ms := float64(m.RTT.Microseconds()) / 1000
			c.RTTms = &ms
		}
		out = append(out, c)
	}
	for _, s := range d.mesh.Standings() {
		if s.Revoked != nil && !listed[s.ID] {
			c := control.Member{Name: d.names.plain(ban.Origin(s.ID)), ID: s.ID.String(), State: control.MemberDead}
			d.certified(&c, s)
			out = append(out, c)
		}
	}
	slices.SortStableFunc(out, func(a, b control.Member) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	return out, nil
}

// udpText returns whether UDP gets through between a member and this node, and what is wrong if not.
func udpText(m mesh.Member) string {
	if trouble := m.UDPTrouble("it"); trouble != "" {
		what, _, _ := strings.Cut(trouble, ";")
		return what
	}
	return control.UDPFine
}

// Status implements control.Agent.
func (d *Daemon) Status(ctx context.Context) (control.Status, error) {
	s := d.localStatus()
	if v4, v6, err := d.fw.Dropped(ctx); err == nil && s.Firewall.Backend != fw.NameNone {
		s.Firewall.Dropped = &control.DroppedStatus{IPv4: control.Dropped(v4), IPv6: control.Dropped(v6)}
	} else if err != nil {
		d.log.Debug("the kernel's counters could not be read", "err", err)
	}
	s.Fail2ban = d.fail2banStatus(ctx)
	if text := d.authorityProblem(ctx); text != "" {
		s.Problems = append(s.Problems, "authority: "+text)
	}
	s.Reminders = d.reminders(s.Mesh)
	return s, nil
}

// localStatus returns what this node knows without asking anybody.
func (d *Daemon) localStatus() control.Status {
	if text := d.standingProblem(); text != "" {
		d.problems.setFor(string(mesh.ProblemCertificate), text, "", briefly) // it says what to do
		d.ignoredShown.Store(true)
	} else if d.ignoredShown.Swap(false) {
		d.problems.clear(string(mesh.ProblemCertificate))
	}
	counts, kernel, file, now := d.state.Counts(), d.fw.Status(), d.follower.Stats(), time.Now()
	s := control.Status{
		Name: d.names.plain(d.self), ID: d.self.String(), Version: d.version, UptimeS: now.Sub(d.started).Seconds(), Addr: addrText(d.mesh.Addr()),
		Mesh: d.meshStatus(),
		Bans: control.BanStatus{Active: counts.Active, Pending: counts.Pending, Held: counts.Held, Allowed: counts.Allowed},
		Firewall: control.FirewallStatus{
			Backend: kernel.Backend, Enforced: kernel.Enforced, NotEnforced: kernel.NotEnforced, Repairs: kernel.Repairs, LastError: kernel.LastError,
			LeavesOut: d.around(),
		},
		API:      d.apiStatus(),
		Lines:    d.lineStatus(file),
		Drill:    d.drillStatus(),
		Problems: d.problems.list(now),
	}
	for i, text := range s.Problems {
		s.Problems[i] = d.nameNodes(text)
	}
	for _, a := range d.attempts {
		if a.Err != nil {
			s.Firewall.Tried = append(s.Firewall.Tried, control.Attempt{Backend: a.Name, Error: a.Err.Error()})
		}
	}
	problem := func(kind, what, remedy string) { // as of problems.set
		if what != "" {
			s.Problems = append(s.Problems, kind+": "+withRemedy(what, remedy))
		}
	}
	var held, heldThere, refusedThere string
	d.state.View(func(t *ban.Table) {
		held = d.heldProblemLocked(t)
		heldThere, refusedThere = d.reportProblemsLocked(now)
	})
	problem("held", held, "")
	problem("peers", heldThere, "")
	problem("peers", refusedThere, "")
	for _, m := range d.mesh.Members() {
		problem(string(mesh.ProblemUDP), m.UDPTrouble(d.names.of(ban.Origin(m.ID))), "")
	}
	for _, f := range d.mesh.Faults() {
		problem(string(f.Kind), d.nameNodes(f.Text), "")
	}
	problem(string(mesh.ProblemKey), keyProblem(d.mesh.KeyStatus(), d.names), "")
	var paused, remedy string
	s.Paused, paused, remedy = d.pauseStatus()
	problem("paused", paused, remedy)
	problem("firewall", kernel.Problem, firewallRemedy)
	problem("firewall", kernel.LetsThrough, "see that ip6tables works here, or write `firewall: {backends: [nftables]}` into meshban.yaml; then restart the agent")
	if file.Problem != nil {
		what, remedy := d.lineFileProblem("is not read", file.Problem)
		problem("line file", what, remedy)
	}
	if file.Network != "" {
		problem("line file", fmt.Sprintf("%s is on a network file system (%s)", d.config().Lines.File, file.Network), ownFileRemedy)
	}
	if err := d.store.Stats().LastError; err != nil {
		problem("store", fmt.Sprintf("%s cannot be written: %s; a restart of the agent before that works loses what has changed since", d.home.Store(), cause(err)),
			fileRemedy(d.home.Store(), err))
	}
	if kernel.Backend == fw.NameNone {
		problem("firewall", d.noneProblem(), "")
	}
	return s
}

// refusedLine is why a line was ignored that asked for what may not be banned.
const refusedLine = "refused by policy"

// lineStatus counts the file's lines by what became of them.
func (d *Daemon) lineStatus(file logsrc.Stats) control.LineStatus {
	s := control.LineStatus{
		File: d.config().Lines.File, Accepted: file.Accepted, Echoes: d.lines.echoes.Load(), Emitted: d.lines.emitted.Load(),
		IgnoredBy: map[string]uint64{}, MisreadBy: misread(file.Misread, d.lines.allPorts.Load()),
	}
	for reason, n := range file.Ignored {
		if n > 0 {
			s.Ignored += n
			s.IgnoredBy[reason.String()] = n
		}
	}
	// A line that was accepted but not banned is counted separately, so that every line is accounted for.
	s.Accepted -= min(s.Accepted, s.Echoes)
	if refused := d.lines.refused.Load(); refused > 0 {
		s.Accepted -= min(s.Accepted, refused)
		s.Ignored += refused
		s.IgnoredBy[refusedLine] = refused
	}
	return s
}

// around returns how many enforced bans leave out networks of this machine's own; "" if none does.
func (d *Daemon) around() string {
	switch n, left := d.fw.Around(); n {
	case 0:
		return ""
	case 1:
		return "1 ban " + leavesOut(left)
	default:
		return fmt.Sprintf("%d bans leave", n) + strings.TrimPrefix(leavesOut(left), "leaves")
	}
}

// noneProblem returns why a node with the backend none drops nothing.
func (d *Daemon) noneProblem() string {
	if d.claimed != nil {
		return "backend none: this agent drops no packet: " + d.claimed.Error()
	}
	return "backend none: no packet is dropped on this machine; " + noneRemedy(os.Geteuid() == 0, d.config().Firewall.Backends)
}

// noneRemedy returns what to do to have packets dropped. If several backends were tried, none but "none" worked.
func noneRemedy(root bool, backends []string) string {
	switch {
	case !root:
		return "run the agent as root to have them dropped"
	case slices.Equal(backends, []string{fw.NameNone}):
		return "to have them dropped, write `firewall: {backends: auto}` into meshban.yaml, or leave out --firewall, and restart the agent"
	}
	return "install nftables, or ipset and iptables, and restart the agent"
}

// confirmedS returns how many seconds ago a member was last found in sync, or nil if never.
func confirmedS(m mesh.Member) *float64 {
	switch {
	case m.Self:
		return new(0.0)
	case m.Confirmed.IsZero():
		return nil
	}
	return new(max(time.Since(m.Confirmed), 0).Seconds())
}

// meshStatus counts members.
func (d *Daemon) meshStatus() control.MeshStatus {
	digest := d.mesh.Digest()
	s := control.MeshStatus{Digest: hex.EncodeToString(digest[:]), KeyGeneration: d.mesh.KeyStatus().InUse}
	for _, m := range d.mesh.Members() {
		s.Total++
		if m.State != mesh.StateAlive {
			continue
		}
		s.Alive++
		if m.InSync || m.Self {
			s.InSync++
		} else if len(s.Unconfirmed) < control.MaxUnconfirmed {
			s.Unconfirmed = append(s.Unconfirmed, control.Unconfirmed{
				Name: d.names.plain(ban.Origin(m.ID)), ID: m.ID.String(), ConfirmedS: confirmedS(m),
			})
		}
	}
	return s
}

// Watch implements control.Agent.
func (d *Daemon) Watch(ctx context.Context, yield func(control.Event) error) error {
	w := d.hub.join()
	defer d.hub.leave(w)
	for {
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-w.events:
			if !ok {
				return &control.Error{Code: control.CodeFailed, Message: "this watcher was too slow and has missed events", Hint: "start it again; `meshban list` shows what is banned now"}
			}
			if err := yield(e); err != nil {
				return err
			}
		}
	}
}
