package mesh

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
	for serial, g := range c.grants.records {
		c.remove(stream, serial)
		out.expired = append(out.expired, g.frame.Ref())
	}
	c.grants = grants{version: v, records: make(map[uint64]grant)}
}

// grantFor gives the record that holds the newest key for a node; without one, any record of that key, which proves that
// there is one.
func (c *core) grantFor(node ID) (found grant, holds bool) {
	for _, g := range c.grants.records {
		if found = g; g.holds(node) {
			return g, true
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
