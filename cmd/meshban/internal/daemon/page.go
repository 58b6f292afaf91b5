package daemon

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/ui"
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
	d.state.Entries(func(e ban.Entry) bool {
		if failed = ctx.Err(); failed != nil {
			return false
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
		if !s.Fits(e.Prefix, e.Reason, e.Source, names) {
			return true
		}
		if out := d.listed(e); s.State == "" || s.State == out.State {
			failed = yield(out)
		}
		return failed == nil
	})
	return failed
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
