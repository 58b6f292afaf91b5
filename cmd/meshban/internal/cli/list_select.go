package cli

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// listing says which bans list shows, and in which order.
type listing struct {
	selection
	near  netip.Prefix // those that lie in it or contain it; zero = all
	state string       // "" = any
	limit int          // 0 = no limit
	hits  bool         // with what each has dropped
	order func(a, b control.ListEntry) int
}

// sortHits sorts by the packets that each ban has dropped, most first.
const sortHits = "hits"

// hits returns how many packets a ban has dropped.
func hits(e control.ListEntry) uint64 {
	if e.Dropped == nil {
		return 0
	}
	return e.Packets
}

// sortKeys are the columns by which list can sort.
var sortKeys = map[string]func(a, b control.ListEntry) int{
	sortHits:  func(a, b control.ListEntry) int { return cmp.Compare(hits(b), hits(a)) },
	"address": func(a, b control.ListEntry) int { return a.Prefix.Compare(b.Prefix.Prefix) },
	"left":    func(a, b control.ListEntry) int { return a.Until.Compare(b.Until.Time) },
	"by":      func(a, b control.ListEntry) int { return slices.Compare(a.Origins, b.Origins) },
	"state":   func(a, b control.ListEntry) int { return strings.Compare(a.State, b.State) },
	"source":  func(a, b control.ListEntry) int { return strings.Compare(a.Source, b.Source) },
}

// listStates are the states of a list entry.
var listStates = []string{control.StateEnforced, control.StateNotEnforced, control.StatePending, control.StateHeld, control.StateAllowed}

// oneOf returns a parser of a flag that has one of these values.
func oneOf(known []string) func(string) (string, error) {
	return func(s string) (string, error) {
		if slices.Contains(known, s) {
			return s, nil
		}
		remedy := "write one of " + strings.Join(known, ", ")
		if meant := config.Nearest(s, known); meant != "" {
			remedy = fmt.Sprintf("did you mean %q?", meant)
		}
		return "", &config.Error{Problem: fmt.Sprintf("%q is not known", s), Remedy: remedy}
	}
}

func readListing(ctx *cli.Context) (*listing, error) {
	v := values{ctx: ctx}
	l := &listing{
		selection: selection{by: ctx.String("by"), source: ctx.String("source")},
		state:     get(&v, "state", oneOf(listStates)), limit: v.number("limit", 1, math.MaxInt32),
	}
	if ctx.IsSet("by") && l.by == "" || ctx.IsSet("source") && l.source == "" {
		return nil, errEmptySelection
	}
	key := get(&v, "sort", oneOf(slices.Sorted(maps.Keys(sortKeys))))
	l.hits = key == sortHits
	if l.order = sortKeys[key]; v.err != nil || !ctx.Args().Present() {
		return l, v.err
	}
	arg, err := oneArg(ctx, "an address", "meshban list 203.0.113.0/24")
	if err == nil {
		l.near, err = parseAddr(arg)
	}
	return l, err
}

// all reports whether every ban is shown, in the agent's order.
func (l *listing) all() bool {
	return l.selection == selection{} && !l.near.IsValid() && l.state == "" && l.limit == 0 && l.order == nil
}

func (l *listing) shows(e control.ListEntry) bool {
	return l.matches(e) && (l.state == "" || e.State == l.state) && (!l.near.IsValid() || l.near.Overlaps(e.Prefix.Prefix))
}

// entries calls yield for each entry that is shown and reports whether the limit cut some off. An unsorted list is not
// kept in memory, a sorted one only up to twice its limit.
func (c *command) entries(ctx context.Context, l *listing, yield func(control.ListEntry) error) (more bool, err error) {
	var kept []control.ListEntry
	sort := func() {
		slices.SortFunc(kept, func(a, b control.ListEntry) int {
			return cmp.Or(l.order(a, b), a.Prefix.Compare(b.Prefix.Prefix), strings.Compare(a.Ports, b.Ports))
		})
		if l.limit > 0 && len(kept) > l.limit {
			kept, more = kept[:l.limit], true
		}
	}
	shown := 0
	err = c.client().List(ctx, l.hits, func(e control.ListEntry) error {
		switch {
		case !l.shows(e):
			return nil
		case l.order != nil:
			e.Origins, e.OriginIDs = slices.Clone(e.Origins), slices.Clone(e.OriginIDs)
			if kept = append(kept, e); l.limit > 0 && len(kept)/2 >= l.limit {
				sort()
			}
			return nil
		case l.limit > 0 && shown == l.limit:
			more = true
			return errEnough
		}
		shown++
		return yield(e)
	})
	if more && l.order == nil {
		return true, nil // errEnough
	}
	if err != nil || l.order == nil {
		return more, err
	}
	sort()
	return more, streamed(kept)(ctx, yield)
}
