// Package beat makes everything that this program does every second happen at the same moment. Waking an idle processor
// takes 0.13 ms of CPU time, more than most of what is done then.
package beat

import "time"

// Next returns the time from now to the next multiple of every on the wall clock. Periods of which one is a multiple of
// the other coincide.
func Next(now time.Time, every time.Duration) time.Duration {
	return every - time.Duration(now.UnixNano())%every
}
