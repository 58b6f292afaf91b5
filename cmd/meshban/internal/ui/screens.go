package ui

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// overviewView is the first page.
type overviewView struct {
	control.Status
	Chart   chart
	Sources []bar
}

func (h *Handler) overview(ctx context.Context, _ *http.Request) (any, error) {
	s, err := h.agent.Status(ctx)
	pace := h.agent.Pace()
	return overviewView{Status: s, Chart: draw(pace), Sources: bars(pace.Sources)}, err
}

// Dropped returns how many packets the kernel has dropped.
func (v overviewView) Dropped() uint64 {
	if v.Firewall.Dropped == nil {
		return 0
	}
	return v.Firewall.Dropped.IPv4.Packets + v.Firewall.Dropped.IPv6.Packets
}

// meshView is the picture of the mesh.
type meshView struct {
	Members []meshRow
	More    int // nodes that are not in Members
	Picture picture
	Way     Way
}

// meshRow is a node and how long the last ban took into its kernel.
type meshRow struct {
	control.Member
	Took *float64
}

// maxMeshRows is how many nodes the page of the mesh lists.
const maxMeshRows = 100

func (h *Handler) mesh(ctx context.Context, _ *http.Request) (any, error) {
	members, err := h.agent.Members(ctx)
	if err != nil {
		return nil, err
	}
	members = slices.DeleteFunc(members, func(m control.Member) bool { return m.Revoked != nil })
	for i := range members {
		if m := &members[i]; m.State == control.MemberDead || m.State == control.MemberLeft { // what was measured is old
			m.RTTms, m.UDP = nil, ""
		}
	}
	v := meshView{Picture: arrange(members), Way: h.agent.Way(ctx)}
	if v.More = max(len(members)-maxMeshRows, 0); v.More > 0 { // those that need somebody come first
		slices.SortStableFunc(members, func(a, b control.Member) int { return trouble(b) - trouble(a) })
	}
	for _, m := range members[:len(members)-v.More] {
		row := meshRow{Member: m}
		if ms, ok := v.Way.MS[m.ID]; ok {
			row.Took = &ms
		}
		v.Members = append(v.Members, row)
	}
	return v, nil
}

// Path returns the address of the page about a prefix.
func (meshView) Path(p control.Prefix) string { return Root + whyOf(p) }

// trouble is 1 for a member that is not well.
func trouble(m control.Member) int {
	if _, tone := stateOf(m); tone != "good" || len(m.Problems) > 0 {
		return 1
	}
	return 0
}

// bansView is a page of what is banned.
type bansView struct {
	Q, State   string
	States     []string
	Rows       []control.ListEntry
	From       int    // number of the first row, from 1
	Next, Prev string // path of another page; "" = none
}

// Path returns the address of the page about a row.
func (bansView) Path(p control.Prefix) string { return Root + whyOf(p) }

// errEnough ends a list when the page is full.
var errEnough = errors.New("the page is full")

func (h *Handler) bans(ctx context.Context, r *http.Request) (any, error) {
	v := bansView{Q: cut(strings.TrimSpace(r.FormValue("q")), maxQuery), State: r.FormValue("state"), States: []string{
		control.StateEnforced, control.StateNotEnforced, control.StatePending, control.StateHeld, control.StateAllowed,
	}}
	skip, err := skipOf(r)
	if err != nil {
		return nil, err
	}
	seen, more := 0, false
	err = h.agent.Find(ctx, newSearch(v.Q, v.State), func(e control.ListEntry) error {
		if seen++; seen <= skip {
			return nil
		}
		if len(v.Rows) == pageRows {
			more = true
			return errEnough
		}
		e.Origins, e.OriginIDs = slices.Clone(e.Origins), slices.Clone(e.OriginIDs)
		v.Rows = append(v.Rows, e)
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, err
	}
	v.From = skip + 1
	if more && skip+pageRows <= maxSkip {
		v.Next = pageOf("bans", skip+pageRows, "q", v.Q, "state", v.State)
	}
	if skip > 0 {
		v.Prev = pageOf("bans", max(skip-pageRows, 0), "q", v.Q, "state", v.State)
	}
	return v, nil
}

// skipOf returns after how many rows a page begins.
func skipOf(r *http.Request) (int, error) {
	skip, err := strconv.Atoi(cmp.Or(r.FormValue("skip"), "0"))
	if err != nil || skip < 0 || skip > maxSkip {
		return 0, &control.Error{Code: control.CodeUsage, Message: "there is no such page", Hint: "search for less"}
	}
	return skip, nil
}

// pageOf returns the path of the page that begins after skip rows, with these names and values.
func pageOf(path string, skip int, query ...string) string {
	v := url.Values{"skip": {strconv.Itoa(skip)}}
	for i := 0; i < len(query); i += 2 {
		v.Set(query[i], query[i+1])
	}
	return Root + path + "?" + v.Encode()
}

// To is the number of the last row.
func (v bansView) To() int { return v.From + len(v.Rows) - 1 }

// whyView is the page about an address.
type whyView struct {
	control.WhyReply
	Banned bool
	Time   []control.Finding // newest first
}

func (h *Handler) why(ctx context.Context, r *http.Request) (any, error) {
	p, err := config.ParsePrefix(strings.TrimSpace(r.FormValue("addr")))
	if err != nil {
		return nil, usage(err)
	}
	reply, err := h.agent.Why(ctx, p)
	if err != nil {
		return nil, err
	}
	v := whyView{WhyReply: reply, Time: reply.Findings[:min(len(reply.Findings), control.MaxFindings)]}
	v.Banned = reply.Verdict == control.VerdictDropped || reply.Verdict == control.VerdictPorts || reply.Verdict == control.VerdictWithheld
	slices.SortStableFunc(v.Time, func(a, b control.Finding) int { return b.Issued.Compare(a.Issued.Time) })
	return v, nil
}

// heldView is what waits for a decision.
type heldView struct {
	Rows    []control.HeldEntry
	Total   int
	Origins []heldOrigin // those with the most first
}

// heldOrigin is a node and how much of what it said is on hold.
type heldOrigin struct {
	Name, ID string
	N        int
}

func (h *Handler) held(ctx context.Context, _ *http.Request) (any, error) {
	var v heldView
	by := make(map[string]heldOrigin)
	err := h.agent.Held(ctx, func(e control.HeldEntry) error {
		v.Total++
		by[e.ID] = heldOrigin{e.Origin, e.ID, by[e.ID].N + 1}
		if len(v.Rows) < pageRows {
			v.Rows = append(v.Rows, e)
		}
		return nil
	})
	v.Origins = slices.SortedFunc(maps.Values(by), func(a, b heldOrigin) int { return cmp.Or(b.N-a.N, strings.Compare(a.ID, b.ID)) })
	return v, err
}

// allowView is the never-ban list: what people have added, and what always stands.
type allowView struct{ Added, Always []control.AllowEntry }

func (h *Handler) allowed(ctx context.Context, _ *http.Request) (any, error) {
	list, err := h.agent.Allowed(ctx)
	var v allowView
	for _, e := range list {
		if e.Source == sourceMesh {
			v.Added = append(v.Added, e)
		} else {
			v.Always = append(v.Always, e)
		}
	}
	return v, err
}

// membersView is a page of the members.
type membersView struct {
	Q          string
	Rows       []control.Member
	From, To   int // numbers of the rows, from 1
	Total, All int // how many fit, and how many there are
	Next, Prev string
}

func (h *Handler) members(ctx context.Context, r *http.Request) (any, error) {
	v := membersView{Q: cut(strings.TrimSpace(r.FormValue("q")), maxQuery)}
	skip, err := skipOf(r)
	if err != nil {
		return nil, err
	}
	list, err := h.agent.Members(ctx)
	words := strings.ToLower(v.Q)
	v.All = len(list)
	list = slices.DeleteFunc(list, func(m control.Member) bool {
		return !has(m.Name, words) && !strings.HasPrefix(m.ID, words) && !has(m.Addr, words) && !has(m.State, words) && !has(m.Version, words)
	})
	skip = min(skip, len(list))
	v.Total, v.Rows, v.From = len(list), list[skip:min(skip+pageRows, len(list))], skip+1
	v.To = skip + len(v.Rows)
	if v.To < len(list) {
		v.Next = pageOf("members", skip+pageRows, "q", v.Q)
	}
	if skip > 0 {
		v.Prev = pageOf("members", max(skip-pageRows, 0), "q", v.Q)
	}
	return v, err
}

// keysView is what programs use, and what is told to others.
type keysView struct {
	control.KeysReply
	Hooks []Hook
}

func (h *Handler) keys(ctx context.Context, _ *http.Request) (any, error) {
	keys, err := h.agent.Keys(ctx)
	return keysView{keys, h.agent.Hooks()}, err
}

// drillView is the last drill, and what each node made of it if it was begun on this page.
type drillView struct {
	Result *control.DrillReply
	Last   *control.DrillStatus
}

func (h *Handler) drill(ctx context.Context, _ *http.Request) (any, error) {
	s, err := h.agent.Status(ctx)
	return drillView{Last: s.Drill}, err
}

// auditView is who changed what, newest first.
type auditView struct {
	Q, Since string
	Spans    []string
	Rows     []auditRow
	More     bool
}

// auditRow is an entry with its first prefixes.
type auditRow struct {
	control.AuditEntry
	First []control.Prefix
	More  int // how many follow
}

// maxAudit is how many entries of the audit log a page shows.
const maxAudit = 200

func (h *Handler) audit(ctx context.Context, r *http.Request) (any, error) {
	v := auditView{Q: cut(strings.TrimSpace(r.FormValue("q")), maxQuery), Since: cmp.Or(r.FormValue("since"), "1d"), Spans: []string{"1h", "1d", "7d", "30d"}}
	back, err := config.ParseDuration(v.Since)
	if err != nil {
		return nil, usage(err)
	}
	near, err := config.ParsePrefix(v.Q)
	if err != nil {
		near = netip.Prefix{}
	}
	words := strings.ToLower(v.Q)
	err = h.agent.Audit(ctx, h.now().Add(-back), func(e control.AuditEntry) error {
		found := has(e.What, words) || has(e.Reason, words) || has(e.User, words) || has(e.Node, words) || has(e.Source, words)
		if near.IsValid() {
			found = slices.ContainsFunc(e.Prefixes, near.Overlaps)
		}
		if !found {
			return nil
		}
		if v.Rows = append(v.Rows, rowOf(e)); len(v.Rows) >= 2*maxAudit { // the newest come last
			v.Rows, v.More = slices.Delete(v.Rows, 0, maxAudit), true
		}
		return nil
	})
	if len(v.Rows) > maxAudit {
		v.Rows, v.More = v.Rows[len(v.Rows)-maxAudit:], true
	}
	slices.Reverse(v.Rows)
	return v, err
}

// shownPrefixes is how many prefixes of one audit entry are shown.
const shownPrefixes = 5

// rowOf returns a row that keeps little of an entry about many addresses.
func rowOf(e control.AuditEntry) auditRow {
	row := auditRow{AuditEntry: e}
	for _, p := range e.Prefixes[:min(len(e.Prefixes), shownPrefixes)] {
		row.First = append(row.First, control.PrefixOf(p))
	}
	row.More, row.Prefixes = len(e.Prefixes)-len(row.First), nil
	return row
}

// Path returns the address of the page about a prefix.
func (auditView) Path(p control.Prefix) string { return Root + whyOf(p) }
