package listener

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/meshban/meshban/cmd/meshban/internal/apikey"
	"github.com/meshban/meshban/cmd/meshban/internal/config"
)

// Words of CrowdSec's API. Origins have no "/": some bouncers name sets after them.
const (
	originOwn   = "meshban"
	originLists = "lists"
	listSource  = "import:" // followed by the list's name
	lineSource  = "line:"   // followed by the jail
	scopeIP     = "Ip"
	scopeRange  = "Range"
	typeBan     = "ban"
)

// query is what a client asks for.
type query struct {
	key     apikey.Key
	startup bool
	scopes  []string
	origins []string
	with    []string // lower case
	without []string // lower case

	at      netip.Prefix // ip or range; zero = not given
	inside  bool         // what lies in at, not what contains it
	value   netip.Prefix
	nothing bool // it asks for what does not exist here, such as captchas
	limit   int  // 0 = none
	offset  int
}

// parseQuery reads the parameters of both routes and ignores others.
func parseQuery(raw string, k apikey.Key) (query, error) {
	q := query{key: k, scopes: []string{"ip", "range"}}
	v, err := url.ParseQuery(raw)
	if err != nil {
		return q, fmt.Errorf("the query is not readable: %w", err)
	}
	q.startup = v.Get("startup") == "true"
	for _, l := range []struct {
		name string
		into *[]string
	}{{"scopes", &q.scopes}, {"scope", &q.scopes}, {"origins", &q.origins}, {"scenarios_containing", &q.with}, {"scenarios_not_containing", &q.without}} {
		if !v.Has(l.name) || v.Get(l.name) == "" {
			continue
		}
		words := strings.Split(v.Get(l.name), ",")
		if len(words) > maxWords {
			return q, fmt.Errorf("%s has %d words: write at most %d", l.name, len(words), maxWords)
		}
		for i, w := range words {
			if words[i] = strings.TrimSpace(w); l.into != &q.origins {
				words[i] = strings.ToLower(words[i])
			}
		}
		*l.into = words
	}
	if t := v.Get("type"); t != "" && !strings.EqualFold(t, typeBan) {
		q.nothing = true
	}
	return q, q.parsePlace(v)
}

func (q *query) parsePlace(v url.Values) error {
	place := func(name string, into *netip.Prefix) error {
		text := v.Get(name)
		if text == "" {
			return nil
		}
		p, err := config.ParsePrefix(text)
		if err != nil {
			return fmt.Errorf("%s: %q is neither an address nor a range", name, clip(text))
		}
		*into = p
		return nil
	}
	number := func(name string, into *int) error {
		text := v.Get(name)
		if text == "" {
			return nil
		}
		n, err := strconv.ParseUint(text, 10, 31)
		if err != nil {
			return fmt.Errorf("%s: %q is not a number", name, clip(text))
		}
		*into = int(n)
		return nil
	}
	if v.Get("value") != "" {
		if _, err := config.ParsePrefix(v.Get("value")); err != nil {
			q.nothing = true // the name of a country, or the like
			v.Del("value")
		}
	}
	for _, err := range []error{place("range", &q.at), place("ip", &q.at), place("value", &q.value), number("limit", &q.limit), number("offset", &q.offset)} {
		if err != nil {
			return err
		}
	}
	switch v.Get("contains") {
	case "", "true":
	case "false":
		q.inside = q.at.IsValid()
	default:
		return fmt.Errorf("contains: %q is neither true nor false", clip(v.Get("contains")))
	}
	return nil
}

// clip shortens text for an error.
func clip(s string) string { return s[:min(len(s), 64)] }

// place reports whether a ban of this prefix may be among what the query asks for, whatever its source.
func (q *query) place(p netip.Prefix) bool {
	return q.key.ReadsFamily(p) && slices.Contains(q.scopes, strings.ToLower(scopeOf(p)))
}

// fits reports whether the query asks for a ban.
func (q *query) fits(b Ban) bool {
	if q.nothing || !q.place(b.Prefix) || !q.from(b.Prefix, b.Source) {
		return false
	}
	return (!q.value.IsValid() || b.Prefix == q.value) && (!q.inside || b.Prefix.Bits() >= q.at.Bits() && q.at.Overlaps(b.Prefix))
}

// lost reports whether a client with this query may have been told of the ban of an entry that is no longer in force.
func (q *query) lost(e entry) bool {
	return q.place(e.prefix) && (e.mixed || q.from(e.prefix, e.source))
}

// from reports whether the query asks for bans from a source.
func (q *query) from(p netip.Prefix, source string) bool {
	if !q.key.Reads(p, source) {
		return false
	}
	origin, scenario := namesOf(source)
	if len(q.origins) > 0 && !slices.Contains(q.origins, origin) {
		return false
	}
	scenario = strings.ToLower(scenario)
	in := func(w string) bool { return strings.Contains(scenario, w) }
	return (len(q.with) == 0 || slices.ContainsFunc(q.with, in)) && !slices.ContainsFunc(q.without, in)
}

// scopeOf returns the scope of a value.
func scopeOf(p netip.Prefix) string {
	if p.IsSingleIP() {
		return scopeIP
	}
	return scopeRange
}

// namesOf returns the origin and the scenario of a source.
func namesOf(source string) (origin, scenario string) {
	if name, ok := strings.CutPrefix(source, listSource); ok && name != "" {
		return originLists, name
	}
	if jail, ok := strings.CutPrefix(source, lineSource); ok && jail != "" {
		source = jail
	}
	return originOwn, originOwn + "/" + source
}
