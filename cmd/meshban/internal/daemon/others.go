package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/fail2ban"
	"github.com/meshban/meshban/mesh"
	"github.com/meshban/meshban/mesh/frame"
)

// Members ask one another what they do about an address, and what state they are in. This file has both ends: this
// node's answers, and what it does with the answers of others.

const (
	// askLimit bounds how long a command waits for other nodes: those that have not answered by then are unknown.
	askLimit = 750 * time.Millisecond
	// leastAsk is the least time for those who answer, however long the command has waited for another one's answers.
	leastAsk = 200 * time.Millisecond
	// membersFresh and statusFresh bound the age of the answers that members and status show.
	membersFresh, statusFresh = 2 * time.Second, 30 * time.Second
	// tellFresh is how long this node gives the same answer about itself, however many ask.
	tellFresh = time.Second
	// maxUnbanAsks bounds the addresses of one unban that other nodes are asked about.
	maxUnbanAsks = 4
	// One member may ask about addrBurst addresses at once, or to be asked back, then once per addrEvery.
	addrBurst, addrEvery = 10, 2 * time.Second
	// maxToldProblems, maxToldBans and maxToldText bound an answer: its problems, its fail2ban bans, and the bytes of
	// one text.
	maxToldProblems, maxToldBans, maxToldText = 8, 8, 240
)

// question is what a member asks; it has at most mesh.MaxQuestion bytes as JSON.
type question struct {
	Addr string `json:"addr,omitempty"` // an address or CIDR; "" asks for the state of the node alone
	// Drill is the address of a drill of the one who asks; see drill.go.
	Drill string `json:"drill,omitempty"`
	// Back asks the member to ask back, and to say whether it could connect.
	Back bool `json:"back,omitempty"`
}

// told is a node's answer; it has at most mesh.MaxAnswer bytes as JSON.
type told struct {
	Backend  string    `json:"backend"`
	Enforced int       `json:"enforced"`
	Problems []string  `json:"problems"`
	HoldsCA  bool      `json:"holds_ca"`
	Paused   bool      `json:"paused,omitempty"`
	Addr     *toldAddr `json:"addr,omitempty"` // nil: not asked, or asked too often

	Drill *toldDrill `json:"drill,omitempty"` // nil: not asked
	Ways  []toldWay  `json:"ways,omitempty"`  // at most maxToldWays, newest first
	Back  *bool      `json:"back,omitempty"`  // nil: not asked, or not tried
}

// toldAddr is what a node does about an address.
type toldAddr struct {
	Verdict string    `json:"verdict"`           // control.VerdictDropped and the like
	Why     string    `json:"why,omitempty"`     // for anything but a plain drop
	Bans    []toldBan `json:"bans,omitempty"`    // by its fail2ban
	LetsGo  bool      `json:"lets_go,omitempty"` // its fail2ban unbans what the mesh lifts
	Unknown string    `json:"unknown,omitempty"` // why its fail2ban's bans are unknown
}

type toldBan struct {
	Jail   string `json:"jail"`
	Prefix string `json:"prefix"`
}

// heard is a node's answer, or why there is none.
type heard struct {
	told
	err error
	at  time.Time
}

// others keeps what other nodes and this one report about themselves.
type others struct {
	asking sync.Mutex // held while a command asks; another one waits and gets the same answers
	of     map[frame.ID]heard

	mu    sync.Mutex // guards what follows
	self  told
	at    time.Time                  // of self
	addrs map[frame.ID]*rate.Limiter // for questions about addresses
}

func newOthers() *others {
	return &others{of: make(map[frame.ID]heard), addrs: make(map[frame.ID]*rate.Limiter)}
}

// takes reports whether a member may ask about an address now.
func (o *others) takes(now time.Time, from frame.ID) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	a := o.addrs[from]
	if a == nil {
		if len(o.addrs) >= ban.MaxOrigins {
			clear(o.addrs) // at the cost of a few extra questions
		}
		a = rate.NewLimiter(rate.Every(addrEvery), addrBurst)
		o.addrs[from] = a
	}
	return a.AllowN(now, 1)
}

// answer returns the answer to a member's question.
func (d *Daemon) answer(ctx context.Context, from frame.ID, text []byte) ([]byte, error) {
	var q question
	if err := json.Unmarshal(text, &q); err != nil {
		return nil, fmt.Errorf("read a question: %w", err)
	}
	now := time.Now()
	t := d.tell(now)
	if q.Addr != "" {
		prefix, err := netip.ParsePrefix(q.Addr)
		if err == nil {
			prefix, err = ban.Normalize(prefix)
		}
		if err != nil {
			return nil, fmt.Errorf("read a question: %w", err)
		}
		if d.others.takes(now, from) {
			t.Addr = d.tellAddr(ctx, prefix)
		}
	}
	if q.Drill != "" {
		t.Drill = d.tellDrill(now, from, q.Drill)
	}
	if q.Back && d.others.takes(now, from) {
		t.Back = d.askBack(ctx, from)
	}
	return t.encode()
}

// encode drops problems until the rest fits.
func (t told) encode() ([]byte, error) {
	for {
		text, err := json.Marshal(t)
		if err != nil || len(text) <= mesh.MaxAnswer || len(t.Problems) == 0 {
			return text, err
		}
		t.Problems = t.Problems[:len(t.Problems)-1]
	}
}

// tell returns the state of this node.
func (d *Daemon) tell(now time.Time) told {
	o := d.others
	o.mu.Lock()
	defer o.mu.Unlock()
	if age := now.Sub(o.at); age < 0 || age >= tellFresh {
		s := d.localStatus()
		o.self = told{
			Backend: s.Firewall.Backend, Enforced: s.Firewall.Enforced, HoldsCA: d.mesh.HasAuthority(), Paused: d.fw.Status().Paused,
			Problems: cleanTexts(s.Problems, maxToldProblems),
		}
		o.at = now
	}
	t := o.self
	for _, w := range d.paces.lastWays() {
		t.Ways = append(t.Ways, w.told())
	}
	return t
}

// forgetSelf has the next question answered afresh.
func (o *others) forgetSelf() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.at = time.Time{}
}

// tellAddr returns what this node does about an address.
func (d *Daemon) tellAddr(ctx context.Context, prefix netip.Prefix) *toldAddr {
	reply, _ := d.explain(prefix)
	t := &toldAddr{Verdict: reply.Verdict, LetsGo: d.config().Fail2ban.Unban}
	switch {
	case reply.Verdict == control.VerdictDropped:
	case reply.Verdict == control.VerdictNotDropped:
		t.Why = cleanText(letThrough(prefix, reply.Findings, 0))
	default:
		t.Why = cleanText(reply.Summary)
	}
	bans, err := d.fail2ban.BannedForPeer(ctx, prefix)
	if err != nil {
		t.Unknown = cleanText(err.Error())
	}
	for _, b := range bans[:min(len(bans), maxToldBans)] {
		t.Bans = append(t.Bans, toldBan{cleanText(b.Jail), b.Prefix.String()})
	}
	return t
}

// readTold decodes a member's answer; all its texts come out printable and of bounded length.
func readTold(text []byte) (told, error) {
	var t told
	if err := json.Unmarshal(text, &t); err != nil {
		return told{}, fmt.Errorf("read an answer: %w", err)
	}
	t.Backend, t.Problems = cleanText(t.Backend), cleanTexts(t.Problems, maxToldProblems)
	t.Enforced, t.Ways = max(0, t.Enforced), t.Ways[:min(len(t.Ways), maxToldWays)]
	if t.Drill != nil {
		t.Drill.clean()
	}
	if a := t.Addr; a != nil {
		a.Verdict, a.Why, a.Unknown = cleanText(a.Verdict), cleanText(a.Why), cleanText(a.Unknown)
		a.Bans = slices.DeleteFunc(a.Bans[:min(len(a.Bans), maxToldBans)], func(b toldBan) bool {
			_, err := netip.ParsePrefix(b.Prefix)
			return err != nil || !fail2ban.IsJailName(b.Jail) // they become part of a command to type
		})
	}
	return t, nil
}

// fill copies a node's answer to its entry in the list of members.
func (t told) fill(m *control.Member) {
	m.Backend, m.Enforced, m.HoldsCA, m.Problems = &t.Backend, &t.Enforced, &t.HoldsCA, t.Problems
}

// cleanText returns at most maxToldText bytes of a text, on one line and printable.
func cleanText(s string) string {
	if s = control.Printable(s); len(s) > maxToldText {
		s = strings.ToValidUTF8(s[:maxToldText], "")
	}
	return s
}

func cleanTexts(list []string, most int) []string {
	out := make([]string, 0, min(len(list), most))
	for _, s := range list[:min(len(list), most)] {
		out = append(out, cleanText(s))
	}
	return out
}

// ask asks members a question, and waits at most limit for their answers.
func (d *Daemon) ask(ctx context.Context, limit time.Duration, ids []frame.ID, q question) []heard {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	text, err := json.Marshal(q)
	if err != nil { // texts always encode
		return make([]heard, len(ids))
	}
	now := time.Now()
	out := make([]heard, len(ids))
	for i, a := range d.mesh.Query(ctx, ids, text) {
		out[i] = heard{err: a.Err, at: now}
		if a.Err == nil {
			out[i].told, out[i].err = readTold(a.Text)
		}
		if out[i].err != nil {
			d.log.Debug("a member does not answer", "name", d.names.of(ban.Origin(a.ID)), "err", cleanText(out[i].err.Error()))
		}
	}
	return out
}

// silence returns in a few words why a node has not answered, or "" if it has.
func (h heard) silence() string {
	switch {
	case errors.Is(h.err, mesh.ErrAskedTooOften):
		return "asked too often"
	case h.err != nil:
		return "no answer"
	}
	return ""
}

// otherMembers returns the other members, and the ids of those that can be asked.
func (d *Daemon) otherMembers() (list []mesh.Member, asked []frame.ID) {
	for _, m := range d.mesh.Members() {
		if m.Self || d.mesh.Standing(m.ID).Revoked != nil {
			continue
		}
		list = append(list, m)
		if isLiving(m) && d.mesh.Trusts(m.ID) {
			asked = append(asked, m.ID)
		}
	}
	return list, asked
}

func isLiving(m mesh.Member) bool { return m.State == mesh.StateAlive || m.State == mesh.StateSuspect }

// hearAll asks the other living members for their state. It reuses answers younger than fresh.
func (d *Daemon) hearAll(ctx context.Context, fresh time.Duration) map[frame.ID]heard {
	o, now := d.others, time.Now()
	o.asking.Lock()
	defer o.asking.Unlock()
	_, ids := d.otherMembers()
	all := make(map[frame.ID]heard, len(ids))
	var stale []frame.ID
	for _, id := range ids {
		if h, ok := o.of[id]; ok && now.Sub(h.at) < fresh && now.Sub(h.at) >= 0 {
			all[id] = h
		} else {
			stale = append(stale, id)
		}
	}
	for i, h := range d.ask(ctx, max(askLimit-time.Since(now), leastAsk), stale, question{}) {
		all[stale[i]] = h
	}
	o.of = all
	return all
}

// askWhy returns what each of the other members does about an address.
func (d *Daemon) askWhy(ctx context.Context, prefix netip.Prefix) []control.NodeAnswer {
	list, ids := d.otherMembers()
	heard := d.ask(ctx, askLimit, ids, question{Addr: prefix.String()})
	out := make([]control.NodeAnswer, 0, len(list))
	for _, m := range list {
		n := control.NodeAnswer{Name: d.names.of(ban.Origin(m.ID)), ID: m.ID.String(), Verdict: control.VerdictUnknown}
		i := slices.Index(ids, m.ID)
		switch {
		case i < 0 && !isLiving(m):
			n.Why = m.State.String()
		case i < 0:
			n.Why = "not certified"
		case heard[i].err != nil:
			n.Why = heard[i].silence()
		case heard[i].Addr == nil:
			n.Why = "asked too often"
		default:
			a := heard[i].Addr
			n.Verdict, n.Why, n.Fail2ban = a.Verdict, a.Why, a.fail2ban(n.Name, prefix)
		}
		out = append(out, n)
	}
	return out
}

// fail2ban returns what a node's fail2ban still bans of a prefix and what to do about it, or "" if it bans nothing.
func (a *toldAddr) fail2ban(node string, prefix netip.Prefix) string {
	if a.Unknown != "" {
		return fail2ban.Unknown(node, a.Unknown)
	}
	var bans []fail2ban.Ban
	for _, b := range a.Bans {
		if p, err := netip.ParsePrefix(b.Prefix); err == nil && p.Overlaps(prefix) {
			bans = append(bans, fail2ban.Ban{Jail: b.Jail, Prefix: p})
		}
	}
	if len(bans) == 0 {
		return ""
	}
	return fail2ban.Describe(node, bans)
}

// askLifted asks other nodes about what an unban lifts. The function it returns waits for the answers and notes in the
// results where a fail2ban still bans it.
func (d *Daemon) askLifted(ctx context.Context, prefixes []netip.Prefix) func([]control.Result) {
	if len(prefixes) > maxUnbanAsks {
		return func([]control.Result) {} // `meshban why` tells about each
	}
	notes := make(map[netip.Prefix]*string, len(prefixes))
	var wait sync.WaitGroup
	for _, prefix := range prefixes {
		note := new(string)
		notes[prefix] = note
		wait.Go(func() { *note = d.othersOnLifted(ctx, prefix) })
	}
	return func(results []control.Result) {
		wait.Wait()
		for i := range results {
			if note := notes[results[i].Prefix.Prefix]; note != nil {
				addNote(&results[i], *note)
			}
		}
	}
}

// addNote adds a note to a success, or to the hint of an error; "" adds nothing.
func addNote(r *control.Result, note string) {
	at := &r.Note
	if r.Err != nil {
		at = &r.Err.Hint
	}
	if note != "" {
		*at = strings.TrimPrefix(*at+"; "+note, "; ")
	}
}

// othersOnLifted returns which other nodes' fail2ban still bans what was lifted, and which nodes do not answer.
func (d *Daemon) othersOnLifted(ctx context.Context, prefix netip.Prefix) string {
	_, ids := d.otherMembers()
	var notes []string
	for i, h := range d.ask(ctx, askLimit, ids, question{Addr: prefix.String()}) {
		name := d.names.of(ban.Origin(ids[i]))
		switch a := h.Addr; {
		case h.err != nil && !errors.Is(h.err, mesh.ErrAskedTooOften):
			notes = append(notes, name+" does not answer: what its fail2ban bans is unknown")
		case a == nil:
		case a.LetsGo && len(a.Bans) > 0:
			notes = append(notes, fmt.Sprintf("%s's fail2ban (jail %s) lets go of it within seconds", name, a.Bans[0].Jail))
		default:
			if said := a.fail2ban(name, prefix); said != "" {
				notes = append(notes, said)
			}
		}
	}
	return strings.Join(notes, "; ")
}

// reminders returns the one-time tasks that the operator has yet to do.
func (d *Daemon) reminders(m control.MeshStatus) []string {
	var list []string
	if d.fw.Status().Unsavable {
		if text := savedRuleset(""); text != "" {
			list = append(list, text)
		}
	}
	if !d.mesh.HasAuthority() || m.Total < 2 || d.home.Exported(d.mesh.AuthorityID()) {
		return list
	}
	return append(list, "ca.key is on this machine only: `meshban ca export FILE` copies it; keep the copy elsewhere")
}

// authorityProblem returns the problem that no living node has the authority's key, or "" if one has it or a node does
// not answer.
func (d *Daemon) authorityProblem(ctx context.Context) string {
	if d.mesh.HasAuthority() {
		return ""
	}
	heard := d.hearAll(ctx, statusFresh)
	list, _ := d.otherMembers()
	for _, m := range list {
		if h, ok := heard[m.ID]; isLiving(m) && (!ok || h.err != nil || h.HoldsCA) {
			return ""
		}
	}
	return "no living node holds ca.key: no certificate is renewed, and nobody can be invited or revoked; " +
		"start the agent of the node that has it, or put a copy back with `meshban ca import FILE`"
}
