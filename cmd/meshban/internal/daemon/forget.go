package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/mesh"
	"github.com/meshban/meshban/mesh/frame"
)

const (
	// forgetMark starts the payload of a frame that declares a member gone for good; no payload of ops starts this way.
	// The member's id follows.
	forgetMark = "forget "
	// forgetFor is how long such a frame lives: longer than any node remembers a silent member on its own.
	forgetFor = 8 * 24 * time.Hour
)

func forgetPayload(id frame.ID) []byte { return append([]byte(forgetMark), id[:]...) }

// forgottenBy returns the member that a payload declares gone for good.
func forgottenBy(payload []byte) (id frame.ID, ok bool) {
	rest, ok := bytes.CutPrefix(payload, []byte(forgetMark))
	if !ok || len(rest) != len(id) {
		return id, false
	}
	return frame.ID(rest), true
}

// Forget implements control.Agent.
func (d *Daemon) Forget(ctx context.Context, req control.ForgetRequest) (control.ForgetReply, error) {
	id, err := d.findNode(req.Node)
	if err != nil {
		return control.ForgetReply{}, err
	}
	if id == frame.ID(d.self) {
		return control.ForgetReply{}, &control.Error{Code: control.CodePolicy, Rule: "own node", Message: "a node cannot forget itself", Hint: "do it on another node"}
	}
	name, now := d.names.of(ban.Origin(id)), time.Now()
	switch err := d.mesh.CheckForget(id); {
	case errors.Is(err, mesh.ErrNoMember):
		return control.ForgetReply{}, &control.Error{Code: control.CodeNotFound, Message: fmt.Sprintf("%s: %v", name, err), Hint: "`meshban members` lists them"}
	case err != nil:
		return control.ForgetReply{}, &control.Error{
			Code: control.CodeFailed, Message: fmt.Sprintf("%s is not forgotten: %v", name, err),
			Hint: fmt.Sprintf("only a member that is gone for good is forgotten; to shut out one that lives, use `meshban revoke %s`", d.names.handle(ban.Origin(id))),
		}
	}
	if e := d.ignored(); e != nil {
		e.Message = "nobody would take this node's word: " + e.Message
		return control.ForgetReply{}, e
	}
	f, err := d.publishForget(now, id)
	if err != nil {
		return control.ForgetReply{}, stopping(err)
	}
	d.mesh.Forget(id, f.Origin, now, true)
	d.remember(now, f)
	d.keep(ctx, keepLimit)
	e := d.byCaller(ctx, now)
	e.What, e.Reason = "forget", fmt.Sprintf("%s (%s)", d.names.plain(ban.Origin(id)), id)
	d.audit.Add(e)
	return control.ForgetReply{Name: d.names.plain(ban.Origin(id)), ID: id.String()}, nil
}

// publishForget declares a member gone for good, in the authority's name if this node has its key.
func (d *Daemon) publishForget(now time.Time, id frame.ID) (frame.Frame, error) {
	if d.mesh.HasAuthority() {
		return d.mesh.PublishAsAuthority(now, forgetPayload(id), now.Add(forgetFor))
	}
	return d.mesh.Publish(now, forgetPayload(id), now.Add(forgetFor))
}

// hearForget handles another node's declaration that a member is gone for good.
func (d *Daemon) hearForget(f frame.Frame, id frame.ID) {
	sure := ban.Origin(f.Origin) == d.self || f.Origin == d.mesh.AuthorityID()
	if d.mesh.Forget(id, f.Origin, f.Issued, sure) {
		d.log.Info("a member is said to be gone for good", "name", d.names.of(ban.Origin(id)), "by", d.names.of(ban.Origin(f.Origin)))
	}
}
