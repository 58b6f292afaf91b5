package daemon

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/audit"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/listener"
)

// Audit implements control.Agent.
func (d *Daemon) Audit(ctx context.Context, since time.Time, yield func(control.AuditEntry) error) error {
	return d.audit.Read(ctx, since, func(e control.AuditEntry) error {
		// The log may be older than the certificates that this node knows now.
		if id, err := ban.ParseOrigin(e.NodeID); err == nil {
			e.Node = d.names.of(id)
		}
		return yield(e)
	})
}

func (d *Daemon) auditProblem(text string, err error) {
	const kind = "audit log"
	switch {
	case text == "":
		d.problems.clear(kind)
	case err == nil:
		d.problems.set(kind, text, "`meshban audit` shows where they are missing")
	default:
		d.problems.set(kind, fmt.Sprintf("%s, because %s cannot be written: %s", text, d.home.Audit(), cause(err)), fileRemedy(d.home.Audit(), err))
	}
}

// byCaller starts the audit entry of a change that this machine requests through the socket or the api listener.
func (d *Daemon) byCaller(ctx context.Context, now time.Time) control.AuditEntry {
	e := d.bySelf(now, control.ViaSocket)
	if k := listener.KeyOf(ctx); k.Name != "" {
		e.Via, e.User = control.ViaAPI, k.Name
	} else if peer, ok := control.PeerOf(ctx); ok {
		e.User, e.UID, e.PID = peer.User(), &peer.UID, peer.PID
	}
	return e
}

// bySelf starts the audit entry of a change decided on this node.
func (d *Daemon) bySelf(now time.Time, via string) control.AuditEntry { return d.by(d.self, now, via) }

func (d *Daemon) by(origin ban.Origin, now time.Time, via string) control.AuditEntry {
	return control.AuditEntry{Time: now.UTC().Truncate(time.Millisecond), Via: via, Node: d.names.of(origin), NodeID: origin.String()}
}

// recordOps records ops in the audit log. Consecutive ops that differ only in their prefix share an entry.
func (d *Daemon) recordOps(e control.AuditEntry, ops []ban.Op) {
	d.recordEach(e, len(ops), func(i int) *ban.Op { return &ops[i] })
}

func (d *Daemon) recordEach(e control.AuditEntry, count int, op func(int) *ban.Op) {
	for from := 0; from < count; {
		first, to := op(from), from+1
		for to < count && to-from < audit.MaxListed && alike(first, op(to)) {
			to++
		}
		e.What, e.Ports, e.Until, e.Reason, e.Source = first.Kind.String(), first.Ports.String(), first.Until.UTC(), first.Reason, first.Source
		e.Prefixes = make([]netip.Prefix, 0, to-from)
		for ; from < to; from++ {
			e.Prefixes = append(e.Prefixes, op(from).Prefix)
		}
		d.audit.Add(e)
		if e.NodeID == d.self.String() {
			d.logOwn(e, first.Kind)
		}
	}
}

// logOwn logs a change that begins on this node.
func (d *Daemon) logOwn(e control.AuditEntry, kind ban.Kind) {
	attrs := []any{"prefix", show(e.Prefixes[0])}
	add := func(key string, value any, said bool) {
		if said {
			attrs = append(attrs, key, value)
		}
	}
	if kind == ban.KindRevoke {
		e.What = ban.KindUnban.String() // of one of its own bans; "revoke" is for nodes
	}
	add("more", len(e.Prefixes)-1, len(e.Prefixes) > 1)
	add("ports", e.Ports, e.Ports != "")
	add("until", control.FormatTime(e.Until), kind == ban.KindBan || kind == ban.KindAllow)
	attrs = append(attrs, "via", e.Via)
	add("reason", e.Reason, e.Reason != "")
	d.log.Info(e.What, attrs...)
}

// alike reports whether two ops differ in nothing but the prefix.
func alike(a, b *ban.Op) bool {
	return a.Kind == b.Kind && a.Ports == b.Ports && a.Until.Equal(b.Until) && a.Reason == b.Reason && a.Source == b.Source
}

// recordRemote records the ops of one peer's frame in the audit log.
func (d *Daemon) recordRemote(now time.Time, records []ban.Record) {
	if len(records) == 0 {
		return
	}
	e, v := d.by(records[0].Origin, now, control.ViaMesh), records[0].Version
	e.Frame = fmt.Sprintf("%d.%d", v.Epoch, v.Seq)
	d.recordEach(e, len(records), func(i int) *ban.Op { return &records[i].Op })
}
