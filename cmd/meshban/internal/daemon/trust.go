package daemon

import (
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/hook"
	"github.com/meshban/meshban/mesh/frame"
)

// withdraw drops the ops of nodes that are no longer certified. Package mesh has already dropped their frames.
func (d *Daemon) withdraw(nodes []frame.ID) {
	now := time.Now()
	for _, id := range nodes {
		d.recap(id)
		d.mesh.Unforget(id)
		why := ban.Withdrawal{Reason: "its certificate has ended", At: now}
		if v := d.mesh.Standing(id).Revoked; v != nil {
			why = ban.Withdrawal{Reason: "revoked", At: v.Issued}
			if v.Reason != "" {
				why.Reason += ": " + v.Reason
			}
			d.hooks.Tell("revoke", hook.Mesh, control.Event{
				Time: now.UTC().Truncate(time.Millisecond), Name: "revoke", Origin: d.names.of(ban.Origin(id)), OriginID: id.String(), Reason: v.Reason,
			})
		}
		d.log.Warn("a node is no longer a member; what it said is taken back",
			"name", d.names.of(ban.Origin(id)), "id", id.Short(), "reason", why.Reason)
		d.reconsider(now, func(t *ban.Table, cursor uint32) ([]ban.Change, uint32) {
			return t.Withdraw(ban.Origin(id), why, cursor, lockChunk)
		})
	}
	wake(d.neverWake)
}

// readmit puts the ops of nodes that are certified again into effect.
func (d *Daemon) readmit(nodes []frame.ID) {
	for _, id := range nodes {
		d.recap(id)
		d.reconsider(time.Now(), func(t *ban.Table, cursor uint32) ([]ban.Change, uint32) {
			return t.Readmit(ban.Origin(id), cursor, lockChunk)
		})
	}
	wake(d.neverWake)
}

// reconsider has the table re-examine all entries, in slices, so that a fresh ban does not wait long.
func (d *Daemon) reconsider(now time.Time, step func(t *ban.Table, cursor uint32) ([]ban.Change, uint32)) {
	for cursor, more := uint32(0), true; more; more = cursor != 0 {
		d.state.Change(now, func(t *ban.Table) (changes []ban.Change) {
			changes, cursor = step(t, cursor)
			return changes
		})
	}
}
