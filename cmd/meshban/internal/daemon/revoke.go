package daemon

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/mesh"
)

// needAuthority says that a verb needs the authority's key, and where it may be.
func (d *Daemon) needAuthority(verb string) error {
	if d.distrust != "" {
		return &control.Error{Code: control.CodeFailed, Message: fmt.Sprintf("%s needs an authority, and this mesh has none", verb), Hint: d.distrust}
	}
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
	id, name, err := d.findNode(req.Node)
	if err != nil {
		return control.RevokeReply{}, err
	}
	now := time.Now()
	req.Since = req.Since.Truncate(time.Millisecond) // as records are
	if id == mesh.ID(d.self) {
		return control.RevokeReply{}, &control.Error{
			Code: control.CodePolicy, Rule: "own node", Message: "a node cannot revoke itself",
			Hint: "do it on another node that has the authority's key",
		}
	}
	if req.Since.After(now) {
		return control.RevokeReply{}, &control.Error{Code: control.CodeUsage, Message: fmt.Sprintf("--since %s is in the future", stamp(req.Since))}
	}
	reply := control.RevokeReply{Name: name, ID: id.String()}
	old := d.mesh.Standing(id).Revoked
	if old == nil && !req.Since.IsZero() {
		// First in our name, then the revocation: no packet gets through in between.
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
	if err := d.keepRecord(ctx, v.Raw()); err != nil {
		return control.RevokeReply{}, err
	}
	if old == nil {
		e := d.byCaller(ctx, now)
		e.What, e.Reason = "revoke node", strings.TrimSpace(fmt.Sprintf("%s (%s) %s", name, id, req.Reason))
		d.audit.Add(e)
		d.log.Warn("revoked a node", "name", name, "id", id.String(), "reason", req.Reason, "since", req.Since, "kept", reply.Kept)
	}
	reply.Revoked = v.Issued
	return reply, nil
}

// revokeAfter is how long what was said again goes ahead of the revocation, which passes all large frames on its way.
const revokeAfter = 200 * time.Millisecond

// sayAgain says in this node's name what another one said before a time, and tells how much that was. What this node
// would not say by itself, or says for longer already, is left out.
func (d *Daemon) sayAgain(ctx context.Context, now time.Time, origin ban.Origin, before time.Time) (said int, err error) {
	pace := pace{fw: d.fw, rate: d.bulkRate}
	for cursor, more := uint32(0), true; more; more = cursor != 0 {
		var ops []ban.Op
		d.mu.Lock()
		ops, cursor = d.table.SaidAfter(now, origin, before, cursor, lockChunk)
		ops = slices.DeleteFunc(ops, func(op ban.Op) bool {
			if op.Kind != ban.KindBan && op.Kind != ban.KindAllow {
				return false
			}
			return len(d.table.OwnOps(op)) > 1 || d.table.CheckLocal(now, op) != nil
		})
		d.mu.Unlock()
		giveWay()
		if len(ops) == 0 {
			continue
		}
		if err := d.publish(now, ops); err != nil {
			return said, err
		}
		said += len(ops)
		pace.slice(ctx, len(ops))
	}
	return said, nil
}

// findNode finds a node by its name, its id or the first digits of that.
func (d *Daemon) findNode(text string) (mesh.ID, string, error) {
	known := make(map[mesh.ID]string)
	revoked := make(map[mesh.ID]bool)
	for _, m := range d.mesh.Members() {
		known[m.ID] = m.Name
	}
	for _, s := range d.mesh.Standings() {
		if s.Revoked != nil {
			known[s.ID], revoked[s.ID] = s.Revoked.Name, true
		}
		if s.Certificate != nil { // its name is the authority's word; a member's own may be a lie
			known[s.ID] = s.Certificate.Name
		}
	}
	if id, err := mesh.ParseID(text); err == nil {
		return id, known[id], nil // also one that nobody has met: its key may have been stolen before its first start
	}
	var found []mesh.ID
	for id, name := range known {
		if name == text || len(text) >= control.MinNodeID && strings.HasPrefix(id.String(), text) {
			found = append(found, id)
		}
	}
	if live := slices.DeleteFunc(slices.Clone(found), func(id mesh.ID) bool { return revoked[id] }); len(live) > 0 {
		found = live // who had the name before, and is revoked, is not meant
	}
	slices.SortFunc(found, func(a, b mesh.ID) int { return slices.Compare(a[:], b[:]) })
	switch len(found) {
	case 0:
		return mesh.ID{}, "", &control.Error{
			Code: control.CodeNotFound, Message: fmt.Sprintf("no node is called %q", text), Hint: "`meshban members` lists them; the whole id works for any node",
		}
	case 1:
		return found[0], known[found[0]], nil
	}
	list := make([]string, len(found))
	for i, id := range found {
		list[i] = id.String()
	}
	return mesh.ID{}, "", &control.Error{
		Code: control.CodeUsage, Message: fmt.Sprintf("%d nodes are called %q: %s", len(found), text, strings.Join(list, ", ")), Hint: "name the one that you mean by its id",
	}
}

// certified fills in what the authority says of a member.
func (d *Daemon) certified(m *control.Member, s mesh.Standing) {
	switch {
	case d.distrust != "":
		return
	case s.Revoked != nil:
		m.Certificate, m.Revoked, m.RevokedFor = control.CertRevoked, &s.Revoked.Issued, s.Revoked.Reason
	case s.Certificate != nil:
		m.Certificate, m.CertUntil, m.Caps = control.CertValid, &s.Certificate.NotAfter, new(capsOf(s.Certificate.Caps))
	default:
		m.Certificate = control.CertNone
	}
}
