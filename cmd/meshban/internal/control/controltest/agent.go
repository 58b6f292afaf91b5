// Package controltest provides an agent without kernel, mesh or disk, for tests of code that uses the control socket.
package controltest

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/apikey"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// DefaultFor is the duration of a ban that gives none.
const DefaultFor = 30 * time.Minute

// Agent keeps bans in memory. Loopback is on its never-ban list; it refuses prefixes wider than /8 and ports other
// than "", "80" and "22/tcp". Set the fields before it serves.
type Agent struct {
	Now func() time.Time // nil = time.Now
	// ListErr, when set, fails List after ListFail entries.
	ListErr  error
	ListFail int
	// Hang, when set, makes Status wait until its context ends.
	Hang bool
	// Well leaves the problem out of Status.
	Well bool
	// Leaky makes a node fail Drill.
	Leaky bool
	// Audited is the audit log.
	Audited []control.AuditEntry

	mu       sync.Mutex // guards what follows
	bans     map[netip.Prefix]control.ListEntry
	allows   map[netip.Prefix]control.AllowEntry
	requests []control.BanRequest
	said     uint64                  // number of bans so far
	saidAt   map[netip.Prefix]uint64 // value of said when the ban was made
	watchers map[chan control.Event]struct{}
	held     []control.HeldEntry
	revoked  time.Time // web3
	paused   bool
}

var _ control.Agent = (*Agent)(nil)

// New returns an agent that holds entries.
func New(entries ...control.ListEntry) *Agent {
	a := &Agent{
		bans:     map[netip.Prefix]control.ListEntry{},
		allows:   map[netip.Prefix]control.AllowEntry{},
		saidAt:   map[netip.Prefix]uint64{},
		watchers: map[chan control.Event]struct{}{},
	}
	for _, e := range entries {
		a.bans[e.Prefix.Prefix] = e
	}
	return a
}

func (a *Agent) now() time.Time {
	if a.Now != nil {
		return a.Now()
	}
	return time.Now().UTC().Truncate(time.Millisecond)
}

// BanRequests returns the requests that Ban got so far.
func (a *Agent) BanRequests() []control.BanRequest {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.requests)
}

// Watchers returns the number of event streams.
func (a *Agent) Watchers() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.watchers)
}

// Cancelled is an address whose bans have no effect.
var Cancelled = netip.MustParsePrefix("192.0.2.66/32")

var loopback = netip.MustParsePrefix("127.0.0.0/8")

func refusal(p netip.Prefix) *control.Error {
	switch {
	case loopback.Overlaps(p):
		return &control.Error{
			Code: control.CodePolicy, Message: "it is on the never-ban list: loopback", Rule: "never-ban list",
		}
	case p.Bits() < 8:
		return &control.Error{
			Code: control.CodePolicy, Message: fmt.Sprintf("/%d is wider than /8", p.Bits()), Rule: "prefix too wide",
			Hint: "ban narrower prefixes",
		}
	}
	return nil
}

// Ban bans for For or DefaultFor.
func (a *Agent) Ban(_ context.Context, req control.BanRequest) (control.BanReply, error) {
	if !slices.Contains([]string{"", "80", "22/tcp"}, req.Ports) {
		return control.BanReply{}, &control.Error{
			Code: control.CodeUsage, Message: fmt.Sprintf("%q is not a port list", req.Ports), Hint: "write 22/tcp,80",
		}
	}
	now := a.now()
	until := now.Add(cmp.Or(time.Duration(req.For), DefaultFor))
	var rep control.BanReply
	a.mu.Lock()
	defer a.mu.Unlock()
	a.requests = append(a.requests, req)
	for _, p := range req.Addrs {
		res := control.Result{Prefix: control.PrefixOf(p), Err: refusal(p)}
		if p == Cancelled {
			res.Until, res.State = control.TimeOf(until), control.StateLifted
			res.Err = &control.Error{
				Code: control.CodePolicy, Rule: "cancelled", Message: "192.0.2.66 is not banned: the unban of 192.0.2.0/24 by web3 cancels the ban",
			}
		}
		if was, again := a.bans[p]; res.Err == nil && again {
			res.Note = "it was banned already"
			if was.Source == req.Source {
				rep.Listed++
			}
		} else if res.Err == nil {
			rep.Fresh++
		}
		if res.Err == nil && p.Bits() < 24 && p.Addr().Is4() {
			res.Note, res.Hint = "on this node only: other nodes take nothing wider than /24", fmt.Sprintf("set widest_ipv4: %d", p.Bits())
		}
		if res.Err == nil && !req.DryRun {
			res.Until, res.State = control.TimeOf(until), control.StateEnforced
			a.said++
			a.saidAt[p] = a.said
			a.bans[p] = control.ListEntry{
				Prefix: control.PrefixOf(p), Ports: req.Ports, Until: control.TimeOf(until), Origins: []string{"web1"}, Reason: req.Reason,
				Source: req.Source, State: control.StateEnforced, OriginIDs: []string{"11111111111111111111111111111111"},
			}
			a.tellLocked(control.Event{Time: now, Name: "ban", Prefix: control.PrefixOf(p), Ports: req.Ports, Until: control.TimeOf(until), Origin: "web1",
				Reason: req.Reason, Source: req.Source, LatencyMS: new(1.5)})
		}
		rep.Results = append(rep.Results, res)
	}
	return rep, nil
}

func (a *Agent) tellLocked(e control.Event) {
	for w := range a.watchers {
		w <- e // deep enough for a test
	}
}

// Tell sends e to every watcher.
func (a *Agent) Tell(e control.Event) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tellLocked(e)
}

// Listed counts or lifts the bans whose source is the list.
func (a *Agent) Listed(_ context.Context, req control.ListedRequest) (control.ListedReply, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	rep := control.ListedReply{Mark: control.Mark{Epoch: 1, Seq: a.said}}
	for p, e := range a.bans {
		switch {
		case e.Source != "import:"+req.List:
		case req.Until == nil:
			rep.Bans++
		case a.saidAt[p] <= req.Until.Seq:
			delete(a.bans, p)
			rep.Lifted++
		}
	}
	return rep, nil
}

var notBanned = &control.Error{Code: control.CodeNotFound, Message: "it is not banned", Hint: "meshban list shows what is"}

// Unban lifts exactly what it is given.
func (a *Agent) Unban(_ context.Context, req control.UnbanRequest) (control.UnbanReply, error) {
	var rep control.UnbanReply
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range req.Prefixes {
		res := control.Result{Prefix: control.PrefixOf(p)}
		if _, ok := a.bans[p]; !ok {
			res.Err = notBanned
		}
		delete(a.bans, p)
		rep.Results = append(rep.Results, res)
	}
	return rep, nil
}

// Allow adds to the allow list.
func (a *Agent) Allow(_ context.Context, req control.AllowRequest) (control.AllowReply, error) {
	var rep control.AllowReply
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range req.Prefixes {
		e := control.AllowEntry{Prefix: control.PrefixOf(p), Origin: "web1", Reason: req.Reason, Source: "mesh"}
		if req.For > 0 {
			e.Until = control.TimeOf(a.now().Add(time.Duration(req.For)))
		}
		a.allows[p] = e
		rep.Results = append(rep.Results, control.Result{Prefix: control.PrefixOf(p), Until: e.Until})
	}
	return rep, nil
}

// Unallow removes entries from the allow list.
func (a *Agent) Unallow(_ context.Context, req control.UnallowRequest) (control.UnallowReply, error) {
	var rep control.UnallowReply
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range req.Prefixes {
		res := control.Result{Prefix: control.PrefixOf(p)}
		if _, ok := a.allows[p]; !ok {
			res.Err = &control.Error{Code: control.CodeNotFound, Message: "it is not on the allow list"}
		}
		if p == loopback {
			res.Err = &control.Error{Code: control.CodePolicy, Message: "it is built in", Rule: "never-ban list"}
		}
		delete(a.allows, p)
		rep.Results = append(rep.Results, res)
	}
	return rep, nil
}

// Allowed returns loopback and the allow list, sorted.
func (a *Agent) Allowed(context.Context) ([]control.AllowEntry, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := []control.AllowEntry{
		{Prefix: control.PrefixOf(loopback), Origin: "web1", Source: "built-in: loopback"},
		{Prefix: control.PrefixOf(netip.MustParsePrefix("198.51.100.200/32")), Origin: "web1", Source: "built-in: ssh session of alice"},
	}
	for _, e := range a.allows {
		all = append(all, e)
	}
	slices.SortFunc(all[1:], func(x, y control.AllowEntry) int { return x.Prefix.Compare(y.Prefix.Prefix) })
	return all, nil
}

// List yields the bans, sorted; with hits, those in force have counters.
func (a *Agent) List(_ context.Context, hits bool, yield func(control.ListEntry) error) error {
	a.mu.Lock()
	all := make([]control.ListEntry, 0, len(a.bans))
	for _, e := range a.bans {
		all = append(all, e)
	}
	a.mu.Unlock()
	slices.SortFunc(all, func(x, y control.ListEntry) int { return x.Prefix.Compare(y.Prefix.Prefix) })
	for i, e := range all {
		if a.ListErr != nil && i == a.ListFail {
			return a.ListErr
		}
		if !hits {
			e.Dropped = nil
		} else if e.Dropped == nil && e.State == control.StateEnforced {
			e.Dropped = new(control.Dropped)
		}
		if err := yield(e); err != nil {
			return err
		}
	}
	return nil
}

// Why knows only the ban of exactly this prefix.
func (a *Agent) Why(_ context.Context, p netip.Prefix) (control.WhyReply, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	e, ok := a.bans[p]
	if !ok {
		return control.WhyReply{Address: control.PrefixOf(p), Verdict: control.VerdictNotDropped, Summary: "nothing is known of it"}, nil
	}
	return control.WhyReply{
		Address: control.PrefixOf(p), Verdict: control.VerdictDropped, Summary: "web1 bans it",
		Findings: []control.Finding{{
			Kind: "ban", Prefix: control.PrefixOf(p), Ports: e.Ports, Origin: "web1", Issued: control.TimeOf(e.Until.Add(-DefaultFor)), Until: e.Until,
			Reason: e.Reason, Source: e.Source, Status: "enforced",
		}},
		Nodes: []control.NodeAnswer{
			{Name: "web2", ID: "ffeeddccbbaa99887766554433221100", Verdict: control.VerdictUnknown, Why: "no answer"},
			{Name: "web3", ID: web3, Verdict: control.VerdictNotDropped, Why: "held for the operator",
				Fail2ban: "web3's fail2ban (jail sshd) still bans 203.0.113.7"},
		},
	}, nil
}

// Members returns two members.
func (a *Agent) Members(context.Context) ([]control.Member, error) {
	return []control.Member{
		{Name: "web1", ID: "00112233445566778899aabbccddeeff", Addr: "192.0.2.1:7946", State: control.MemberAlive,
			InSync: true, Version: "1.0.0", Self: true, ConfirmedS: new(0.0), HoldsCA: new(true), Backend: new("nftables"), Enforced: new(1234), Problems: []string{}},
		{Name: "web2", ID: "ffeeddccbbaa99887766554433221100", Addr: "192.0.2.2:7946", State: control.MemberSuspect,
			RTTms: new(0.42), Version: "1.0.0", ConfirmedS: new(40.0)},
	}, nil
}

// Status returns a node of a mesh of two.
func (a *Agent) Status(ctx context.Context) (control.Status, error) {
	if a.Hang {
		<-ctx.Done()
		return control.Status{}, ctx.Err()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	problems := []string{"web2 has not answered for 40 s"}
	if a.Well {
		problems = nil
	}
	return control.Status{
		Name: "web1", ID: "00112233445566778899aabbccddeeff", Version: "1.0.0", UptimeS: 93784.5, Addr: "192.0.2.1:7946",
		Mesh: control.MeshStatus{Alive: 1, Total: 2, InSync: 1, Digest: "ab12cd34",
			Unconfirmed: []control.Unconfirmed{{Name: "web2", ID: "ffeeddccbbaa99887766554433221100"}}},
		Bans: control.BanStatus{Active: len(a.bans), Pending: 1, Allowed: 2},
		Firewall: control.FirewallStatus{
			Backend: "nftables", Enforced: len(a.bans), Repairs: 3,
			Dropped: &control.DroppedStatus{IPv4: control.Dropped{Packets: 12345, Bytes: 740_700}, IPv6: control.Dropped{Packets: 1, Bytes: 80}},
			Tried:   []control.Attempt{{Backend: "ipset", Error: "no such module"}},
		},
		Lines:    control.LineStatus{File: "/var/lib/meshban/newbans.log", Accepted: 12, Ignored: 4, Echoes: 2, Emitted: 7},
		API:      &control.APIStatus{Listen: "127.0.0.1:8080", Held: 3, LeftOut: 2, RangesLeftOut: 1},
		Problems: problems, Reminders: []string{"export ca.key"},
	}, nil
}

// Watch yields what Tell and Ban send.
func (a *Agent) Watch(ctx context.Context, yield func(control.Event) error) error {
	events := make(chan control.Event, 1024) // tellLocked sends; nobody closes it; a full one blocks the test
	a.mu.Lock()
	a.watchers[events] = struct{}{}
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.watchers, events)
	}()
	for {
		select {
		case e := <-events:
			if err := yield(e); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// Invite returns a token.
func (a *Agent) Invite(_ context.Context, req control.InviteRequest) (control.InviteReply, error) {
	return control.InviteReply{
		Token: "meshban1-token", Uses: cmp.Or(req.Uses, 1), Expires: control.TimeOf(a.now().Add(cmp.Or(time.Duration(req.For), time.Hour))),
	}, nil
}

// Reach knows of one member that its connections arrive, and nothing of the other.
func (a *Agent) Reach(context.Context) ([]control.Reach, error) {
	return []control.Reach{{Name: "web2", ID: "ffeeddccbbaa99887766554433221100", TCP: new(true)}, {Name: "web3", ID: web3}}, nil
}

// Invitations returns one token.
func (a *Agent) Invitations(context.Context) ([]control.Invitation, error) {
	return []control.Invitation{{ID: "0011aabb", Uses: 20, Used: 3, Expires: control.TimeOf(a.now().Add(time.Hour))}}, nil
}

// CancelInvite knows that token.
func (a *Agent) CancelInvite(_ context.Context, req control.CancelInviteRequest) (control.CancelInviteReply, error) {
	if req.ID != "0011aabb" {
		return control.CancelInviteReply{}, &control.Error{
			Code: control.CodeNotFound, Message: "no open token of this node has the id " + req.ID, Hint: "`meshban invite --list` shows them",
		}
	}
	return control.CancelInviteReply(req), nil
}

// Caps knows one node, web3, and does not store new caps.
func (a *Agent) Caps(_ context.Context, req control.CapsRequest) (control.CapsReply, error) {
	if req.Node != "web3" {
		return control.CapsReply{}, &control.Error{Code: control.CodeNotFound, Message: "no node is called " + req.Node}
	}
	reply := control.CapsReply{Name: "web3", ID: "33333333333333333333333333333333", Until: a.now().Truncate(time.Second).Add(time.Hour)}
	if req.Caps != nil {
		reply.Caps = *req.Caps
	}
	return reply, nil
}

// Audit returns what is in Audited.
func (a *Agent) Audit(_ context.Context, since time.Time, yield func(control.AuditEntry) error) error {
	for _, e := range a.Audited {
		if e.Time.Before(since) {
			continue
		}
		if err := yield(e); err != nil {
			return err
		}
	}
	return nil
}

// Hold adds a ban on hold.
func (a *Agent) Hold(e control.HeldEntry) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.held = append(a.held, e)
}

// Held yields the bans on hold.
func (a *Agent) Held(_ context.Context, yield func(control.HeldEntry) error) error {
	a.mu.Lock()
	held := slices.Clone(a.held)
	a.mu.Unlock()
	for _, e := range held {
		if err := yield(e); err != nil {
			return err
		}
	}
	return nil
}

// Decide removes the bans on hold that match.
func (a *Agent) Decide(_ context.Context, req control.DecideRequest) (control.DecideReply, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	before := len(a.held)
	a.held = slices.DeleteFunc(a.held, func(e control.HeldEntry) bool {
		return (req.Origin == "" || req.Origin == e.Origin) && (len(req.Prefixes) == 0 || slices.Contains(req.Prefixes, e.Prefix.Prefix))
	})
	if len(a.held) == before {
		return control.DecideReply{}, &control.Error{Code: control.CodeNotFound, Message: "nothing of that is held"}
	}
	return control.DecideReply{Decided: before - len(a.held)}, nil
}

// web3 is the id of the one node that Revoke and Caps know.
const web3 = "33333333333333333333333333333333"

// Revoked returns when web3 was revoked; zero = it was not.
func (a *Agent) Revoked() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.revoked
}

// Revoke knows one node, web3.
func (a *Agent) Revoke(_ context.Context, req control.RevokeRequest) (control.RevokeReply, error) {
	if req.Node != "web3" && req.Node != web3 {
		return control.RevokeReply{}, &control.Error{Code: control.CodeNotFound, Message: "no node is called " + req.Node}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	reply := control.RevokeReply{
		Name: "web3", ID: web3, Revoked: a.revoked, DryRun: req.DryRun, Live: control.SaidCount{Bans: 7, Allows: 1, Unbans: 2},
		Last: []control.LastBan{{
			Prefix: control.PrefixOf(netip.MustParsePrefix("203.0.113.7/32")), Ports: "22/tcp", Reason: "scan", Source: "cli",
			Issued: a.now().Add(-2 * time.Hour), Arrived: a.now().Add(-time.Minute),
		}},
	}
	if !req.Since.IsZero() {
		reply.Kept = 2
	}
	if !req.DryRun {
		a.revoked = cmp.Or(a.revoked, a.now())
		reply.Revoked = a.revoked
	}
	return reply, nil
}

// Forget knows two nodes: web3, which is gone, and web2, which is alive.
func (a *Agent) Forget(_ context.Context, req control.ForgetRequest) (control.ForgetReply, error) {
	switch req.Node {
	case "web3", web3:
		return control.ForgetReply{Name: "web3", ID: web3}, nil
	case "web2":
		return control.ForgetReply{}, &control.Error{Code: control.CodeFailed, Message: "web2 is not forgotten: it was heard within the last minute"}
	}
	return control.ForgetReply{}, &control.Error{Code: control.CodeNotFound, Message: "no node is called " + req.Node}
}

// Pause pauses one of three nodes, or all, of which web3 does not answer.
func (a *Agent) Pause(_ context.Context, req control.PauseRequest) (control.PauseReply, error) {
	rep := control.PauseReply{Bans: 7, All: req.All, DryRun: req.DryRun}
	if !req.Off {
		rep.Until = control.TimeOf(a.now().Truncate(time.Second).Add(time.Duration(req.For)))
	}
	if req.All {
		rep.Nodes, rep.Waiting = 3, []string{"web3"}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if req.Off && !a.paused {
		return rep, &control.Error{Code: control.CodeNotFound, Message: "this node is not paused"}
	}
	if !req.DryRun {
		a.paused = !req.Off
	}
	return rep, nil
}

// AddKey knows a key of the name web1.
func (a *Agent) AddKey(_ context.Context, req control.AddKeyRequest) (control.AddKeyReply, error) {
	if req.Key.Name == "web1" {
		return control.AddKeyReply{}, &control.Error{Code: control.CodePolicy, Message: "there is a key of this name", Hint: "`meshban key delete web1`"}
	}
	return control.AddKeyReply{Name: req.Key.Name, Key: "k" + strings.Repeat("0", 39), Listen: "127.0.0.1:8080"}, nil
}

// DeleteKey knows a key of the name web1.
func (a *Agent) DeleteKey(_ context.Context, req control.DeleteKeyRequest) (control.DeleteKeyReply, error) {
	if req.Name != "web1" {
		return control.DeleteKeyReply{}, &control.Error{Code: control.CodeNotFound, Message: "no key has this name"}
	}
	return control.DeleteKeyReply(req), nil
}

// Keys returns one key that was used.
func (a *Agent) Keys(context.Context) (control.KeysReply, error) {
	used := apikey.Use{At: a.now(), Addr: netip.MustParseAddr("127.0.0.1"), Agent: "crowdsec-firewall-bouncer", Version: "v0.0.25"}
	return control.KeysReply{
		Keys:    []apikey.Key{{Name: "web1", May: []string{apikey.Read}, Rate: apikey.DefaultRate, Sources: []string{"line:*"}, Added: a.now(), Use: used}},
		LeftOut: 2, RangesLeftOut: 1,
	}, nil
}

// Rotate reports that web3 lacks the new key.
func (a *Agent) Rotate(context.Context, control.RotateRequest) (control.RotateReply, error) {
	return control.RotateReply{Generation: 2, Nodes: 3, Waiting: []string{"web3"}}, nil
}

// TestHook knows two hooks: ops, which works, and pager, whose receiver has moved.
func (a *Agent) TestHook(_ context.Context, req control.HookRequest) (control.HookReply, error) {
	switch req.Name {
	case "ops":
		return control.HookReply{Name: "ops", MS: 12.5}, nil
	case "pager":
		return control.HookReply{}, &control.Error{Code: control.CodeFailed, Message: "hook pager: the receiver answers 404 Not Found"}
	}
	return control.HookReply{}, &control.Error{
		Code: control.CodeNotFound, Message: fmt.Sprintf("no hook is called %q", req.Name), Hint: "meshban.yaml names them under `hooks:`",
	}
}

// Drill is dropped by web1 and web3; web4 has no firewall. With Leaky, web3 lets the packets through.
func (a *Agent) Drill(context.Context, control.DrillRequest) (control.DrillReply, error) {
	reply := control.DrillReply{
		Addr: netip.MustParseAddr("192.0.2.77"), Dropped: 2, P50MS: new(1.5), P95MS: new(2.25), MaxMS: new(2.25),
		Nodes: []control.DrillNode{
			{Name: "web1", ID: "11111111111111111111111111111111", Verdict: control.DrillDropped, LatencyMS: new(1.5)},
			{Name: "web3", ID: web3, Verdict: control.DrillDropped, LatencyMS: new(2.25)},
			{Name: "web4", ID: "44444444444444444444444444444444", Verdict: control.DrillNoFirewall},
		},
	}
	if a.Leaky {
		reply.Dropped, reply.Failed = 1, 1
		reply.Nodes[1] = control.DrillNode{Name: "web3", ID: web3, Verdict: control.DrillNotDropped, Why: "3 of 3 packets got through"}
	}
	return reply, nil
}
