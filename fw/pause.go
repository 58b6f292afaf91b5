package fw

import (
	"context"
	"errors"
	"net/netip"
)

// A pause is an exception for everything: one change of the set that packets meet first, however much is banned. The
// kernel still takes and ends entries meanwhile, so the end of a pause is one change too, and no packet that was to be
// let through anyway is lost at either.

var allAddresses = []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}

// WhyPaused is why Holds says that an entry is not enforced during a pause.
const WhyPaused = "nothing is dropped: this node is paused"

// Pause has the kernel drop nothing, or drop again, and returns once it does. If that fails, Run goes on trying, and
// Status says what holds.
func (s *Syncer) Pause(ctx context.Context, on bool) error {
	if err := s.acquire(ctx); err != nil {
		return err
	}
	defer s.wakeRun() // Run recomputes its next deadline
	defer s.release()
	s.work.pausing = on
	s.exceptWhenDue(ctx, true)
	if s.paused.Load() != on {
		return errors.New(s.work.except.why)
	}
	return nil
}
