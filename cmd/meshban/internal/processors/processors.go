// Package processors keeps a process on one processor while one is enough. The Go runtime takes all that it finds, and where
// others are short of processors each of its threads has to wait for its turn: an agent with fewer waits less often.
package processors

import (
	"context"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// every is the time between two looks.
	every = 200 * time.Millisecond
	// much is the share of one processor above which all are used, little that below which one is enough.
	much, little = 0.7, 0.4
	// patience is how many looks in a row must find little.
	patience = 5
)

// Run adapts GOMAXPROCS to what the process uses, from all processors on, until ctx ends; then it uses all again. Where
// there is one only, or the environment sets GOMAXPROCS, it does nothing.
func Run(ctx context.Context) {
	all := runtime.GOMAXPROCS(0)
	if _, set := os.LookupEnv("GOMAXPROCS"); set || all == 1 {
		return
	}
	defer runtime.SetDefaultGOMAXPROCS()
	look := time.NewTicker(every)
	defer look.Stop()
	s := scale{wide: true}
	before, at := used(), time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
		now, total := time.Now(), used()
		was := s.wide
		if s.next(float64(total-before) / float64(now.Sub(at))); s.wide != was {
			if s.wide {
				runtime.SetDefaultGOMAXPROCS()
			} else {
				runtime.GOMAXPROCS(1)
			}
		}
		before, at = total, now
	}
}

// scale is whether all processors are used.
type scale struct {
	wide  bool
	quiet int // looks in a row that found little
}

// next takes what was used since the last look, in processors.
func (s *scale) next(share float64) {
	switch {
	case share >= much:
		s.wide, s.quiet = true, 0
	case share >= little:
		s.quiet = 0
	default:
		if s.quiet++; s.quiet >= patience {
			s.wide = false
		}
	}
}

// used is the processor time of the process so far; 0 if the system does not tell.
func used() time.Duration {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
