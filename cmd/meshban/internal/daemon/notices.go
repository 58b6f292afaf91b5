package daemon

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/mesh"
	"github.com/meshban/meshban/mesh/frame"
)

// A node that holds or refuses another node's ops notifies that node, so that its operator learns of it. This file has
// both ends: what this node tells others, and what others report to it.

const (
	// noticeGather is how long ops are gathered before the first notice, and the range of the random delay added to it.
	noticeGather = time.Second
	// noticeEvery is the shortest interval between two notices to one origin.
	noticeEvery = time.Minute
	// noticeAgain is how often an origin is told again while its ops wait here; reportKept is how long its operator is
	// shown the last notice.
	noticeAgain, reportKept = 10 * time.Minute, 30 * time.Minute
	// quietAfter is how long after the last op, if none waits, the counts restart.
	quietAfter = time.Hour
	// slowEvery is the shortest interval between two calls of Mesh.Slow for one origin, whose ops are held or refused.
	slowEvery = time.Second

	// urgentGather and urgentEvery replace noticeGather and noticeEvery if ops that lift bans are held or refused: a command waits for the
	// notice.
	urgentGather, urgentEvery = 50 * time.Millisecond, time.Second

	noticeVersion = 2
	noticeLen     = 1 + 8 + 4*len(noticeRules)
)

// noticeRules are the rules that an origin is told about, in the order of the encoding: add at the end, with a new
// version. The first four hold, the others refuse.
var noticeRules = [...]string{
	ban.RuleRate, ban.RuleActive, "breaker", ban.RuleLift,
	ban.RuleWide, ban.RuleLong, ban.RuleOthers, "rate of others than bans", ban.RuleHeldFull, ban.RuleCancelMarks, ban.RuleAllows,
}

const (
	noticeHeld      = int(ban.HoldLift) // the rules before this index hold; their index is ban.Hold less 1
	noticeOtherRate = 7
)

// notice is what a node reports about another node's ops.
type notice struct {
	waiting uint32                   // its ops that wait for an operator now
	lifts   uint32                   // how many of them lift bans
	count   [len(noticeRules)]uint32 // ops held or refused, by rule, since the count began
}

func (n notice) encode() []byte {
	b := binary.BigEndian.AppendUint32([]byte{noticeVersion}, n.waiting)
	b = binary.BigEndian.AppendUint32(b, n.lifts)
	for _, c := range n.count {
		b = binary.BigEndian.AppendUint32(b, c)
	}
	return b
}

// decodeNotice strictly decodes what encode wrote.
func decodeNotice(b []byte) (n notice, err error) {
	switch {
	case len(b) != noticeLen:
		return notice{}, fmt.Errorf("notice of %d bytes, want %d", len(b), noticeLen)
	case b[0] != noticeVersion:
		return notice{}, fmt.Errorf("notice of version %d, want %d", b[0], noticeVersion)
	}
	if n.waiting = binary.BigEndian.Uint32(b[1:]); n.waiting > ban.MaxHeld {
		return notice{}, fmt.Errorf("%d ops wait, want at most %d", n.waiting, ban.MaxHeld)
	}
	if n.lifts = binary.BigEndian.Uint32(b[5:]); n.lifts > n.waiting {
		return notice{}, fmt.Errorf("%d of %d ops that wait lift bans", n.lifts, n.waiting)
	}
	for i := range n.count {
		n.count[i] = binary.BigEndian.Uint32(b[9+4*i:])
	}
	return n, nil
}

// feedback is what this node has to tell one origin.
type feedback struct {
	count   [len(noticeRules)]uint32
	counted time.Time // when count last changed
	told    notice    // the last notice
	toldAt  time.Time
	repeat  bool // send the last notice once more: it may have been lost
	urgent  bool // an op other than a ban was held or refused since the last notice
}

// countFeedbackLocked counts an op of a peer that is held, or refused with err.
func (d *Daemon) countFeedbackLocked(now time.Time, r *ban.Record, err error) {
	rule := int(r.Hold) - 1
	if err != nil {
		var policy *ban.PolicyError
		if !errors.As(err, &policy) {
			return
		}
		switch rule = slices.Index(noticeRules[noticeHeld:], policy.Rule) + noticeHeld; {
		case policy.Rule == ban.RuleRate:
			rule = noticeOtherRate
		case rule < noticeHeld:
			return // not a matter of caps
		}
	}
	o := d.feedback[r.Origin]
	if o == nil {
		if len(d.feedback) >= ban.MaxOrigins {
			return
		}
		o = new(feedback)
		d.feedback[r.Origin] = o
	}
	if o.count[rule] < math.MaxUint32 {
		o.count[rule]++
	}
	o.counted = now
	o.urgent = o.urgent || r.Kind != ban.KindBan
	d.slowLocked(now, r.Origin)
	wake(d.noticeWake)
}

// slowLocked makes the mesh accept fewer frames from an origin for a while.
func (d *Daemon) slowLocked(now time.Time, origin ban.Origin) {
	if now.Sub(d.slowed[origin]) < slowEvery {
		return
	}
	if len(d.slowed) >= ban.MaxOrigins {
		clear(d.slowed) // costs a few extra calls
	}
	d.slowed[origin] = now
	d.mesh.Slow(frame.ID(origin))
}

// tellOrigins tells origins which of their ops this node holds or refuses, until ctx ends.
func (d *Daemon) tellOrigins(ctx context.Context) error {
	timer := time.NewTimer(noticeEvery)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.noticeWake:
			timer.Reset(d.gatherNotices())
			select {
			case <-ctx.Done():
				return nil
			case <-timer.C:
			}
		case <-timer.C:
		}
		d.tellOnce(time.Now())
		timer.Reset(noticeEvery)
	}
}

// gatherNotices returns how long to gather before the next notices.
func (d *Daemon) gatherNotices() time.Duration {
	urgent := false
	d.state.View(func(*ban.Table) {
		for _, o := range d.feedback {
			urgent = urgent || o.urgent
		}
	})
	if urgent {
		return urgentGather
	}
	return noticeGather + rand.N(noticeGather)
}

// tellOnce sends the notices that are due. An origin that is not alive is told later.
func (d *Daemon) tellOnce(now time.Time) {
	due := make(map[ban.Origin]notice)
	d.state.View(func(t *ban.Table) {
		for origin, o := range d.feedback {
			n := notice{waiting: uint32(t.WaitingOf(origin)), lifts: uint32(t.LiftsWaitingOf(origin)), count: o.count}
			if n.waiting == 0 && now.Sub(o.counted) > quietAfter {
				delete(d.feedback, origin)
				continue
			}
			since := now.Sub(o.toldAt)
			switch {
			case since < noticeEvery && (!o.urgent || since < urgentEvery):
			case n != o.told || o.repeat || n.waiting > 0 && since >= noticeAgain:
				due[origin] = n
			}
		}
	})
	for origin, n := range due {
		if err := d.mesh.Notify(frame.ID(origin), n.encode()); err != nil {
			d.log.Debug("could not tell an origin what is held of it", "origin", d.names.of(origin), "err", err)
			continue
		}
		d.metrics.noticesSent.Inc()
		d.state.View(func(*ban.Table) {
			if o := d.feedback[origin]; o != nil {
				o.repeat = n != o.told
				o.told, o.toldAt, o.urgent = n, now, false
			}
		})
	}
}

// report is a peer's last notice about this node's ops.
type report struct {
	notice
	at time.Time
}

// refused returns how many ops of this node the peer refused.
func (r report) refused() (sum uint64) {
	for _, c := range r.count[noticeHeld:] {
		sum += uint64(c)
	}
	return sum
}

// noticed handles a peer's notice about this node's ops. The mesh limits how often a peer may send one.
func (d *Daemon) noticed(from frame.ID, payload []byte) {
	n, err := decodeNotice(payload)
	if err != nil {
		d.log.Debug("a notice that this version does not understand", "from", d.names.of(ban.Origin(from)), "err", err)
		return
	}
	d.state.View(func(*ban.Table) { d.noticedLocked(time.Now(), ban.Origin(from), n) })
}

func (d *Daemon) noticedLocked(now time.Time, peer ban.Origin, n notice) {
	d.pruneReportsLocked(now)
	old, known := d.reports[peer]
	if !known && len(d.reports) >= mesh.MaxMembers {
		return
	}
	r := report{n, now}
	d.reports[peer] = r
	for i, c := range n.count {
		if c >= old.count[i] {
			c -= old.count[i] // unless its count restarted
		}
		if c > 0 {
			d.metrics.stoppedOps.WithLabelValues(noticeRules[i]).Add(float64(c))
		}
	}
	if n != old.notice && (n.waiting > 0 || r.refused() > 0) && now.Sub(d.alarm.told) >= alarmEvery {
		d.alarm.told = now
		d.log.Warn("peers do not enforce all that this node says", "peer", d.names.of(peer), "held", n.waiting, "refused", r.refused())
	}
}

func (d *Daemon) pruneReportsLocked(now time.Time) {
	for peer, r := range d.reports {
		if now.Sub(r.at) > reportKept {
			delete(d.reports, peer)
		}
	}
}

// heldByPeers returns the largest number of this node's ops that wait on one peer.
func (d *Daemon) heldByPeers() (most uint32) {
	d.state.View(func(*ban.Table) {
		d.pruneReportsLocked(time.Now())
		for _, r := range d.reports {
			most = max(most, r.waiting)
		}
	})
	return most
}

// reportProblemsLocked returns the problems that status shows while peers hold or refuse what this node publishes; "" if
// none does.
func (d *Daemon) reportProblemsLocked(now time.Time) (held, refused string) {
	d.pruneReportsLocked(now)
	if said := d.reportersLocked("hold", "ops", 0, noticeHeld, func(r report) uint64 { return uint64(r.waiting) }); said != "" {
		held = fmt.Sprintf("%s; `meshban held release --from %s` there lets them count, and `meshban ca caps %[2]s`, where ca.key is, shows and changes what others take from it",
			said, d.names.handle(d.self))
	}
	if said := d.reportersLocked("refuse", "ops", noticeHeld, len(noticeRules), report.refused); said != "" {
		refused = fmt.Sprintf("%s, which count on this node only; bans.widest_ipv4, bans.widest_ipv6 and peers in their meshban.yaml decide what they take, and its certificate: `meshban ca caps %s`", said, d.names.handle(d.self))
	}
	return held, refused
}

// reportersLocked names the peers for which of is not 0, the highest of these counts, and by which of the rules from
// first to before end; "" if there are no such peers.
func (d *Daemon) reportersLocked(does, what string, first, end int, of func(report) uint64) string {
	var by [len(noticeRules)]bool
	who, most, others := "", uint64(0), -1
	for peer, r := range d.reports {
		n, name := of(r), d.names.of(peer)
		if n == 0 {
			continue
		}
		if others++; n > most || n == most && name < who {
			who, most = name, n
		}
		for i := first; i < end; i++ {
			by[i] = by[i] || r.count[i] > 0
		}
	}
	switch others {
	case -1:
		return ""
	case 0:
		who += " " + does + "s"
	case 1:
		who += " and another node " + does
	default:
		who += fmt.Sprintf(" and %d others %s", others, does)
	}
	var rules []string
	for i, is := range by {
		if is {
			rules = append(rules, noticeRules[i])
		}
	}
	return fmt.Sprintf("%s %d %s of this node (%s)", who, most, what, strings.Join(rules, ", "))
}
