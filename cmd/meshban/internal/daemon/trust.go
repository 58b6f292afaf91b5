package daemon

import (
	"encoding/json"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/statedir"
	"github.com/meshban/meshban/mesh"
	"github.com/meshban/meshban/mesh/frame"
)

// noAuthority says what to do about a mesh made by a version without authorities.
const noAuthority = "this mesh was made by a version without certificates: every holder of its key is believed. " +
	"Make a new one: `meshban init` in an empty state folder on one node, `meshban invite` there, " +
	"and on each other node move the state folder away and `meshban join TOKEN`"

// foundAuthority founds an authority for a mesh of one that has none. If there are other members, or the store that
// would list them is lost, the mesh stays as it was.
func (d *Daemon) foundAuthority(keys statedir.Keys) (statedir.Keys, error) {
	if keys.Secrets.HasAuthority() {
		return keys, nil
	}
	var peers []mesh.Peer
	saved := d.store.Value(valuePeers)
	if fresh, err := d.store.Fresh(); err != nil {
		return statedir.Keys{}, err
	} else if fresh || len(d.cfg.Join) > 0 || saved != nil && (json.Unmarshal(saved, &peers) != nil || len(peers) > 0) {
		d.distrust = noAuthority
		d.log.Warn("the mesh has no authority", "hint", noAuthority)
		return keys, nil
	}
	keys, err := d.home.Found(keys)
	if err == nil {
		d.log.Info("made an authority for this mesh of one", "key", d.home.Authority())
	}
	return keys, err
}

// withdraw takes back what nodes said that no longer count. Package mesh has already dropped their frames.
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
		}
		d.log.Warn("a node is no longer a member; what it said is taken back",
			"name", d.names.of(ban.Origin(id)), "id", id.Short(), "reason", why.Reason)
		d.reconsider(now, func(t *ban.Table, cursor uint32) ([]ban.Change, uint32) {
			return t.Withdraw(ban.Origin(id), why, cursor, lockChunk)
		})
	}
	kick(d.neverKick)
}

// readmit lets nodes count.
func (d *Daemon) readmit(nodes []frame.ID) {
	for _, id := range nodes {
		d.recap(id)
		d.reconsider(time.Now(), func(t *ban.Table, cursor uint32) ([]ban.Change, uint32) {
			return t.Readmit(ban.Origin(id), cursor, lockChunk)
		})
	}
	kick(d.neverKick)
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
