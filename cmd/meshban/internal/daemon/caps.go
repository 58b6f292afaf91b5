package daemon

import (
	"cmp"
	"fmt"
	"net/netip"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/mesh"
)

// capsLocked is what an origin may say here: of the configuration and the origin's certificate the stricter. It is the
// one place to ask, and asked for every record of a peer.
func (d *Daemon) capsLocked(origin ban.Origin) ban.Caps {
	p := &d.cfg.Peers
	caps := ban.Caps{
		Allowance: allowance(p.Allowance), Active: p.Active, MaxFor: min(p.MaxFor, d.cfg.Bans.MaxFor),
		MinBits4: d.cfg.Bans.MinPrefix4, MinBits6: d.cfg.Bans.MinPrefix6, UnbanAny: p.UnbanAny, Import: true,
	}
	if c, ok := d.granted[origin]; ok {
		stricter(&caps, &c)
	}
	return caps
}

// stricter narrows caps to those of a certificate. With a rate of its own a node gets at once what it gets in a minute.
func stricter(caps *ban.Caps, c *mesh.Caps) {
	if c.Rate != 0 {
		caps.Rate, caps.Burst = min(caps.Rate, int(c.Rate)), min(caps.Burst, int(c.Rate))
	}
	caps.Active = min(caps.Active, cmp.Or(int(c.Active), caps.Active))
	caps.MinBits4, caps.MinBits6 = max(caps.MinBits4, int(c.MinBits4)), max(caps.MinBits6, int(c.MinBits6))
	caps.MaxFor = min(caps.MaxFor, cmp.Or(c.MaxTTL, caps.MaxFor))
	caps.UnbanAny = caps.UnbanAny && c.UnbanAny
	caps.Import = caps.Import && c.Import
}

// ownCaps is what peers with the same configuration take from this node.
func (d *Daemon) ownCaps() ban.Caps {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.capsLocked(d.self)
}

// banNote says what peers with the caps will refuse of a ban of this node; "": nothing.
func banNote(caps *ban.Caps, prefix netip.Prefix, length time.Duration) string {
	widest := caps.MinBits4
	if prefix.Addr().Is6() {
		widest = caps.MinBits6
	}
	switch {
	case prefix.Bits() < widest:
		return fmt.Sprintf("holds on this node only: others take nothing wider than /%d from a peer", widest)
	case length > caps.MaxFor+ban.DefaultLimits().FutureSkew:
		return fmt.Sprintf("holds on this node only: others take no ban longer than %s from it", config.FormatDuration(caps.MaxFor))
	}
	return ""
}

// recap notes what a node's certificate allows now. Package mesh tells of every certificate that comes or ends before
// any frame that came later; what it says of a moment after that counts early, which is as good.
func (d *Daemon) recap(id mesh.ID) {
	s := d.mesh.Standing(id)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.recapLocked(s)
}

func (d *Daemon) recapLocked(s mesh.Standing) {
	if s.Certificate == nil || s.Revoked != nil {
		delete(d.granted, ban.Origin(s.ID))
		return
	}
	d.granted[ban.Origin(s.ID)] = s.Certificate.Caps
}

// recapAll notes what the certificates that the store gave back allow.
func (d *Daemon) recapAll() {
	all := d.mesh.Standings()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range all {
		d.recapLocked(s)
	}
}
