package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/exabgp"
	"github.com/meshban/meshban/cmd/meshban/internal/feed"
)

const (
	formatExaBGP           = "exabgp"
	asFlow, asBlackhole    = "flow", "blackhole"
	defaultBlackhole       = "65535:666" // RFC 7999
	routesTick             = time.Second // how often routes are looked through for those that have ended
	routesEvery            = time.Minute // how often the list is read without an event: an exception may have come from the config
	routesPause            = 100 * time.Millisecond
	routesShare            = 20 // the least pause after reading the list is so many times what that took
	agentAgain             = time.Second
	maxAnswer              = 64 << 10 // bytes of a line from ExaBGP
	routesMost, routesFrom = "most", "at-least"
)

// exabgpFlags are those of watch that only --format exabgp has.
func exabgpFlags() []cli.Flag {
	d := exabgp.Default()
	return []cli.Flag{
		text("format", "`F` exabgp: commands for ExaBGP instead of events; the flags below go with it"),
		text("as", "`WHAT` flow: a flow specification that drops packets from the address; blackhole: a route to it (default: flow)"),
		text("next-hop", fmt.Sprintf("`ADDR` with --as blackhole (default: %s and %s)", d.NextHop4, d.NextHop6)),
		text("community", fmt.Sprintf("`A:B` one more besides no-export (default: none, and %s with --as blackhole)", defaultBlackhole)),
		text(routesMost, fmt.Sprintf("`N` routes at a time, 1 to %d (default: %d)", exabgp.MaxRoutes, d.Most)),
		text("origins", fmt.Sprintf("`K` nodes must have banned it (default: %d)", d.Origins)),
		text(routesFrom, fmt.Sprintf("`D` the ban must have left (default: %s)", config.FormatDuration(d.AtLeast))),
	}
}

// exabgpOptions reads those flags. ok is false if events are wanted.
func exabgpOptions(ctx *cli.Context) (o exabgp.Options, ok bool, err error) {
	o = exabgp.Default()
	if f := ctx.String("format"); f != formatExaBGP {
		if f != "" {
			return o, false, usagef("write --format exabgp, or --json", "--format: there is no format %q", f)
		}
		for _, flag := range exabgpFlags() {
			if name := flag.Names()[0]; ctx.IsSet(name) {
				return o, false, usagef("write --format exabgp too, or leave it out", "--%s goes with --format exabgp", name)
			}
		}
		return o, false, nil
	}
	if ctx.Bool("json") {
		return o, false, usagef("give one of them", "--json and --format exclude each other")
	}
	v := values{ctx: ctx}
	o.Blackhole = get(&v, "as", func(s string) (bool, error) {
		if s != asFlow && s != asBlackhole {
			return false, &config.Error{Problem: fmt.Sprintf("%q is not known", s), Remedy: "write --as flow or --as blackhole"}
		}
		return s == asBlackhole, nil
	})
	community := get(&v, "community", func(s string) (string, error) {
		c, err := exabgp.ParseCommunity(s)
		if err != nil {
			err = &config.Error{Problem: err.Error(), Remedy: "write two numbers, each at most 65535, such as --community " + defaultBlackhole}
		}
		return c, err
	})
	switch {
	case community != "":
		o.Communities = []string{community}
	case o.Blackhole:
		o.Communities = []string{defaultBlackhole}
	}
	if hop := get(&v, "next-hop", parseNextHop); hop.IsValid() {
		if !o.Blackhole && v.err == nil {
			return o, false, usagef("write --as blackhole too, or leave it out", "--next-hop goes with --as blackhole")
		}
		if hop.Is4() {
			o.NextHop4 = hop
		} else {
			o.NextHop6 = hop
		}
	}
	o.Most = orDefault(v.number(routesMost, 1, exabgp.MaxRoutes), o.Most)
	o.Origins = orDefault(v.number("origins", config.MinQuorum, config.MaxQuorum), o.Origins)
	if d := v.duration(routesFrom); d > 0 {
		o.AtLeast = time.Duration(d)
	}
	return o, true, v.err
}

func orDefault(n, otherwise int) int {
	if n == 0 {
		return otherwise
	}
	return n
}

func parseNextHop(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" || a.Is4In6() {
		return a, &config.Error{Problem: fmt.Sprintf("%q is not an address", s), Remedy: "write one such as --next-hop 192.0.2.1"}
	}
	return a, nil
}

// watchExaBGP keeps the routes of ExaBGP up to date until ctx ends, also while the agent is away: a route ends with its
// ban.
func (c *command) watchExaBGP(ctx context.Context, opts exabgp.Options) error {
	ctx, cancel := context.WithCancel(ctx)
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer cancel()
	w := &routeWatch{command: c, routes: exabgp.New(opts, c.out), most: opts.Most,
		changed: make(chan struct{}, 1), lost: make(chan error, 1), refused: make(chan struct{}, 1)}
	tasks.Go(func() { w.follow(ctx) })
	tasks.Go(func() { w.readAnswers(ctx) })
	err := w.run(ctx)
	return errors.Join(err, w.routes.Close())
}

// routeWatch is one run of watch --format exabgp.
type routeWatch struct {
	*command
	routes  *exabgp.Routes
	most    int
	full    bool          // it was said that there is no room
	said    string        // why the agent does not answer, as it was said last; "" = it does
	changed chan struct{} // holds one token: the list may have changed. follow sends
	lost    chan error    // holds one: why the agent does not answer. follow sends
	refused chan struct{} // holds one token: ExaBGP has refused a command. readAnswers sends
}

// run writes commands until ctx ends or stdout fails. It does not end because of the agent: ExaBGP ends, with all its
// sessions, if a process of it ends five times.
func (w *routeWatch) run(ctx context.Context) error {
	tick := time.NewTicker(routesTick)
	defer tick.Stop()
	var due <-chan time.Time // when the list is to be read; nil = there is no need
	var read, next time.Time // when it was read, and may be read again
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case lost := <-w.lost:
			w.complain(lost)
		case <-w.refused:
			tell(w.err, errors.New("ExaBGP has refused a command"), "its log says which and why; the neighbor needs the families ipv4 flow and ipv6 flow, or with --as blackhole ipv4 unicast and ipv6 unicast")
		case now := <-tick.C:
			err = w.routes.Expire(now)
			if due == nil && now.Sub(read) > routesEvery {
				due = time.After(0)
			}
		case <-w.changed:
			if due == nil {
				due = time.After(time.Until(next))
			}
		case <-due:
			due, read = nil, time.Now()
			if lost := w.sync(ctx, read); lost == nil {
				w.said = ""
			} else if ctx.Err() == nil {
				w.complain(lost)
			}
			next = time.Now().Add(max(routesPause, routesShare*time.Since(read)))
		}
		if err == nil {
			err = w.out.Flush()
		}
		if err != nil {
			return err
		}
	}
}

// complain tells why the agent does not answer, unless it has just said so.
func (w *routeWatch) complain(lost error) {
	if w.said == lost.Error() {
		return
	}
	w.said = lost.Error()
	tell(w.err, lost, "")
	tellHint(w.err, "routes are withdrawn when their bans end; trying again until the agent answers")
}

// sync reads what is banned and what is allowed.
func (w *routeWatch) sync(ctx context.Context, now time.Time) error {
	client := w.client()
	allowed, err := client.Allowed(ctx)
	if err != nil {
		return err
	}
	never := make([]netip.Prefix, len(allowed))
	for i, a := range allowed {
		never[i] = a.Prefix.Prefix
	}
	left, err := w.routes.Sync(now, feed.NewExceptions(never), func(yield func(feed.Entry) error) error {
		return client.List(ctx, false, func(e control.ListEntry) error {
			if e.State != control.StateEnforced && e.State != control.StateNotEnforced {
				return nil
			}
			for part := range feed.NewExceptions(e.LeavesOut).Without(e.Prefix.Prefix) {
				if err := yield(feed.Entry{Prefix: part, Ports: e.Ports, Until: e.Until.Time, Origins: e.Origins}); err != nil {
					return err
				}
			}
			return nil
		})
	})
	if err == nil && left.Room > 0 && !w.full {
		fmt.Fprintf(w.err, "meshban: %s without a route: there are %d already\n", plural(left.Room, "ban is", "bans are"), w.most)
		tellHint(w.err, fmt.Sprintf("--%s N makes room, if the router has it; --origins K and --%s D choose", routesMost, routesFrom))
	}
	w.full = left.Room > 0
	return err
}

// follow says when something has changed, and connects again when the agent has ended.
func (w *routeWatch) follow(ctx context.Context) {
	wake := func() {
		select {
		case w.changed <- struct{}{}:
		default:
		}
	}
	for ctx.Err() == nil {
		if err := w.client().WatchStarted(ctx, wake, func(control.Event) error { wake(); return nil }); ctx.Err() == nil {
			select {
			case w.lost <- err:
			default:
			}
		}
		again := time.NewTimer(agentAgain)
		select {
		case <-ctx.Done():
			again.Stop()
		case <-again.C:
		}
	}
}

// readAnswers reads what ExaBGP answers to each command, which would fill the pipe.
func (w *routeWatch) readAnswers(ctx context.Context) {
	lines := bufio.NewScanner(newStdin(ctx, w.in))
	lines.Buffer(nil, maxAnswer)
	for lines.Scan() {
		if lines.Text() == "error" {
			select {
			case w.refused <- struct{}{}:
			default:
			}
		}
	}
}
