package daemon

import (
	"context"
	"errors"
	"net"
	"slices"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/mesh"
	"github.com/meshban/meshban/mesh/frame"
)

// A node cannot see which of its ports others reach. So it asks them to ask it something: that takes a connection by TCP.

const (
	// reachLimit bounds the wait for the others, which wait for at most askLimit themselves; maxReach how many are asked.
	reachLimit = 2 * time.Second
	maxReach   = 64
)

// Reach implements control.Agent.
func (d *Daemon) Reach(ctx context.Context) ([]control.Reach, error) {
	_, ids := d.otherMembers()
	ids = ids[:min(len(ids), maxReach)]
	out := make([]control.Reach, len(ids))
	for i, h := range d.ask(ctx, reachLimit, ids, question{Back: true}) {
		out[i] = control.Reach{Name: d.names.of(ban.Origin(ids[i])), ID: ids[i].String(), TCP: h.Back}
	}
	return out, nil
}

// askBack asks a member something and reports whether it could connect; nil: it did not try. It connects only to where the
// member has answered before: else a captured one could learn which ports of others are open.
func (d *Daemon) askBack(ctx context.Context, id frame.ID) *bool {
	members := d.mesh.Members()
	i := slices.IndexFunc(members, func(m mesh.Member) bool { return m.ID == id })
	if i < 0 || !slices.ContainsFunc(d.mesh.Known(), func(p mesh.Peer) bool { return p.ID == id && p.Addr == members[i].Addr }) {
		return nil
	}
	return connected(d.ask(ctx, askLimit, []frame.ID{id}, question{})[0].err)
}

// tcpText returns what a question that ended with err tells of TCP to a member; "" = nothing.
func tcpText(err error) string {
	switch ok := connected(err); {
	case ok == nil:
		return ""
	case *ok:
		return control.UDPFine
	}
	return "TCP to it does not arrive"
}

// connected reports whether a question that ended with err had a connection; nil: that is unknown.
func connected(err error) *bool {
	var op *net.OpError
	switch {
	case err == nil:
		return new(true)
	case errors.As(err, &op) && op.Op == "dial":
		return new(false)
	}
	return nil
}
