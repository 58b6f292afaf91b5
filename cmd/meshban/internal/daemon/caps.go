package daemon

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/mesh"
	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/pki"
)

// capsLocked returns what an origin may publish here: the stricter of the configuration and the origin's certificate. It is
// the only place to ask, and is called for every record of a peer.
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

// stricter narrows caps to those of a certificate. A certificate's rate per minute also bounds the burst.
func stricter(caps *ban.Caps, c *pki.Caps) {
	if c.Rate != 0 {
		caps.Rate, caps.Burst = min(caps.Rate, int(c.Rate)), min(caps.Burst, int(c.Rate))
	}
	caps.Active = min(caps.Active, cmp.Or(int(c.Active), caps.Active))
	caps.MinBits4, caps.MinBits6 = max(caps.MinBits4, int(c.MinBits4)), max(caps.MinBits6, int(c.MinBits6))
	caps.MaxFor = min(caps.MaxFor, cmp.Or(c.MaxTTL, caps.MaxFor))
	caps.UnbanAny = caps.UnbanAny && c.UnbanAny
	caps.Import = caps.Import && c.Import
}

// ownCaps returns what peers with the same configuration take from this node.
func (d *Daemon) ownCaps() (caps ban.Caps) {
	d.state.View(func(*ban.Table) { caps = d.capsLocked(d.self) })
	return caps
}

// notes predicts what other nodes do with this node's bans, as far as this node can tell.
type notes struct {
	d        *Daemon
	caps     ban.Caps // of this node: the stricter of configuration and certificate
	cert     pki.Caps // of this node's certificate
	peers    config.Peers
	bans     config.Bans
	imported bool
	room     int // how many new bans peers still let count
	rule     string
	beyond   map[netip.Prefix]bool // new bans for which there is no room
	spared   map[netip.Prefix]bool // prefixes with something never banned inside
}

// newNotes starts the notes of a request. asked is how many new bans the caller was already told about.
func (d *Daemon) newNotes(now time.Time, imported bool, asked int) *notes {
	n := &notes{d: d, cert: pki.DefaultCaps(), imported: imported, beyond: map[netip.Prefix]bool{}, spared: map[netip.Prefix]bool{}}
	d.state.View(func(t *ban.Table) {
		n.caps, n.peers, n.bans = d.capsLocked(d.self), d.cfg.Peers, d.cfg.Bans
		if c, ok := d.granted[d.self]; ok {
			n.cert = c
		}
		n.room, n.rule = d.state.Gate.Room(now, t, imported)
		n.room = max(0, n.room-asked)
	})
	return n
}

// noteSpared is the note about a prefix that contains something never banned.
const noteSpared = "what is never banned inside stays open"

// lookLocked notes what the table says about a ban before it is made.
func (n *notes) lookLocked(t *ban.Table, prefix netip.Prefix, fresh bool) {
	if fresh {
		if n.room--; n.room < 0 {
			n.beyond[prefix] = true
		}
	}
	if n.imported && !prefix.IsSingleIP() && t.Spares(prefix) {
		n.spared[prefix] = true
	}
}

// of returns a note about the ban of a prefix, and a hint what to do about it; both are "" if there is nothing to say.
func (n *notes) of(prefix netip.Prefix, length time.Duration) (note, hint string) {
	key, widest, granted := "widest_ipv4", n.caps.MinBits4, int(n.cert.MinBits4)
	if prefix.Addr().Is6() {
		key, widest, granted = "widest_ipv6", n.caps.MinBits6, int(n.cert.MinBits6)
	}
	const alone = "on this node only: other nodes take nothing "
	switch {
	case prefix.Bits() < widest && granted == widest:
		return fmt.Sprintf(alone+"wider than /%d from it (%s in this node's certificate)", widest, key), n.certHint(fmt.Sprintf("--%s %d", strings.ReplaceAll(key, "_", "-"), prefix.Bits()))
	case prefix.Bits() < widest:
		return fmt.Sprintf(alone+"wider than /%d from a peer (bans.%s in their meshban.yaml)", widest, key),
			fmt.Sprintf("set %s: %d below bans: in meshban.yaml on every node, and systemctl reload meshban there: they take these then", key, prefix.Bits())
	case length > n.caps.MaxFor+ban.DefaultLimits().FutureSkew && n.cert.MaxTTL == n.caps.MaxFor:
		return fmt.Sprintf(alone+"longer than %s from it (max_for in this node's certificate)", config.FormatDuration(n.caps.MaxFor)), n.certHint("--max-for " + config.FormatDuration(length.Round(time.Second)))
	case length > n.caps.MaxFor+ban.DefaultLimits().FutureSkew:
		key = "peers.max_for"
		if n.bans.MaxFor < n.peers.MaxFor {
			key = "bans.max_for"
		}
		return fmt.Sprintf(alone+"longer than %s from a peer (%s in their meshban.yaml)", config.FormatDuration(n.caps.MaxFor), key),
			fmt.Sprintf("write --for %s or less, or raise %s in meshban.yaml on every node and reload them", config.FormatDuration(n.caps.MaxFor), key)
	case n.beyond[prefix]:
		return n.ofRoom()
	case n.spared[prefix]:
		return noteSpared, "`meshban allow --list` shows what is never banned"
	}
	return "", ""
}

// ofRoom returns the note that peers will hold a ban, and why, and a hint how to release it.
func (n *notes) ofRoom() (note, hint string) {
	key := "peers.rate and peers.burst in their meshban.yaml"
	switch {
	case n.rule == ban.RuleActive && int(n.cert.Active) == n.caps.Active:
		key = "active in this node's certificate"
	case n.rule == ban.RuleActive:
		key = "peers.active in their meshban.yaml"
	case n.imported && !n.cert.Import:
		key = "no import in this node's certificate"
	case n.imported:
		key = "peers.imports in their meshban.yaml"
	case n.cert.Rate != 0 && int(n.cert.Rate) == n.caps.Rate:
		key = "rate in this node's certificate"
	}
	return "on hold on the other nodes: it is more than they take of one node (" + key + ")",
		"`meshban held release --from " + n.d.names.handle(n.d.self) + "` on each of them lets it count; to avoid it, change that"
}

// certHint returns how to change one cap of this node's certificate.
func (n *notes) certHint(flag string) string {
	return fmt.Sprintf("where ca.key is: `meshban ca caps %s %s`, and with it the caps that it keeps, which `meshban ca caps %[1]s` shows", n.d.names.handle(n.d.self), flag)
}

// recap records a node's present caps. Package mesh reports each new or ended certificate before any later frame. If
// the certificate has changed again by now, the newer one applies early, which is harmless.
func (d *Daemon) recap(id frame.ID) {
	s := d.mesh.Standing(id)
	d.recertified(s)
	d.state.View(func(*ban.Table) { d.recapLocked(s) })
}

func (d *Daemon) recapLocked(s mesh.Standing) {
	o := ban.Origin(s.ID)
	before := d.capsLocked(o)
	if s.Certificate != nil && s.Revoked == nil {
		d.granted[o] = s.Certificate.Caps
	} else {
		delete(d.granted, o)
		delete(d.feedback, o)
		delete(d.reports, o)
	}
	if s.Revoked != nil { // a revocation is final
		delete(d.recapped, o)
		return
	}
	if _, noted := d.recapped[o]; !noted && s.Certificate != nil && before == d.capsLocked(o) {
		return
	} else if !noted {
		d.recapped[o] = before
	}
	wake(d.recapWake)
}

// recapAll records what the certificates restored from the store allow.
func (d *Daemon) recapAll() {
	all := d.mesh.Standings()
	for _, s := range all {
		d.recertified(s)
	}
	d.state.View(func(*ban.Table) {
		for _, s := range all {
			d.recapLocked(s)
		}
		clear(d.recapped) // nothing has been judged yet
	})
}

// CertificateCaps converts caps to a certificate's.
func CertificateCaps(c control.Caps) pki.Caps {
	return pki.Caps{
		Rate: uint32(c.Rate), Active: uint32(c.Active), MinBits4: uint8(c.Widest4), MinBits6: uint8(c.Widest6), MaxTTL: time.Duration(c.MaxFor),
		UnbanAny: bool(!c.NoUnbanAny), Import: bool(!c.NoImport), NoDrill: bool(c.NoDrill),
	}
}

// capsOf is the reverse of CertificateCaps.
func capsOf(c pki.Caps) control.Caps {
	return control.Caps{
		Rate: int(c.Rate), Active: int(c.Active), Widest4: int(c.MinBits4), Widest6: int(c.MinBits6), MaxFor: control.Duration(c.MaxTTL),
		NoUnbanAny: control.Denied(!c.UnbanAny), NoImport: control.Denied(!c.Import), NoDrill: control.Denied(c.NoDrill),
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
			Code: control.CodeFailed, Message: fmt.Sprintf("%s has no valid certificate here", name),
			Hint: "`meshban members` shows who has one; who joins with a token gets the caps of `meshban invite`",
		}
	}
	cert := *s.Certificate
	if req.Caps != nil {
		if cert, err = d.mesh.Certify(cert.Node, cert.Name, CertificateCaps(*req.Caps)); err != nil {
			return control.CapsReply{}, stopping(err)
		}
		if err := d.keepRecord(ctx, cert.Frame.Raw); err != nil {
			return control.CapsReply{}, err
		}
		e := d.byCaller(ctx, time.Now())
		e.What, e.Reason = "caps", fmt.Sprintf("%s (%s) %s", cert.Name, id, req.Caps)
		d.audit.Add(e)
		d.log.Info("gave a node other caps", "name", cert.Name, "id", id.Short(), "caps", req.Caps.String())
	}
	return control.CapsReply{Name: cert.Name, ID: id.String(), Caps: capsOf(cert.Caps), Until: cert.NotAfter}, nil
}
