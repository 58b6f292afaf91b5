package mesh

import (
	"maps"
	"slices"
)

// grants is the records that hand out the newest gossip key. Those of older keys are let go of: whoever was away needs
// the newest alone.
type grants struct {
	version keyVersion       // of the newest key that is handed out; 0: the key was never rotated
	records map[uint64]grant // by serial
}

// newerGrants makes room for a grant of a newer key.
func (c *core) newerGrants(v keyVersion, out *actions) {
	if v <= c.grants.version {
		return
	}
	stream := c.streams[streamKey{c.authority, recordGrant}]
	for _, serial := range c.grants.serials() {
		c.remove(stream, serial)
		out.expired = append(out.expired, FrameRef{c.authority, recordGrant, serial})
	}
	c.grants = grants{version: v, records: make(map[uint64]grant)}
}

// serials lists the records' serials in order.
func (g *grants) serials() []uint64 { return slices.Sorted(maps.Keys(g.records)) }

// grantFor gives the record that holds the newest key for a node; without one, the last record of that key, which proves
// that there is one.
func (c *core) grantFor(node ID) (found grant, holds bool) {
	for _, serial := range c.grants.serials() {
		if found = c.grants.records[serial]; found.holds(node) {
			return found, true
		}
	}
	return found, false
}

// granted gives the nodes that the newest key was handed out to.
func (c *core) granted() map[ID]bool {
	all := make(map[ID]bool)
	for _, g := range c.grants.records {
		for _, b := range g.Boxes {
			all[b.Node] = true
		}
	}
	return all
}
