package daemon

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/mesh"
	"github.com/meshban/meshban/mesh/frame"
)

const (
	// rotateWait bounds how long an answer waits until all live nodes have the new key; rotateLook is how often it
	// checks.
	rotateWait, rotateLook = 5 * time.Second, 100 * time.Millisecond
	// keyShown bounds the nodes that a problem names.
	keyShown = 10
)

// Rotate implements control.Agent.
func (d *Daemon) Rotate(ctx context.Context, _ control.RotateRequest) (control.RotateReply, error) {
	if !d.mesh.HasAuthority() {
		return control.RotateReply{}, d.needAuthority("rotate")
	}
	now := time.Now()
	generation, nodes, err := d.mesh.RotateKey(ctx)
	if errors.Is(err, mesh.ErrRotating) {
		return control.RotateReply{}, &control.Error{
			Code: control.CodeFailed, Message: err.Error(), Hint: "wait until `meshban status` shows no problem of the mesh key",
		}
	}
	if err != nil {
		return control.RotateReply{}, stopping(err)
	}
	e := d.byCaller(ctx, now)
	e.What, e.Reason = "rotate mesh key", fmt.Sprintf("generation %d, for %d nodes", generation, nodes)
	d.audit.Add(e)
	d.log.Warn("rotated the mesh's key", "generation", generation, "nodes", nodes)
	d.keep(ctx, keepLimit)
	return control.RotateReply{Generation: int(generation), Nodes: nodes, Waiting: d.names.list(d.awaitKey(ctx))}, nil
}

// awaitKey waits until every live member has the newest key, and returns those that still lack it.
func (d *Daemon) awaitKey(ctx context.Context) []frame.ID {
	ctx, cancel := context.WithTimeout(ctx, rotateWait)
	defer cancel()
	look := time.NewTicker(rotateLook)
	defer look.Stop()
	for {
		lacking := d.mesh.KeyStatus().Lacking
		if len(lacking) == 0 {
			return nil
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return lacking
		}
	}
}

// list returns the names of nodes, each with its short id, because names are not unique.
func (n *names) list(ids []frame.ID) []string {
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = n.full(ban.Origin(id))
	}
	return out
}

// keyStages say what became of a key.
var keyStages = map[mesh.KeyStage]string{
	mesh.KeyReceived: "received",
	mesh.KeyUsed:     "in use",
	mesh.KeyDropped:  "the former ones are gone",
}

// keyTurned records this node's steps in a key rotation.
func (d *Daemon) keyTurned(e mesh.KeyEvent) {
	d.problems.clear(string(mesh.ProblemKey))
	d.log.Info("the mesh's key", "generation", e.Generation, "stage", keyStages[e.Stage])
	entry := d.bySelf(time.Now(), control.ViaMesh)
	entry.What, entry.Reason = "mesh key", fmt.Sprintf("generation %d: %s", e.Generation, keyStages[e.Stage])
	d.audit.Add(entry)
}

// keyProblem returns which nodes keep a rotation from completing, or "" if none does.
func keyProblem(s mesh.KeyStatus, names *names) string {
	if len(s.Lacking) == 0 {
		return ""
	}
	who := names.list(s.Lacking)
	if more := len(who) - keyShown; more > 0 {
		who = append(who[:keyShown], fmt.Sprintf("and %d more", more))
	}
	text := fmt.Sprintf("generation %d is not on %s yet", s.Generation, strings.Join(who, ", "))
	if s.InUse < s.Generation {
		return text + "; the others wait for it, at most 5 minutes"
	}
	return text + ", which therefore hears nothing: look at its log; if it runs an older version, update it"
}
