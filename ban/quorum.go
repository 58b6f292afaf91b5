package ban

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// Bounds of quorums.
const (
	MaxQuorum  = 64 // Quorum.Origins
	MaxSources = 64 // quorums by source
	// maxSightings bounds the origins of one entry among which a window is sought, because the search takes quadratic
	// time. Those whose bans last longest are kept.
	maxSightings = 64
)

// Quorum is how many distinct origins must ban a prefix before the ban is enforced; zero Origins means 1. They must
// have seen the attacker within Within of each other; zero Within requires only that all the bans are live. An origin
// counts once. It has seen the attacker from its first to its latest ban of the same prefix and ports that this node
// has heard, as long as each ban came before the previous one ended. So a refresh never undoes a quorum.
type Quorum struct {
	Origins int
	Within  time.Duration
}

// SourceQuorum is the quorum for bans whose source is Source or, if Source ends in *, begins with the part before the
// *. Sightings of any source count towards it.
type SourceQuorum struct {
	Source string
	Quorum
}

func (q Quorum) normal() (Quorum, error) {
	q.Origins = cmp.Or(q.Origins, 1)
	if q.Origins < 1 || q.Origins > MaxQuorum {
		return q, fmt.Errorf("quorum %d is not within 1-%d", q.Origins, MaxQuorum)
	}
	if q.Within < 0 || q.Within > maxMaxFor {
		return q, fmt.Errorf("quorum within %v is not within 0-%v", q.Within, maxMaxFor)
	}
	return q, nil
}

func normalSources(sources []SourceQuorum) ([]SourceQuorum, error) {
	if len(sources) > MaxSources {
		return nil, fmt.Errorf("%d quorums by source, at most %d", len(sources), MaxSources)
	}
	out := make([]SourceQuorum, len(sources))
	for i, s := range sources {
		q, err := s.Quorum.normal()
		if err != nil {
			return nil, fmt.Errorf("source %q: %w", s.Source, err)
		}
		if s.Source == "" || strings.Contains(strings.TrimSuffix(s.Source, "*"), "*") {
			return nil, errors.New("a quorum's source is a name, or the beginning of one and a *")
		}
		out[i] = SourceQuorum{s.Source, q}
	}
	return out, nil
}

// quorumOf returns the quorum for a claim's source: the first that fits, or the general one.
func (t *Table) quorumOf(x *claim) Quorum {
	if len(t.sources) == 0 {
		return t.quorum
	}
	source := t.words.at(x.words).source
	for i := range t.sources {
		s := &t.sources[i]
		head, open := strings.CutSuffix(s.Source, "*")
		if source == head || open && strings.HasPrefix(source, head) || head == SourceImport && Imported(source) {
			return s.Quorum
		}
	}
	return t.quorum
}

// windows reports whether quorums depend on time or source.
func (t *Table) windows() bool { return t.quorum.Within != 0 || len(t.sources) != 0 }

// A sighting is what one other origin says about an entry.
type sighting struct {
	first, last int64
	until       int64
	quorum      Quorum
	origin      Origin
}

// agreed returns until when enough other origins ban the entry by any quorum that the source of one of their bans asks
// for; 0 if there are not enough.
func (t *Table) agreed(b *recordSet, e *entry) int64 {
	var seen []sighting
	for _, x := range b.of(e) {
		o := t.epochs.at(x.epoch).origin
		if o != t.self && x.hold == HoldNone && t.counts(b, e, x) {
			seen = append(seen, sighting{x.issued - int64(x.span), x.issued, x.until, t.quorumOf(x), o})
		}
	}
	slices.SortFunc(seen, func(x, y sighting) int {
		return cmp.Or(cmp.Compare(y.until, x.until), bytes.Compare(x.origin[:], y.origin[:]))
	})
	seen = seen[:min(len(seen), maxSightings)]
	var until int64
	var tried []Quorum
	for _, s := range seen {
		if !slices.Contains(tried, s.quorum) {
			tried = append(tried, s.quorum)
			until = max(until, reached(seen, s.quorum))
		}
	}
	return until
}

// reached returns until when the sightings meet q, or 0. At least one of them must ask for q. They must be sorted by
// end, latest first.
func reached(seen []sighting, q Quorum) int64 {
	var until int64
	for _, start := range seen { // any window can be moved later until it begins where a sighting ends, so these are enough
		end := int64(math.MaxInt64)
		if q.Within != 0 {
			end = start.last + q.Within.Milliseconds()
		}
		n, asked := 0, false
		for _, s := range seen {
			if q.Within != 0 && (s.last < start.last || s.first > end) {
				continue
			}
			n, asked = n+1, asked || s.quorum == q
			if n >= q.Origins && asked {
				until = max(until, s.until)
				break
			}
		}
	}
	return until
}

// spanTo returns how long before latest an origin first saw what claim x and record r say, in milliseconds, at most 49
// days.
func (x *claim) spanTo(latest int64, r *Record) uint32 {
	first := min(x.issued-int64(x.span), millis(r.Issued))
	return uint32(min(max(latest-first, 0), math.MaxUint32))
}
