// Package processors limits the process to one processor while one is enough. By default the Go runtime uses all
// processors, and on a busy host each of its threads has to wait for its turn; an agent with fewer threads waits
// less.
package processors

import (
	"context"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// interval is the time between two measurements. A process on one processor that uses less than idle of it is
	// measured only every idleInterval, because each measurement wakes the processor.
	interval, idleInterval, idle = 200 * time.Millisecond, time.Second, 0.05
	// high is the share of one processor above which all are used; below low, one is enough.
	high, low = 0.7, 0.4
	// patience is how many measurements in a row must be below low.
	patience = 5
)

// Run adapts GOMAXPROCS to the process's load until ctx ends. It starts and ends with all processors. If there is
// only one, or the environment sets GOMAXPROCS, it does nothing.
func Run(ctx context.Context) { run(ctx, used) }

func run(ctx context.Context, used func() time.Duration) {
	all := runtime.GOMAXPROCS(0)
	if _, set := os.LookupEnv("GOMAXPROCS"); set || all == 1 {
		return
	}
	defer runtime.SetDefaultGOMAXPROCS()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	s := scale{wide: true}
	before, at := used(), time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now, total := time.Now(), used()
		was := s.wide
		share := float64(total-before) / float64(now.Sub(at))
		if s.update(share); s.wide != was {
			if s.wide {
				runtime.SetDefaultGOMAXPROCS()
			} else {
				runtime.GOMAXPROCS(1)
			}
		}
		if before, at = total, now; !s.wide && share < idle {
			tick.Reset(now.Add(interval).Truncate(idleInterval).Add(idleInterval).Sub(now)) // when the agent wakes anyway
		} else {
			tick.Reset(interval)
		}
	}
}

// scale decides whether all processors are used.
type scale struct {
	wide  bool
	quiet int // measurements below low in a row
}

// update takes in the load since the last measurement, in processors.
func (s *scale) update(share float64) {
	switch {
	case share >= high:
		s.wide, s.quiet = true, 0
	case share >= low:
		s.quiet = 0
	default:
		if s.quiet++; s.quiet >= patience {
			s.wide = false
		}
	}
}

// used returns the CPU time of the process so far; 0 = unknown.
func used() time.Duration {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
