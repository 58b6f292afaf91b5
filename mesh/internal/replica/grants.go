package replica

import (
	"maps"
	"slices"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/pki"
)

// grants holds the records that hand out the newest gossip key. Those of older keys are dropped: a node that was away
// needs only the newest.
type grants struct {
	version pki.KeyVersion       // of the newest key handed out; 0: the key was never rotated
	records map[uint64]pki.Grant // by serial
}

// newerGrants drops the grants of older keys if v is a newer key.
func (c *Core) newerGrants(v pki.KeyVersion, out *Actions) {
	if v <= c.grants.version {
		return
	}
	stream := c.streams[StreamKey{c.authority, pki.EpochGrant}]
	for _, serial := range c.grants.serials() {
		c.remove(stream, serial)
		out.Expired = append(out.Expired, frame.Ref{Origin: c.authority, Epoch: pki.EpochGrant, Seq: serial})
	}
	c.grants = grants{version: v, records: make(map[uint64]pki.Grant)}
}

// NewestKey returns the version of the newest gossip key handed out; 0: the key was never rotated.
func (c *Core) NewestKey() pki.KeyVersion { return c.grants.version }

// LastGrant returns the highest serial among the grants of the newest key, or 0.
func (c *Core) LastGrant() (last uint64) {
	for serial := range c.grants.records {
		last = max(last, serial)
	}
	return last
}

// KnowsHolders reports whether the held records say who has a gossip key. A node revoked after its grant has the key
// anyway; one revoked before got no grant. If the key was never rotated, any certificate shows that the records are not
// those of a new node.
func (c *Core) KnowsHolders(key pki.KeyVersion) bool {
	if key.Generation() == 0 {
		return len(c.nodes) > 0
	}
	return c.grants.version >= key
}

// serials returns the records' serials in order.
func (g *grants) serials() []uint64 { return slices.Sorted(maps.Keys(g.records)) }

// GrantFor returns the record that holds the newest key for a node. If there is none, it returns the last record of
// that key, which proves that the key exists, and false.
func (c *Core) GrantFor(node frame.ID) (found pki.Grant, holds bool) {
	for _, serial := range c.grants.serials() {
		if found = c.grants.records[serial]; slices.Contains(found.Nodes(), node) {
			return found, true
		}
	}
	return found, false
}

// Granted returns the nodes that the newest key was handed out to.
func (c *Core) Granted() map[frame.ID]bool {
	all := make(map[frame.ID]bool)
	for _, g := range c.grants.records {
		for _, id := range g.Nodes() {
			all[id] = true
		}
	}
	return all
}
