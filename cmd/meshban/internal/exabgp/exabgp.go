// Package exabgp turns what is banned into commands of ExaBGP's text API, so that routers drop it.
//
// A route is announced once and withdrawn when its ban has ended, whoever says so: the next list, or the clock. Each
// carries the community no-export (RFC 1997), so that it stays within the neighbouring AS. Options bound how many there
// are and which bans are worth one.
package exabgp

import (
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/feed"
)

// Bounds of Options.
const (
	MaxRoutes      = 100_000
	MaxCommunities = 16
	// maxPieces bounds the routes of one ban: a prefix in which addresses are allowed needs several.
	maxPieces = 64
)

// Options say which bans become routes, and which routes.
type Options struct {
	// Blackhole announces the address itself with NextHop4 or NextHop6 (RFC 5635, RFC 7999). Otherwise a flow
	// specification drops packets from it (RFC 8955, RFC 8956).
	Blackhole          bool
	NextHop4, NextHop6 netip.Addr
	Communities        []string // besides no-export, such as "65535:666"

	Most    int           // routes at a time
	Origins int           // nodes that ban it, at least
	AtLeast time.Duration // that a ban has left when it is announced
}

// route is one that was announced.
type route struct {
	until time.Time
	turn  int // of Sync that saw it last
}

// Routes are those that ExaBGP knows of.
type Routes struct {
	opts Options
	out  io.Writer
	in   map[netip.Prefix]route
	turn int
}

// New returns Routes without any. Commands are written to out.
func New(opts Options, out io.Writer) *Routes {
	return &Routes{opts: opts, out: out, in: map[netip.Prefix]route{}}
}

// Left says what has no route.
type Left struct {
	Room  int // beyond Options.Most
	Forms int // limited to ports, in more pieces than one ban may have, or, with Blackhole, not a single address
}

// Sync announces and withdraws, so that the routes are those of the bans that list yields, without except. If list fails,
// nothing changes.
func (r *Routes) Sync(now time.Time, except feed.Exceptions, list func(yield func(feed.Entry) error) error) (left Left, err error) {
	r.turn++
	found := map[netip.Prefix]time.Time{} // not announced yet
	err = list(func(e feed.Entry) error {
		if len(e.Origins) < r.opts.Origins {
			return nil
		}
		pieces, ok := r.pieces(e, except)
		if !ok {
			left.Forms++
		}
		for _, p := range pieces {
			if at, ok := r.in[p]; ok {
				if at.turn != r.turn || e.Until.After(at.until) {
					r.in[p] = route{e.Until, r.turn}
				}
			} else if until, ok := found[p]; ok || e.Until.Sub(now) >= r.opts.AtLeast && len(found) < r.opts.Most {
				found[p] = later(until, e.Until)
			} else if e.Until.Sub(now) >= r.opts.AtLeast {
				left.Room++
			}
		}
		return nil
	})
	if err != nil {
		return left, err
	}
	for _, p := range slices.SortedFunc(maps.Keys(r.in), netip.Prefix.Compare) {
		if at := r.in[p]; at.turn != r.turn || !at.until.After(now) {
			if err := r.withdraw(p); err != nil {
				return left, err
			}
		}
	}
	for _, p := range slices.SortedFunc(maps.Keys(found), netip.Prefix.Compare) {
		if len(r.in) >= r.opts.Most {
			left.Room++
			continue
		}
		r.in[p] = route{found[p], r.turn}
		if err := r.write("announce", p); err != nil {
			return left, err
		}
	}
	return left, nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// pieces returns the routes of a ban; ok is false if it can have none.
func (r *Routes) pieces(e feed.Entry, except feed.Exceptions) (all []netip.Prefix, ok bool) {
	if e.Ports != "" || r.opts.Blackhole && !e.Prefix.IsSingleIP() {
		return nil, false
	}
	for p := range except.Without(e.Prefix) {
		if len(all) == maxPieces {
			return nil, false
		}
		all = append(all, p)
	}
	return all, true
}

// Expire withdraws what has ended.
func (r *Routes) Expire(now time.Time) error {
	return r.withdrawIf(func(at route) bool { return !at.until.After(now) })
}

// Close withdraws all.
func (r *Routes) Close() error { return r.withdrawIf(func(route) bool { return true }) }

func (r *Routes) withdrawIf(ended func(route) bool) error {
	for p, at := range r.in {
		if ended(at) {
			if err := r.withdraw(p); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *Routes) withdraw(p netip.Prefix) error {
	delete(r.in, p)
	return r.write("withdraw", p)
}

// write writes a command. ExaBGP knows a route to withdraw by all that was announced.
func (r *Routes) write(verb string, p netip.Prefix) error {
	communities := strings.Join(append([]string{"no-export"}, r.opts.Communities...), " ")
	if !r.opts.Blackhole {
		_, err := fmt.Fprintf(r.out, "%s flow route { match { source %s; } then { discard; community [ %s ]; } }\n", verb, p, communities)
		return err
	}
	hop := r.opts.NextHop4
	if p.Addr().Is6() {
		hop = r.opts.NextHop6
	}
	_, err := fmt.Fprintf(r.out, "%s route %s next-hop %s community [ %s ]\n", verb, p, hop, communities)
	return err
}

// Default returns the options that most need.
func Default() Options {
	return Options{
		NextHop4: netip.MustParseAddr("192.0.2.1"), // RFC 5635, appendix A, and others use it
		NextHop6: netip.MustParseAddr("100::1"),    // the discard prefix of RFC 6666
		Most:     1000, Origins: 1, AtLeast: time.Hour,
	}
}

// wellKnown are communities with names that ExaBGP knows.
var wellKnown = []string{"no-advertise", "no-export-subconfed", "no-peer", "blackhole"}

// ParseCommunity returns a community as ExaBGP reads it: NUMBER:NUMBER, each at most 65535, or a well-known name.
func ParseCommunity(s string) (string, error) {
	if slices.Contains(wellKnown, s) {
		return s, nil
	}
	var high, low uint16
	if n, err := fmt.Sscanf(s, "%d:%d", &high, &low); n != 2 || err != nil || fmt.Sprintf("%d:%d", high, low) != s {
		return "", fmt.Errorf("%q is not a community", s)
	}
	return s, nil
}
