package cli

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// portBans collects bans limited to ports and yields them without overlaps: two bans of one address may name the same
// port, and a kernel set takes it only once.
type portBans map[portKey][]portSpan

type portKey struct {
	prefix netip.Prefix
	proto  string // tcp, udp
}

type portSpan struct {
	first, last int
	until       time.Time
}

// add splits the canonical port list of e: "22/tcp,80,8000-8010/udp".
func (b portBans) add(e control.ListEntry) {
	for text := range strings.SplitSeq(e.Ports, ",") {
		ports, proto, one := strings.Cut(text, "/")
		first, last, ranged := strings.Cut(ports, "-")
		if !ranged {
			last = first
		}
		from, err1 := strconv.Atoi(first)
		to, err2 := strconv.Atoi(last)
		if err1 != nil || err2 != nil {
			continue // an agent that writes ports differently is newer than this program
		}
		protos := []string{proto}
		if !one {
			protos = []string{"tcp", "udp"}
		}
		for _, proto := range protos {
			key := portKey{e.Prefix.Prefix, proto}
			b[key] = append(b[key], portSpan{from, to, e.Until.Time})
		}
	}
}

// each yields disjoint spans in a stable order, each with the latest end of the bans that cover it.
func (b portBans) each(yield func(portKey, portSpan) error) error {
	keys := slices.SortedFunc(maps.Keys(b), func(x, y portKey) int {
		return cmp.Or(x.prefix.Compare(y.prefix), cmp.Compare(x.proto, y.proto))
	})
	for _, key := range keys {
		for _, span := range disjoint(b[key]) {
			if err := yield(key, span); err != nil {
				return err
			}
		}
	}
	return nil
}

// disjoint cuts spans where another one begins or ends.
func disjoint(spans []portSpan) []portSpan {
	var cuts []int // where a piece begins
	for _, s := range spans {
		cuts = append(cuts, s.first, s.last+1)
	}
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	var out []portSpan
	for i := range len(cuts) - 1 {
		piece := portSpan{first: cuts[i], last: cuts[i+1] - 1}
		for _, s := range spans {
			if s.first <= piece.first && piece.last <= s.last && s.until.After(piece.until) {
				piece.until = s.until
			}
		}
		if piece.until.IsZero() {
			continue // nothing covers it
		}
		if n := len(out); n > 0 && out[n-1].last+1 == piece.first && out[n-1].until.Equal(piece.until) {
			out[n-1].last = piece.last
			continue
		}
		out = append(out, piece)
	}
	return out
}

// String writes 22 or 8000-8010.
func (s portSpan) String() string {
	if s.first == s.last {
		return strconv.Itoa(s.first)
	}
	return strconv.Itoa(s.first) + "-" + strconv.Itoa(s.last)
}
