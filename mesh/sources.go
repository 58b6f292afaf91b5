package mesh

import (
	"net/netip"
	"sync"
	"time"
)

// sources holds addresses to a rate.
type sources struct {
	rate, burst float64 // units a second, units

	mu     sync.Mutex
	of     map[netip.Addr]*sourceUse
	others sourceUse
	pruned time.Time
}

// sourceUse is what an address has used and not got back yet.
type sourceUse struct {
	used float64
	at   time.Time
}

func newSources(rate, burst float64) sources {
	return sources{rate: rate, burst: burst, of: make(map[netip.Addr]*sourceUse)}
}

// take uses cost units of an address's; false: it has not so many left.
func (s *sources) take(now time.Time, from netip.Addr, cost int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.of[from]
	if u == nil && len(s.of) >= maxSources && now.Sub(s.pruned) > time.Second {
		s.pruned = now
		for a, old := range s.of {
			if now.Sub(old.at).Seconds()*s.rate >= s.burst {
				delete(s.of, a)
			}
		}
	}
	switch {
	case u != nil:
	case len(s.of) >= maxSources:
		u = &s.others
	default:
		u = &sourceUse{at: now}
		s.of[from] = u
	}
	if passed := now.Sub(u.at); passed > 0 {
		u.used = max(0, u.used-passed.Seconds()*s.rate)
		u.at = now
	} else if passed < -time.Minute { // the clock was set back
		u.at = now
	}
	if u.used+float64(cost) > s.burst {
		return false
	}
	u.used += float64(cost)
	return true
}
