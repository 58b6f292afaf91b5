//go:build long

package replica

import (
	"time"

	"github.com/meshban/meshban/mesh/frame"
)

// Meet makes a peer known as if a digest had just been compared with it; for models of fleets, in which nobody joins.
func (c *Core) Meet(now time.Time, peer frame.ID) {
	if c.peers[peer] == nil {
		c.peers[peer] = newSyncPeer()
		c.heard = now
		c.wakeAt(now)
	}
}
