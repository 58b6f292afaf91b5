package hook

import (
	"context"
	"regexp"
	"strings"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// lookEvery is how often problems are looked for.
const lookEvery = 10 * time.Second

// figure is a number or a length of time in a problem's text, which changes while the problem stays the same. Addresses
// and names with digits are none.
var figure = regexp.MustCompile(`(^|[\s(])[0-9][0-9,]*(\.[0-9]+)?(ns|µs|ms|s|m|h|d|%)?([0-9.]+(ms|s|m|h))*([\s).,;:]|$)`)

// sameProblem returns what texts of one problem have in common.
func sameProblem(text string) string {
	text, _, _ = strings.Cut(text, " minutes ago)")
	for range 4 { // matches overlap in the blanks between
		text = figure.ReplaceAllString(text, "$1#$6")
	}
	return strings.TrimSuffix(text, " (#")
}

// WatchProblems tells of problems that look, from a minute after the start, finds, and of those that it finds no longer,
// until ctx ends.
func (h *Hooks) WatchProblems(ctx context.Context, look func() []string) error {
	known, gone := map[string]string{}, map[string]bool{}
	for wait := startQuiet; ; wait = lookEvery {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		if !h.Wants("problem", Own) && !h.Wants("solved", Own) {
			clear(known)
			continue
		}
		found := map[string]bool{}
		for _, text := range look() {
			key := sameProblem(text)
			found[key] = true
			if _, ok := known[key]; !ok {
				known[key] = text
				h.tellProblem("problem", text)
			}
		}
		for key, text := range known {
			switch {
			case found[key]:
				delete(gone, key)
			case gone[key]: // it was gone the last time, too
				delete(known, key)
				delete(gone, key)
				h.tellProblem("solved", text)
			default:
				gone[key] = true
			}
		}
	}
}

// tellProblem tells of one line of status: its kind, a colon and what is wrong.
func (h *Hooks) tellProblem(event, text string) {
	kind, what, ok := strings.Cut(text, ": ")
	if !ok {
		kind, what = "", text
	}
	h.Tell(event, Own, control.Event{
		Time: time.Now().UTC().Truncate(time.Millisecond), Name: event, Origin: h.cfg.Node(), Source: kind, Reason: what,
	})
}
