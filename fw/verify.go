package fw

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

const (
	// maxPrompted is how many checks in a row that find nothing wrong glances may trigger. If another program changes
	// rules all the time, further checks take at most one part in promptedShare of the time.
	maxPrompted   = 10
	promptedShare = 100
	// maxListed is the size up to which a set is compared element by element. A larger one is only counted or sampled.
	maxListed = 4096
	// endSlack: the kernel and the table may end an entry this far apart, so an entry this close to its end counts
	// neither as missing nor as surplus.
	endSlack = 2 * time.Second
)

// glancer is a backend that can detect another program's changes within microseconds. It is asked only after a load has
// succeeded.
type glancer interface {
	// glance names the sets that somebody emptied or removed. The mark differs from the last one if anybody else may
	// have changed rules; our own changes may also change it.
	glance(ctx context.Context) (problems []string, mark string, err error)
}

// verifier is a backend that can compare what its sets hold with what they should hold.
type verifier interface {
	// verify gets the entries that the kernel has taken.
	verify(ctx context.Context, now time.Time, held *tracker) ([]doubt, error)
}

// doubt describes a set that may be wrong. It is wrong if missed returns true for more than have entries that do not
// end soon.
type doubt struct {
	text   string
	have   int
	missed func(Entry) bool // nil = the set is wrong in any case
}

// glance looks at the kernel at almost no cost, and checks it thoroughly if somebody may have changed it.
func (s *Syncer) glance(ctx context.Context) {
	w := &s.work
	g, ok := s.cfg.Backend.(glancer)
	if !ok || w.loadedAt.IsZero() || w.owed {
		return
	}
	problems, mark, err := g.glance(ctx)
	switch now := time.Now(); {
	case err != nil:
		s.failed("could not look at the firewall", err)
	case len(problems) > 0:
		s.mend(ctx, problems)
	case mark == w.mark:
		w.prompted = 0
	case !now.Before(w.promptAt):
		s.check(ctx)
		if w.prompted++; w.prompted > maxPrompted {
			w.promptAt = time.Now().Add(promptedShare * time.Since(now))
		}
	}
}

// mend reloads everything because of problems.
func (s *Syncer) mend(ctx context.Context, problems []string) {
	s.cfg.Logger.Warn("another program changed the firewall, repairing it", "problems", strings.Join(problems, "; "))
	s.work.mending = problems
	_ = s.reload(ctx)
}

// verify compares what the sets hold with what they should hold.
func (s *Syncer) verify(ctx context.Context) (problems []string, err error) {
	v, ok := s.cfg.Backend.(verifier)
	if !ok || s.work.loadedAt.IsZero() || s.work.owed {
		return nil, nil
	}
	doubts, err := v.verify(ctx, time.Now(), &s.work.held)
	if err != nil {
		return nil, err
	}
	open := doubts[:0]
	for _, d := range doubts {
		if d.missed == nil {
			problems = append(problems, d.text)
		} else {
			open = append(open, d)
		}
	}
	if len(problems) > 0 || len(open) == 0 {
		return problems, nil
	}
	// Entries that have just ended are gone from the kernel but may still be in the tracker. So count the entries of
	// the snapshot until they exceed what is there. Reading a million entries takes 0.3 s.
	state := s.cfg.Snapshot()
	if state.Entries == nil {
		return nil, nil
	}
	soon := time.Now().Add(endSlack)
	for e := range s.work.split.kernel(state.Entries) {
		if !e.Until.After(soon) || !s.work.held.has(e) {
			continue
		}
		for i := range open {
			if open[i].missed(e) {
				if open[i].have--; open[i].have < 0 {
					return []string{open[i].text}, nil
				}
			}
		}
	}
	return nil, nil
}

// isPlain reports whether e is a single address on all ports.
func isPlain(e Entry) bool { return len(e.Ports) == 0 && e.Prefix.IsSingleIP() }

// has reports whether the kernel has taken the entry.
func (t *tracker) has(e Entry) (ok bool) {
	switch addr := e.Prefix.Addr(); {
	case !isPlain(e):
		_, ok = t.other[e.Key()]
	case addr.Is4():
		_, ok = t.v4[addr.As4()]
	default:
		_, ok = t.v6[addr.As16()]
	}
	return ok
}

// of yields the entries without ports that one set holds: a family's single addresses, or its wider prefixes.
func (t *tracker) of(v6, single bool, yield func(netip.Prefix) bool) {
	switch {
	case !single:
		for key := range t.other {
			if key.Ports == "" && key.Prefix.Addr().Is6() == v6 && !yield(key.Prefix) {
				return
			}
		}
	case v6:
		for a := range t.v6 {
			if !yield(netip.PrefixFrom(netip.AddrFrom16(a), 128)) {
				return
			}
		}
	default:
		for a := range t.v4 {
			if !yield(netip.PrefixFrom(netip.AddrFrom4(a), 32)) {
				return
			}
		}
	}
}

// compareEntries compares what a set holds with the entries of one kind and the sentinel.
func (t *tracker) compareEntries(set string, have contents, v6, single bool, key func(netip.Prefix) string) []doubt {
	matched, missing := 1, "" // the sentinel is there: glance checks that
	for p := range func(yield func(netip.Prefix) bool) { t.of(v6, single, yield) } {
		if _, ok := have[key(p)]; ok {
			matched++
		} else {
			missing = p.String()
		}
	}
	switch {
	case matched < len(have):
		return []doubt{{text: fmt.Sprintf("the set %s holds %d elements that it should not", set, len(have)-matched)}}
	case missing != "":
		return []doubt{{fmt.Sprintf("the set %s lacks %s", set, missing), 0, func(e Entry) bool {
			_, ok := have[key(e.Prefix.Masked())]
			return !ok && len(e.Ports) == 0 && e.Prefix.Addr().Is6() == v6 && e.Prefix.IsSingleIP() == single
		}}}
	}
	return nil
}

// contents is what a set holds, or should hold.
type contents map[string]struct{}

func (c contents) add(key string) { c[key] = struct{}{} }

// compare returns what is wrong with a set that must hold all of must and nothing outside may.
func compare(set string, have, must, may contents) []doubt {
	for key := range must {
		if _, ok := have[key]; !ok {
			return []doubt{{text: fmt.Sprintf("the set %s lacks %s", set, key)}}
		}
	}
	for key := range have {
		if _, ok := may[key]; !ok {
			return []doubt{{text: fmt.Sprintf("the set %s holds %s, which it should not", set, key)}}
		}
	}
	return nil
}

// counted returns what is wrong with a set's number of elements, which should be between least and most.
func counted(set string, n, least, most int) []doubt {
	if n >= least && n <= most {
		return nil
	}
	return []doubt{{text: fmt.Sprintf("the set %s holds %d elements, where %d should be", set, n, most)}}
}
