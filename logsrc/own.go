package logsrc

import "sync"

// maxOwnRanges is how many ranges are remembered; beyond it the oldest is forgotten. Ranges that touch are one,
// so this many batches must lie between other programs' lines and wait to be read. A forgotten range costs
// nothing but that its lines come back with Line.Emitted.
const maxOwnRanges = 1024

// OwnRanges remembers which bytes of the file this process wrote itself. One is given to the Emitter and the
// Follower of the same file. The zero OwnRanges is ready for use, from any goroutine.
type OwnRanges struct {
	mu     sync.Mutex
	ranges []ownRange // in the order of writing
}

type ownRange struct {
	file       fileID
	start, end int64
}

// record runs write, which gives the range that it wrote. The lock is held across it: a Follower that has read
// these bytes already waits in overlapping until it is known whose they are.
func (o *OwnRanges) record(file fileID, write func() (start, end int64, err error)) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	start, end, err := write()
	if end <= start {
		return err
	}
	if n := len(o.ranges); n > 0 && o.ranges[n-1].file == file && o.ranges[n-1].end == start {
		o.ranges[n-1].end = end
		return err
	}
	if len(o.ranges) == maxOwnRanges {
		o.ranges = append(o.ranges[:0], o.ranges[1:]...)
	}
	o.ranges = append(o.ranges, ownRange{file, start, end})
	return err
}

// overlapping appends to dst what was written into [from, to) of file, and forgets what lies before from, which
// is never read again.
func (o *OwnRanges) overlapping(dst []ownRange, file fileID, from, to int64) []ownRange {
	if o == nil {
		return dst
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	kept := o.ranges[:0]
	for _, r := range o.ranges {
		if r.file == file && r.end <= from {
			continue
		}
		kept = append(kept, r)
		if r.file == file && r.start < to {
			dst = append(dst, r)
		}
	}
	o.ranges = kept
	return dst
}
