package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/hashicorp/golang-lru/simplelru"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/listener"
	"github.com/meshban/meshban/mesh/frame"
)

const (
	// maxRefused bounds the refused ops of peers that are remembered, about 6 MB when full, and maxPast the ended bans,
	// about 8 MB; the oldest make room.
	maxRefused, maxPast = 1 << 14, 1 << 15
	// pastKept is how long why reports an ended ban.
	pastKept = 24 * time.Hour
	// maxPastFindings bounds the refused ops and ended bans that why reports, taken together.
	maxPastFindings = 100
	// maxPastSaved bounds the ended bans kept across a restart, about 3 MB; the newest are kept.
	maxPastSaved = 1 << 13
	// valuePast names the ended bans in the store, which has them only while no agent runs.
	valuePast = "past"
)

// past is what why reports beyond the table: refused ops and ended bans. The daemon's lock guards it.
type past struct {
	refused *simplelru.LRU // refusedKey -> refusedOp
	ended   *simplelru.LRU // banKey -> endedBan
	since   time.Time      // since when ended is complete, up to maxPast
	// refusing holds the bans that are being taken back because the configuration refuses them. They do not count as
	// ended.
	refusing map[banKey]bool
}

type banKey struct {
	prefix netip.Prefix
	ports  ban.Ports
}

type refusedKey struct {
	banKey
	origin ban.Origin
	kind   ban.Kind
}

func keyOfRefused(r *ban.Record) refusedKey {
	return refusedKey{banKey{r.Prefix, r.Ports}, r.Origin, r.Kind}
}

type refusedOp struct {
	version       ban.Version
	issued, until time.Time
	reason        string
	source        string
	status        string
}

type endedBan struct {
	change ban.Change
	at     time.Time
}

func newPast(now time.Time) past {
	refused, errRefused := simplelru.NewLRU(maxRefused, nil)
	ended, errEnded := simplelru.NewLRU(maxPast, nil)
	if err := errors.Join(errRefused, errEnded); err != nil {
		panic(err) // only a size below 1 is refused
	}
	return past{refused, ended, now, make(map[banKey]bool)}
}

// judged records what became of a peer's op: err is why it was refused, or nil if it was not.
func (p *past) judged(r *ban.Record, err error) {
	var policy *ban.PolicyError
	switch {
	case err == nil:
		if p.refused.Len() > 0 {
			if was, ok := p.refused.Peek(keyOfRefused(r)); ok && was.(refusedOp).version.Compare(r.Version) <= 0 {
				p.refused.Remove(keyOfRefused(r))
			}
		}
	case errors.As(err, &policy) && policy.Rule != ban.RuleExpired && policy.Rule != ban.RuleMalformed:
		p.refused.Add(keyOfRefused(r), refusedOp{r.Version, r.Issued, r.Until, r.Reason, r.Source, refusedStatus(policy, r.Prefix)})
	}
}

// tooEarly records the ops of a frame refused because it is dated in the future: its origin's clock is ahead, or this
// node's is behind.
func (d *Daemon) tooEarly(f frame.Frame) {
	ops, err := ban.DecodeOps(f.Payload)
	if err != nil {
		return
	}
	now := time.Now()
	refused := &ban.PolicyError{Rule: ban.RuleFuture, Detail: fmt.Sprintf(
		"it is dated %s ahead of this node's clock, and %s is allowed; the clock of %s, or this one, is wrong; it counts from %s on",
		config.FormatDuration(f.Issued.Sub(now).Round(time.Second)), config.FormatDuration(frame.FutureSkew), d.names.of(ban.Origin(f.Origin)),
		control.FormatTime(f.Issued.Add(-frame.FutureSkew)))}
	d.state.View(func(*ban.Table) {
		for _, r := range recordsOf(now, f, ops) {
			d.past.judged(&r, refused)
		}
	})
}

// refusedStatus returns by which rule a peer's op was refused, and which setting decides.
func refusedStatus(e *ban.PolicyError, prefix netip.Prefix) string {
	text := fmt.Sprintf("refused (%s): %s", e.Rule, e.Detail)
	const orCaps = ", or what its origin's certificate allows, decides"
	switch e.Rule {
	case ban.RuleWide:
		if prefix.Addr().Is4() {
			return text + "; bans.widest_ipv4 of this node" + orCaps
		}
		return text + "; bans.widest_ipv6 of this node" + orCaps
	case ban.RuleLong:
		return text + "; the shorter of bans.max_for and peers.max_for of this node" + orCaps
	case ban.RuleOthers:
		return text + "; peers.unban_any of this node" + orCaps
	case ban.RuleActive:
		return text + "; peers.active of this node" + orCaps
	}
	return text
}

// changed records a ban that is no longer in force.
func (p *past) changed(now time.Time, c ban.Change) {
	if key := (banKey{c.Prefix, c.Ports}); c.Lift && !p.refusing[key] {
		p.ended.Add(key, endedBan{c, now})
	}
}

// savedPast is what the store keeps of the ended bans, in the order in which they ended.
type savedPast struct {
	Since time.Time
	Ended []savedEnd
}

type savedEnd struct {
	ban.Change
	Ports string // replaces Change's, which has no JSON form
	At    time.Time
}

// save returns the ended bans in the form that load takes.
func (p *past) save() ([]byte, error) {
	keys := p.ended.Keys()
	saved := savedPast{Since: p.since}
	for _, k := range keys[max(0, len(keys)-maxPastSaved):] {
		v, _ := p.ended.Peek(k)
		e := v.(endedBan)
		saved.Ended = append(saved.Ended, savedEnd{e.change, e.change.Ports.String(), e.at})
	}
	return json.Marshal(saved)
}

// load restores what an earlier run saved.
func (p *past) load(b []byte) error {
	var saved savedPast
	if err := json.Unmarshal(b, &saved); err != nil {
		return err
	}
	for _, e := range saved.Ended {
		ports, err := ban.ParsePorts(e.Ports)
		if err != nil {
			return err
		}
		e.Change.Ports = ports
		p.ended.Add(banKey{e.Prefix, ports}, endedBan{e.Change, e.At})
	}
	p.since = saved.Since
	return nil
}

// known returns the bans of all ports that ended within pastKept, oldest first.
func (p *past) known(now time.Time) (all []listener.Ended) {
	for _, k := range p.ended.Keys() {
		if v, ok := p.ended.Peek(k); ok && k.(banKey).ports.IsAll() && now.Sub(v.(endedBan).at) < pastKept {
			e := v.(endedBan)
			all = append(all, listener.Ended{Prefix: k.(banKey).prefix, At: e.at, Source: sourceBefore(e.change)})
		}
	}
	return all
}

// loadPast restores what the last run saved, and removes it from the store: an agent that is killed saves nothing
// newer.
func (d *Daemon) loadPast() {
	b := d.store.Value(valuePast)
	if b == nil {
		return
	}
	d.store.Set(valuePast, nil)
	if err := d.past.load(b); err != nil {
		d.log.Warn("could not read which bans had ended", "err", err)
	}
}

// savePast saves the ended bans for the next run.
func (d *Daemon) savePast() {
	var b []byte
	var err error
	d.state.View(func(*ban.Table) { b, err = d.past.save() })
	if err != nil {
		d.log.Warn("could not save which bans have ended", "err", err)
		return
	}
	d.store.Set(valuePast, b)
}

// pastLocked returns the refused ops and ended bans of a prefix. live are the findings of the table.
func (d *Daemon) pastLocked(now time.Time, prefix netip.Prefix, live []ban.Finding) (out []control.Finding) {
	for _, k := range d.past.refused.Keys() {
		key := k.(refusedKey)
		v, _ := d.past.refused.Peek(key)
		r := v.(refusedOp)
		if !key.prefix.Overlaps(prefix) || !r.until.After(now) || len(out) == maxPastFindings {
			continue
		}
		out = append(out, control.Finding{
			Kind: key.kind.String(), Prefix: control.PrefixOf(key.prefix), Ports: key.ports.String(), Origin: d.names.of(key.origin), OriginID: key.origin.String(),
			Issued: control.PastOf(r.issued), Until: control.TimeOf(r.until), Reason: r.reason, Source: r.source, Status: r.status,
		})
	}
	there := make(map[banKey]bool)
	for _, f := range live {
		if f.Kind == ban.KindBan {
			there[banKey{f.Prefix, f.Ports}] = true
		}
	}
	for _, k := range d.past.ended.Keys() {
		key := k.(banKey)
		v, _ := d.past.ended.Peek(key)
		e := v.(endedBan)
		if !key.prefix.Overlaps(prefix) || there[key] || now.Sub(e.at) > pastKept || len(out) == maxPastFindings {
			continue
		}
		out = append(out, d.endedFinding(key, e))
	}
	return out
}

// endedFinding describes a ban that has ended.
func (d *Daemon) endedFinding(key banKey, e endedBan) control.Finding {
	c := e.change
	f := control.Finding{Kind: control.KindEnded, Prefix: control.PrefixOf(key.prefix), Ports: key.ports.String(), Until: control.TimeOf(c.Until)}
	by := d.names.of(c.Origin)
	if c.Event == ban.EventExpire {
		f.Origin, f.OriginID, f.Issued, f.Reason, f.Source, f.Status = by, c.Origin.String(), control.PastOf(c.Issued), c.Reason, c.Source, "has ended"
		return f
	}
	what := "lifted"
	if c.Event == ban.EventAllow {
		what = "lifted by an allow"
	}
	f.Status = fmt.Sprintf("%s at %s by %s", what, control.FormatPast(e.at), by)
	if c.Reason != "" {
		f.Status += fmt.Sprintf(", %q", c.Reason)
	}
	return f
}
