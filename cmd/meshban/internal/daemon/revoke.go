package daemon

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/daemon/enforce"
	"github.com/meshban/meshban/mesh"
	"github.com/meshban/meshban/mesh/frame"
)

// needAuthority returns an error that says that a verb needs the authority's key, and where that may be.
func (d *Daemon) needAuthority(verb string) error {
	return &control.Error{
		Code:    control.CodeFailed,
		Message: fmt.Sprintf("%s needs the key of the mesh's authority, which is not on this node", verb),
		Hint:    fmt.Sprintf("run it on the node that has ca.key in its state folder: the one where the mesh began (here it would be %s)", d.home.Authority()),
	}
}

// Revoke implements control.Agent.
func (d *Daemon) Revoke(ctx context.Context, req control.RevokeRequest) (control.RevokeReply, error) {
	if !d.mesh.HasAuthority() {
		return control.RevokeReply{}, d.needAuthority("revoke")
	}
	id, err := d.findNode(req.Node)
	if err != nil {
		return control.RevokeReply{}, err
	}
	now := time.Now()
	req.Since = req.Since.Truncate(time.Millisecond) // as in records
	if id == frame.ID(d.self) {
		return control.RevokeReply{}, &control.Error{
			Code: control.CodePolicy, Rule: "own node", Message: "a node cannot revoke itself",
			Hint: "do it on another node that has the authority's key",
		}
	}
	if req.Since.After(now) {
		return control.RevokeReply{}, &control.Error{Code: control.CodeUsage, Message: fmt.Sprintf("--since %s is in the future", control.FormatPast(req.Since))}
	}
	reply := d.revokePreview(now, id, req)
	if req.DryRun {
		return reply, nil
	}
	name, old := d.names.certifiedName(ban.Origin(id)), d.mesh.Standing(id).Revoked
	reply.Kept = 0
	if old == nil && !req.Since.IsZero() {
		// Say the bans in our name first, then revoke, so that no packet gets through in between.
		if reply.Kept, err = d.sayAgain(ctx, now, ban.Origin(id), req.Since); err != nil {
			return control.RevokeReply{}, err
		}
		if reply.Kept > 0 {
			d.mesh.Flush()
			select {
			case <-time.After(revokeAfter):
			case <-ctx.Done():
				return control.RevokeReply{}, ctx.Err()
			}
		}
	}
	v, err := d.mesh.Revoke(id, name, req.Since, req.Reason)
	if err != nil {
		return control.RevokeReply{}, stopping(err)
	}
	if err := d.keepRecord(ctx, v.Frame.Raw); err != nil {
		return control.RevokeReply{}, err
	}
	if old == nil {
		e := d.byCaller(ctx, now)
		e.What, e.Reason = "revoke node", strings.TrimSpace(fmt.Sprintf("%s (%s) %s", name, id, req.Reason))
		d.audit.Add(e)
		d.log.Warn("revoked a node", "name", name, "id", id.Short(), "reason", req.Reason, "since", control.FormatPast(req.Since), "kept", reply.Kept)
	}
	reply.Revoked = v.Issued
	return reply, nil
}

// revokePreview returns what a revocation takes back, and how much of it stays.
func (d *Daemon) revokePreview(now time.Time, id frame.ID, req control.RevokeRequest) control.RevokeReply {
	origin := ban.Origin(id)
	reply := control.RevokeReply{
		Name: d.names.certifiedName(origin), ID: id.String(), DryRun: req.DryRun, Last: []control.LastBan{},
	}
	if v := d.mesh.Standing(id).Revoked; v != nil {
		reply.Revoked = v.Issued
		return reply
	}
	for cursor, more := uint32(0), true; more; more = cursor != 0 {
		var said []ban.Record
		d.state.View(func(t *ban.Table) { said, cursor = t.SaidBy(now, origin, cursor, lockChunk) })
		enforce.GiveWay()
		for i := range said {
			countSaid(&reply, &said[i])
		}
	}
	if req.Since.IsZero() {
		return reply
	}
	for cursor, more := uint32(0), true; more; more = cursor != 0 {
		var bans int
		bans, _, cursor = d.again(now, origin, req.Since, cursor)
		reply.Kept += bans
	}
	return reply
}

// countSaid adds one record to the counts of a revocation.
func countSaid(reply *control.RevokeReply, r *ban.Record) {
	switch r.Kind {
	case ban.KindBan:
		reply.Live.Bans++
	case ban.KindAllow:
		reply.Live.Allows++
		return
	default:
		reply.Live.Unbans++
		return
	}
	at, _ := slices.BinarySearchFunc(reply.Last, r.Arrived, func(b control.LastBan, t time.Time) int { return t.Compare(b.Arrived) })
	if at == control.MaxLastBans {
		return
	}
	reply.Last = slices.Insert(reply.Last[:min(len(reply.Last), control.MaxLastBans-1)], at, control.LastBan{
		Prefix: control.PrefixOf(r.Prefix), Ports: r.Ports.String(), Reason: r.Reason, Source: r.Source, Issued: r.Issued, Arrived: r.Arrived,
	})
}

// revokeAfter is how much later than the repeated bans the revocation is sent, because it overtakes all large frames
// on its way.
const revokeAfter = 200 * time.Millisecond

// sayAgain publishes another node's bans from before a time in this node's name, and returns how many.
func (d *Daemon) sayAgain(ctx context.Context, now time.Time, origin ban.Origin, before time.Time) (said int, err error) {
	pace := d.state.Pace(d.bulkRate)
	for cursor, more := uint32(0), true; more; more = cursor != 0 {
		var bans int
		var ops []ban.Op
		if bans, ops, cursor = d.again(now, origin, before, cursor); bans == 0 {
			continue
		}
		if err := d.publish(now, ops); err != nil {
			return said, err
		}
		said += bans
		pace.Slice(ctx, bans)
	}
	return said, nil
}

// again returns what this node must publish for a slice of the bans that arrived from an origin before a time, and how many
// bans that is. It leaves out those that policy forbids this node to make and those that it already has for longer.
func (d *Daemon) again(now time.Time, origin ban.Origin, before time.Time, cursor uint32) (bans int, ops []ban.Op, next uint32) {
	d.state.View(func(t *ban.Table) {
		ops, next = t.SaidAfter(now, origin, before, cursor, lockChunk)
		ops = slices.DeleteFunc(ops, func(op ban.Op) bool {
			own, ok := t.OwnBan(op.Prefix, op.Ports)
			return ok && own.Until.After(op.Until) || t.CheckLocal(now, op) != nil
		})
		bans, ops = len(ops), t.OwnOps(ops...)
	})
	enforce.GiveWay()
	return bans, ops, next
}

// findNode finds a node by its certified name, its id or the id's first digits. What nodes call themselves is ignored.
func (d *Daemon) findNode(text string) (frame.ID, error) {
	if id, err := frame.ParseID(text); err == nil {
		return id, nil // even an unknown node: its key may have been stolen before its first start
	}
	found := make(map[frame.ID]bool) // whether it is revoked
	for _, id := range d.names.match(text) {
		found[frame.ID(id)] = false
	}
	prefix := func(id frame.ID) bool { return len(text) >= control.MinNodeID && strings.HasPrefix(id.String(), text) }
	addrs := make(map[frame.ID]string)
	for _, m := range d.mesh.Members() {
		addrs[m.ID] = m.Addr.String()
		if prefix(m.ID) {
			found[m.ID] = false
		}
	}
	standings := d.mesh.Standings()
	for _, s := range standings {
		if _, ok := found[s.ID]; ok || prefix(s.ID) {
			found[s.ID] = s.Revoked != nil
		}
	}
	ids := slices.SortedFunc(maps.Keys(found), func(a, b frame.ID) int { return slices.Compare(a[:], b[:]) })
	if live := slices.DeleteFunc(slices.Clone(ids), func(id frame.ID) bool { return found[id] }); len(live) > 0 {
		ids = live // former holders of the name that are revoked are not meant
	}
	switch len(ids) {
	case 0:
		return frame.ID{}, &control.Error{
			Code: control.CodeNotFound, Message: fmt.Sprintf("no node is called %q", text), Hint: "`meshban members` lists them; the whole id works for any node",
		}
	case 1:
		return ids[0], nil
	}
	list := make([]string, len(ids))
	for i, id := range ids {
		list[i] = d.describe(id, addrs[id])
	}
	return frame.ID{}, &control.Error{
		Code: control.CodeUsage, Message: fmt.Sprintf("%d nodes are called %q: %s", len(ids), text, strings.Join(list, "; ")), Hint: "name the one that you mean by its id",
	}
}

// describe returns a text that distinguishes a node from others with its name.
func (d *Daemon) describe(id frame.ID, addr string) string {
	text := id.String()
	if name := d.names.certifiedName(ban.Origin(id)); name != "" {
		text = name + " " + text
	}
	if addr != "" {
		text += " at " + addr
	}
	if seen := d.names.seen(ban.Origin(id)); !seen.IsZero() {
		text += ", first seen " + control.FormatPast(seen)
	}
	return text
}

// certified fills in what the authority says about a member.
func (d *Daemon) certified(m *control.Member, s mesh.Standing) {
	switch {
	case s.Revoked != nil:
		m.Certificate, m.Revoked, m.RevokedFor = control.CertRevoked, &s.Revoked.Issued, s.Revoked.Reason
	case s.Certificate != nil:
		m.Certificate, m.CertUntil, m.Caps = control.CertValid, &s.Certificate.NotAfter, new(capsOf(s.Certificate.Caps))
	default:
		m.Certificate = control.CertNone
	}
}
