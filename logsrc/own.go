package logsrc

import "sync"

// maxOwnRanges bounds the ranges that are remembered; beyond it the oldest is forgotten. Adjacent ranges are merged, so
// the bound is reached only if this many batches lie unread between other programs' lines. The lines of a forgotten
// range are accepted with Line.Emitted set, and nothing else happens.
const maxOwnRanges = 1024

// OwnRanges remembers which bytes of the file this process wrote. The Emitter and the Follower of a file share one.
// The zero OwnRanges is ready to use, from any goroutine.
type OwnRanges struct {
	mu     sync.Mutex
	ranges []ownRange // in the order of writing
}

type ownRange struct {
	file       fileID
	start, end int64
}

// record runs write, which returns the range that it wrote. It holds the lock meanwhile, so that a Follower that has
// already read these bytes waits in overlapping until it is known who wrote them.
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

// overlapping appends to dst the ranges that were written into [from, to) of file. It forgets the ranges before from,
// because nothing there is read again.
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
