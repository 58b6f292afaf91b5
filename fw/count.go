package fw

import (
	"context"
	"fmt"
	"time"
)

// counter is a backend that can tell cheaply how many plain addresses the kernel holds, so that a set that somebody
// emptied is noticed. ok is false where counting would cost too much.
type counter interface {
	count(ctx context.Context, expected int) (n int, ok bool, err error)
}

// countSlack is how soon an entry must not end to be missed: the kernel and the table let go of it within that time of
// one another.
const countSlack = 2 * time.Second

// missing says if the kernel holds fewer plain addresses than it should.
func (s *Syncer) missing(ctx context.Context) (problems []string, err error) {
	c, can := s.cfg.Backend.(counter)
	expected := s.work.held.plain()
	if !can || expected == 0 {
		return nil, nil
	}
	n, ok, err := c.count(ctx, expected)
	if err != nil || !ok || n >= expected {
		return nil, err
	}
	// What has just ended is gone from the kernel and may still be in the tracker: ask what should be there, until that is
	// more than there is. Of a set that was emptied one is enough; to go through a million takes 0.3 s.
	lasting, soon := 0, time.Now().Add(countSlack)
	if state := s.cfg.Snapshot(); state.Entries != nil {
		for e := range state.Entries {
			if isPlain(e) && s.work.held.has(e) && e.Until.After(soon) {
				lasting++
			}
			if lasting > n {
				return []string{fmt.Sprintf("the sets hold %d addresses, where %d should be", n, expected)}, nil
			}
		}
	}
	return nil, nil
}

// isPlain says whether e is a single address on all ports.
func isPlain(e Entry) bool { return len(e.Ports) == 0 && e.Prefix.IsSingleIP() }

// plain is the number of single addresses on all ports.
func (t *tracker) plain() int { return len(t.v4) + len(t.v6) }

// has says whether the plain entry is in the kernel, as far as we know.
func (t *tracker) has(e Entry) (ok bool) {
	if addr := e.Prefix.Addr(); addr.Is4() {
		_, ok = t.v4[addr.As4()]
	} else {
		_, ok = t.v6[addr.As16()]
	}
	return ok
}
