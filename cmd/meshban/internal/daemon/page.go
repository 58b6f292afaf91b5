package daemon

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/ui"
	"github.com/meshban/meshban/mesh/frame"
)

var _ ui.Agent = (*Daemon)(nil)

// NodeName implements ui.Agent.
func (d *Daemon) NodeName() string { return d.names.plain(d.self) }

// Pace implements ui.Agent.
func (d *Daemon) Pace() ui.Pace { return d.paces.read(time.Now()) }

// Find implements ui.Agent. Most entries do not fit, so it looks before it converts.
func (d *Daemon) Find(ctx context.Context, s ui.Search, yield func(control.ListEntry) error) error {
	known := make(map[ban.Origin]string) // names are looked up under a lock
	var names []string
	var failed error
	match := s.Matcher()
	d.state.Entries(func(e ban.Entry) bool {
		if failed = ctx.Err(); failed != nil {
			return false
		}
		// An enforced one may turn out not to be in the kernel, which takes longer to find out.
		if state := e.State.String(); s.State != "" && state != s.State && (e.State != ban.StateEnforced || s.State != control.StateNotEnforced) {
			return true
		}
		names = names[:0]
		for _, id := range e.Origins {
			name, ok := known[id]
			if !ok {
				name = d.names.of(id)
				known[id] = name
			}
			names = append(names, name)
		}
		if !match.Fits(e.Prefix, e.Reason, e.Source, names) {
			return true
		}
		if out := d.listed(e); s.State == "" || s.State == out.State {
			failed = yield(out)
		}
		return failed == nil
	})
	return failed
}

// maxToldWays bounds the bans in a node's answer to how long they took.
const maxToldWays = 4

// way is how long a ban took into this kernel.
type way struct {
	prefix netip.Prefix
	origin ban.Origin
	at     time.Time
	took   time.Duration // from the decision, by the clock where it began
}

// toldWay is a way in an answer to another node.
type toldWay struct {
	Prefix string  `json:"p"`
	Origin string  `json:"o"`
	MS     float64 `json:"ms"`
}

// Way implements ui.Agent.
func (d *Daemon) Way(ctx context.Context) (w ui.Way) {
	ways := d.paces.lastWays()
	if len(ways) == 0 {
		return w
	}
	last := ways[0]
	ahead := func(id frame.ID) float64 { return float64(d.mesh.ClockAhead(id).Microseconds()) / 1000 }
	base := 0.0 // how far the clock of the decision is ahead
	if last.origin != d.self {
		base = ahead(frame.ID(last.origin))
	}
	w = ui.Way{Prefix: control.PrefixOf(last.prefix), Origin: d.names.of(last.origin), At: last.at, MS: map[string]float64{
		d.self.String(): max(0, float64(last.took.Microseconds())/1000+base),
	}}
	want := last.told()
	for id, h := range d.hearAll(ctx, max(0, min(membersFresh, time.Since(last.at)))) {
		for _, t := range h.Ways {
			if t.Prefix == want.Prefix && t.Origin == want.Origin {
				w.MS[id.String()] = max(0, t.MS-ahead(id)+base)
				break
			}
		}
	}
	return w
}

func (w way) told() toldWay {
	return toldWay{w.prefix.String(), w.origin.String(), float64(w.took.Microseconds()) / 1000}
}

// took notes that this kernel has a new ban.
func (p *paces) took(c ban.Change, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	copy(p.ways[1:], p.ways[:])
	p.ways[0] = way{c.Prefix, c.Origin, at, at.Sub(c.Issued)}
}

// lastWays returns the last bans that this kernel took, newest first.
func (p *paces) lastWays() []way {
	p.mu.Lock()
	defer p.mu.Unlock()
	ways := slices.Clone(p.ways[:])
	return slices.DeleteFunc(ways, func(w way) bool { return w.at.IsZero() })
}

// Hooks implements ui.Agent.
func (d *Daemon) Hooks() []ui.Hook {
	var out []ui.Hook
	for _, h := range d.config().Hooks {
		by := "a webhook"
		if h.Webhook.Preset != "" && h.Webhook.Preset != config.PresetJSON {
			by = string(h.Webhook.Preset)
		}
		if len(h.Exec) > 0 {
			by = "the program " + h.Exec[0]
		}
		out = append(out, ui.Hook{Name: h.Name, On: h.On, By: by})
	}
	return out
}

// paces counts the bans of the last day by minute, and by hour and source. The zero value is ready to use.
type paces struct {
	mu      sync.Mutex // guards what follows
	newest  int64      // the minute, since 1970, of the last count
	minutes [ui.PaceMinutes]uint32
	sources map[string]*[pacedHours]uint32
	ways    [maxToldWays]way // newest first
}

const (
	pacedHours   = 24
	pacedSources = 32 // sources that are told apart
	restSources  = "others"
)

// add counts new bans.
func (p *paces) add(now time.Time, changes []ban.Change) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.turnLocked(now)
	minute := p.newest
	for _, c := range changes {
		if c.Event != ban.EventBan || !c.Enforce {
			continue
		}
		p.minutes[minute%ui.PaceMinutes]++
		hours := p.sources[c.Source]
		if hours == nil {
			hours = p.roomLocked(c.Source)
		}
		hours[minute/60%pacedHours]++
	}
}

// roomLocked returns the hours of a source that has none yet.
func (p *paces) roomLocked(source string) *[pacedHours]uint32 {
	if p.sources == nil {
		p.sources = make(map[string]*[pacedHours]uint32)
	}
	if len(p.sources) >= pacedSources {
		if source = restSources; p.sources[source] != nil {
			return p.sources[source]
		}
	}
	p.sources[strings.Clone(source)] = new([pacedHours]uint32)
	return p.sources[source]
}

// turnLocked forgets what is more than a day ago. A clock that is set back counts in the last minute.
func (p *paces) turnLocked(now time.Time) {
	minute := max(now.Unix()/60, p.newest)
	for m := max(p.newest+1, minute-ui.PaceMinutes+1); m <= minute; m++ {
		p.minutes[m%ui.PaceMinutes] = 0
	}
	for hour := max(p.newest/60+1, minute/60-pacedHours+1); hour <= minute/60; hour++ {
		for source, hours := range p.sources {
			if hours[hour%pacedHours] = 0; *hours == [pacedHours]uint32{} {
				delete(p.sources, source)
			}
		}
	}
	p.newest = minute
}

func (p *paces) read(now time.Time) ui.Pace {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.turnLocked(now)
	out := ui.Pace{End: time.Unix((p.newest+1)*60, 0), Minutes: make([]int, ui.PaceMinutes)}
	for i := range out.Minutes {
		out.Minutes[i] = int(p.minutes[(p.newest+1+int64(i))%ui.PaceMinutes])
	}
	for source, hours := range p.sources {
		n := 0
		for _, h := range hours {
			n += int(h)
		}
		out.Sources = append(out.Sources, ui.Count{Name: source, N: n})
	}
	slices.SortFunc(out.Sources, func(a, b ui.Count) int { return cmp.Compare(a.Name, b.Name) })
	return out
}
