package daemon

import (
	"bytes"
	"context"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/hook"
	"github.com/meshban/meshban/mesh"
)

func (d *Daemon) openHooks() {
	d.hooks = hook.New(hook.Config{
		Node: func() string { return d.names.plain(d.self) }, Speaks: d.speaks, Problem: d.hookProblem, Logger: d.log,
	}, d.cfg.Hooks)
}

// hookEvent returns the event of hooks that a change is, or "".
func hookEvent(c ban.Change) (kind string, whose hook.Whose) {
	whose = hook.Peers
	if c.Local {
		whose = hook.Own
	}
	switch {
	case c.Event == ban.EventBan:
		return "ban", whose
	case c.Event == ban.EventUnban && c.Lift:
		return "unban", whose
	case c.Event == ban.EventHeld:
		return "held", hook.Mesh // never by the node that said it
	}
	return "", whose
}

// memberHook maps the kinds of mesh.MemberEvent to events of hooks.
var memberHook = map[string]string{"join": "join", "leave": "leave", "fail": "leave"}

// speaks reports whether this node has the lowest id of the members that are alive: it tells of what each node sees.
func (d *Daemon) speaks() bool {
	for _, m := range d.mesh.Members() {
		if !m.Self && m.State == mesh.StateAlive && d.mesh.Trusts(m.ID) && bytes.Compare(m.ID[:], d.self[:]) < 0 {
			return false
		}
	}
	return true
}

// hookProblem shows that a hook cannot send, or no longer.
func (d *Daemon) hookProblem(name string, err error) {
	if err == nil {
		d.problems.clear("hook " + name)
		return
	}
	d.problems.set("hook "+name, err.Error(), "`meshban hook test "+name+"` tries it; after a change of its file, `systemctl reload meshban`")
}

// TestHook implements control.Agent.
func (d *Daemon) TestHook(ctx context.Context, req control.HookRequest) (control.HookReply, error) {
	began := time.Now()
	err := d.hooks.Test(ctx, req.Name)
	return control.HookReply{Name: req.Name, MS: float64(time.Since(began).Microseconds()) / 1000}, err
}
