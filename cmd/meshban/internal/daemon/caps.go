package daemon

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
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
	d.recertified(s)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.recapLocked(s)
}

func (d *Daemon) recapLocked(s mesh.Standing) {
	if s.Certificate == nil || s.Revoked != nil {
		delete(d.granted, ban.Origin(s.ID))
		delete(d.debts, ban.Origin(s.ID))
		delete(d.reports, ban.Origin(s.ID))
		return
	}
	d.granted[ban.Origin(s.ID)] = s.Certificate.Caps
}

// recapAll notes what the certificates that the store gave back allow.
func (d *Daemon) recapAll() {
	all := d.mesh.Standings()
	for _, s := range all {
		d.recertified(s)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range all {
		d.recapLocked(s)
	}
}

// CertificateCaps puts caps into the certificate's terms.
func CertificateCaps(c control.Caps) mesh.Caps {
	return mesh.Caps{
		Rate: uint32(c.Rate), Active: uint32(c.Active), MinBits4: uint8(c.Widest4), MinBits6: uint8(c.Widest6), MaxTTL: c.MaxFor,
		UnbanAny: !c.NoUnbanAny, Import: !c.NoImport,
	}
}

// capsOf is the reverse of CertificateCaps.
func capsOf(c mesh.Caps) control.Caps {
	return control.Caps{
		Rate: int(c.Rate), Active: int(c.Active), Widest4: int(c.MinBits4), Widest6: int(c.MinBits6), MaxFor: c.MaxTTL,
		NoUnbanAny: !c.UnbanAny, NoImport: !c.Import,
	}
}

// Caps implements control.Agent.
func (d *Daemon) Caps(ctx context.Context, req control.CapsRequest) (control.CapsReply, error) {
	if req.Caps != nil && !d.mesh.HasAuthority() {
		return control.CapsReply{}, d.needAuthority("ca caps")
	}
	id, err := d.findNode(req.Node)
	if err != nil {
		return control.CapsReply{}, err
	}
	name := d.names.of(ban.Origin(id))
	s := d.mesh.Standing(id)
	switch {
	case s.Revoked != nil:
		return control.CapsReply{}, &control.Error{Code: control.CodePolicy, Message: fmt.Sprintf("%s is revoked: it may say nothing", name), Rule: "revoked"}
	case s.Certificate == nil:
		return control.CapsReply{}, &control.Error{
			Code: control.CodeFailed, Message: fmt.Sprintf("%s has no certificate that counts here", name),
			Hint: "`meshban members` shows who has one; who joins with a token gets the caps of `meshban invite`",
		}
	}
	cert := *s.Certificate
	if req.Caps != nil {
		if cert, err = d.mesh.Certify(cert.Node, cert.Name, CertificateCaps(*req.Caps)); err != nil {
			return control.CapsReply{}, stopping(err)
		}
		if err := d.keepRecord(ctx, cert.Raw()); err != nil {
			return control.CapsReply{}, err
		}
		e := d.byCaller(ctx, time.Now())
		e.What, e.Reason = "caps", fmt.Sprintf("%s (%s) %s", cert.Name, id, req.Caps)
		d.audit.Add(e)
		d.log.Info("gave a node other caps", "name", cert.Name, "id", id.Short(), "caps", req.Caps.String())
	}
	return control.CapsReply{Name: cert.Name, ID: id.String(), Caps: capsOf(cert.Caps), Until: cert.NotAfter}, nil
}
