package daemon

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/apikey"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/daemon/enforce"
	"github.com/meshban/meshban/cmd/meshban/internal/feed"
	"github.com/meshban/meshban/cmd/meshban/internal/listener"
	"github.com/meshban/meshban/fw"
)

// api is the listener and what it needs of the daemon.
type api struct {
	*listener.Server
	d          *Daemon
	keys       *apikey.Ring
	spared     chan struct{}                  // holds one token: exceptions may have changed. Anyone sends, run receives
	exceptions atomic.Pointer[[]netip.Prefix] // what is never dropped, sorted; run writes it
	portBans   atomic.Int64                   // bans in force of some ports only
}

// openAPI prepares the listener. The table is complete, and changes of it are announced.
func (d *Daemon) openAPI() (err error) {
	a := &api{d: d, spared: make(chan struct{}, 1)}
	if a.keys, err = apikey.Open(d.home.APIKeys()); err != nil {
		return err
	}
	if err := listener.CheckFiles(d.cfg.API); err != nil {
		return err
	}
	for e := range d.state.Snapshot().Entries {
		if len(e.Ports) > 0 {
			a.portBans.Add(1)
		}
	}
	list := sortedExceptions(d.exceptions())
	a.exceptions.Store(&list)
	a.Server, err = listener.New(listener.Config{Agent: served{d}, Keys: a.keys, API: d.cfg.API, Feed: feed.Handler(keyed{d}), Page: d.page, Known: d.past.known(time.Now()), Logger: d.log})
	d.api = a
	return err
}

// run serves until ctx ends.
func (a *api) run(ctx context.Context) error {
	tasks, ctx := errgroup.WithContext(ctx)
	tasks.Go(func() error { return a.Server.Run(ctx) })
	tasks.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-a.spared:
				if a.On() {
					a.sparedChanged()
				}
			}
		}
	})
	return tasks.Wait()
}

// changed tells the listener of changes, in force or not.
func (a *api) changed(changes []ban.Change) {
	if a == nil {
		return // nothing runs yet
	}
	var touches []listener.Touch
	for _, c := range changes {
		switch {
		case c.Event == ban.EventAllow && !c.Lift, c.Event == ban.EventUnallow:
			wake(a.spared)
		case !c.Enforce && !c.Lift:
		case !c.Ports.IsAll():
			a.portBans.Add(int64(count(c.Event == ban.EventBan) - count(c.Lift)))
		case a.On():
			t := listener.Touch{Prefix: c.Prefix, Source: c.Source, Gone: c.Lift, Fresh: c.Event == ban.EventBan}
			if c.Lift {
				t.Source = sourceBefore(c)
			}
			switch {
			case c.Event == ban.EventRefresh && c.Until.After(c.Was):
				t.Was = c.Was
			case c.Event == ban.EventRefresh: // it may be what took back a longer ban
				t.Source = ""
			}
			touches = append(touches, t)
		}
	}
	if len(touches) > 0 {
		a.Touched(time.Now(), touches...)
	}
}

// sourceBefore returns the source of a ban that is no longer in force, or "" if something else ended it: then the change
// has the source of that.
func sourceBefore(c ban.Change) string {
	if c.Event == ban.EventExpire {
		return c.Source
	}
	return ""
}

// sparedChanged tells the listener of the ranges inside which an exception came or went.
func (a *api) sparedChanged() {
	old, now := *a.exceptions.Load(), sortedExceptions(a.d.exceptions())
	if slices.Equal(old, now) {
		return
	}
	a.exceptions.Store(&now)
	differ := without(old, now)
	differ = append(differ, without(now, old)...)
	var touches []listener.Touch
	for p, e := range a.d.rangesAround(differ) {
		touches = append(touches, listener.Touch{Prefix: p, Source: e.Source})
	}
	a.Touched(time.Now(), touches...)
}

// rangesAround returns the bans of ranges in force, of all ports, that contain one of some prefixes.
func (d *Daemon) rangesAround(prefixes []netip.Prefix) map[netip.Prefix]ban.Entry {
	found := make(map[netip.Prefix]ban.Entry)
	for some := range slices.Chunk(prefixes, enforce.Chunk) {
		d.state.View(func(t *ban.Table) {
			for _, p := range some {
				for _, e := range t.EnforcedCovering(p) {
					if !e.Prefix.IsSingleIP() {
						found[e.Prefix] = e
					}
				}
			}
		})
	}
	return found
}

// rangesLeftOut returns how many ranges bouncers are not told of.
func (a *api) rangesLeftOut() int { return len(a.d.rangesAround(*a.exceptions.Load())) }

// untold returns why bouncers are not told of a ban in force, or "" if they are.
func (a *api) untold(prefix netip.Prefix, ports ban.Ports) string {
	switch {
	case !a.On():
		return ""
	case !ports.IsAll():
		return "bouncers are not told of it, as it is of some ports only"
	case !prefix.IsSingleIP() && inside(*a.exceptions.Load(), prefix):
		return "bouncers are not told of it, as it has an exception inside"
	}
	return ""
}

// without returns the prefixes of a that b lacks; both are sorted.
func without(a, b []netip.Prefix) (out []netip.Prefix) {
	for _, p := range a {
		if _, ok := slices.BinarySearchFunc(b, p, comparePrefixes); !ok {
			out = append(out, p)
		}
	}
	return out
}

func sortedExceptions(x fw.Exceptions) []netip.Prefix {
	all := slices.Concat(x.Never, x.Allow, x.Networks)
	slices.SortFunc(all, comparePrefixes)
	return slices.Compact(all)
}

func comparePrefixes(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}

// inside reports whether one of some sorted prefixes lies in p.
func inside(sorted []netip.Prefix, p netip.Prefix) bool {
	i, ok := slices.BinarySearchFunc(sorted, p, comparePrefixes)
	return ok || i < len(sorted) && p.Overlaps(sorted[i])
}

// served is what the listener sees of the daemon. CrowdSec's API knows no exceptions, so a range with one inside is not
// served at all: to let through is the lesser harm.
type served struct{ *Daemon }

var _ listener.Agent = served{}

// keyed is what lists show to the key of a request.
type keyed struct{ *Daemon }

// Entries implements feed.Source.
func (k keyed) Entries(ctx context.Context, yield func(feed.Entry) error) error {
	key := listener.KeyOf(ctx)
	return k.Daemon.Entries(ctx, func(e feed.Entry) error {
		if !key.Reads(e.Prefix, e.Source) {
			return nil
		}
		return yield(e)
	})
}

func (s served) of(e ban.Entry) (listener.Ban, bool) {
	if !e.Prefix.IsSingleIP() && inside(*s.api.exceptions.Load(), e.Prefix) {
		return listener.Ban{}, false
	}
	return listener.Ban{Prefix: e.Prefix, Until: e.Until, Source: e.Source}, true
}

// Bans implements listener.Agent.
func (s served) Bans(ctx context.Context, yield func(listener.Ban) error) (err error) {
	s.state.Entries(func(e ban.Entry) bool {
		if err = ctx.Err(); err == nil && e.State == ban.StateEnforced && e.Ports.IsAll() {
			if b, ok := s.of(e); ok {
				err = yield(b)
			}
		}
		return err == nil
	})
	return err
}

// Exact implements listener.Agent.
func (s served) Exact(prefixes []netip.Prefix) []listener.Ban {
	out := make([]listener.Ban, len(prefixes))
	s.state.View(func(t *ban.Table) {
		for i, p := range prefixes {
			if e, ok := t.Enforced(p); ok {
				out[i], _ = s.of(e)
			}
		}
	})
	return out
}

// Covering implements listener.Agent.
func (s served) Covering(prefix netip.Prefix) (out []listener.Ban) {
	s.state.View(func(t *ban.Table) {
		for _, e := range t.EnforcedCovering(prefix) {
			if b, ok := s.of(e); ok {
				out = append(out, b)
			}
		}
	})
	return out
}

// AddKey implements control.Agent.
func (d *Daemon) AddKey(ctx context.Context, req control.AddKeyRequest) (control.AddKeyReply, error) {
	now := time.Now()
	key, err := d.api.keys.Add(req.Key, now)
	switch {
	case errors.Is(err, apikey.ErrExists):
		return control.AddKeyReply{}, &control.Error{Code: control.CodePolicy, Rule: "name", Message: err.Error(), Hint: "choose another, or `meshban key delete " + req.Key.Name + "`"}
	case err != nil:
		return control.AddKeyReply{}, err
	}
	d.recordKey(ctx, now, "key add", req.Key.Name)
	return control.AddKeyReply{Name: req.Key.Name, Key: key, Listen: d.api.Addr()}, nil
}

// DeleteKey implements control.Agent.
func (d *Daemon) DeleteKey(ctx context.Context, req control.DeleteKeyRequest) (control.DeleteKeyReply, error) {
	if err := d.api.keys.Delete(req.Name); errors.Is(err, apikey.ErrUnknown) {
		return control.DeleteKeyReply{}, &control.Error{Code: control.CodeNotFound, Message: err.Error(), Hint: "`meshban key list` shows what there is"}
	} else if err != nil {
		return control.DeleteKeyReply{}, err
	}
	d.recordKey(ctx, time.Now(), "key delete", req.Name)
	return control.DeleteKeyReply(req), nil
}

func (d *Daemon) recordKey(ctx context.Context, now time.Time, what, name string) {
	e := d.byCaller(ctx, now)
	e.What, e.Reason = what, name
	d.audit.Add(e)
}

// apiStatus returns nil if the listener is off.
func (d *Daemon) apiStatus() *control.APIStatus {
	if !d.api.On() {
		return nil
	}
	return &control.APIStatus{Listen: d.api.Addr(), Held: int(d.api.Stats.Held.Load()), LeftOut: int(d.api.portBans.Load()), RangesLeftOut: d.api.rangesLeftOut()}
}

// Keys implements control.Agent.
func (d *Daemon) Keys(context.Context) (control.KeysReply, error) {
	return control.KeysReply{Keys: d.api.keys.List(), Listen: d.api.Addr(), LeftOut: int(d.api.portBans.Load()), RangesLeftOut: d.api.rangesLeftOut()}, nil
}
