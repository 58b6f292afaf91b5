package logsrc

import (
	"bytes"
	"context"
)

// scanner turns chunks into batches of lines. Only Run's goroutine uses it.
type scanner struct {
	buf   []byte     // one chunk
	batch []Line     // accepted, not yet passed to Handle; at most MaxBatch
	own   []ownRange // ranges of the chunk that the Emitter wrote
	count counters   // since the last addCounters
}

type counters struct {
	accepted, own, bytes uint64
	ignored, misread     [endOfReasons]uint64
}

// drain reads r to its end and passes what it finds to Handle. If ctx ends, it returns nil early.
func (f *Follower) drain(ctx context.Context, r *reader) error {
	if r.old = nil; r.recall != nil {
		if err := f.recognise(r); err != nil {
			return err
		}
	}
	for ctx.Err() == nil {
		c, full, err := r.read(f.scan.buf)
		if err != nil {
			return err
		}
		f.consume(ctx, r, c)
		if !full {
			return nil
		}
	}
	return nil
}

// consume parses every complete line of c, and skips what cannot become a line.
func (f *Follower) consume(ctx context.Context, r *reader, c chunk) {
	s, text, at := &f.scan, c.lines(), 0
	s.own = f.cfg.Own.overlapping(s.own[:0], r.id, c.base, c.base+int64(len(text)))
	for {
		n := bytes.IndexByte(text[at:], '\n')
		if n < 0 {
			break
		}
		if r.skip {
			r.skip = false
		} else if reason := f.addLine(r, text[at:at+n], c.base+int64(at)); reason != 0 {
			s.count.ignored[reason]++
		}
		at += n + 1
		if len(s.batch) == MaxBatch {
			f.handOver(r, c, at)
			if ctx.Err() != nil {
				return
			}
		}
	}
	// The rest is a partial line. NUL bytes before it are a hole, however long.
	for !r.skip && at < len(text) && text[at] == 0 {
		at++
	}
	if !r.skip && len(text)-at > MaxLine {
		r.skip = true
		s.count.ignored[TooLong]++
	}
	if r.skip {
		at = len(text)
	}
	f.handOver(r, c, at)
}

// acceptPartial accepts the partial last line of a file that probably has no more writers, if the line is good.
func (f *Follower) acceptPartial(ctx context.Context, r *reader) {
	c, ok := f.partial(ctx, r)
	if !ok {
		return
	}
	if reason := f.addLine(r, c.lines(), r.offset); reason == 0 {
		f.handOver(r, c, len(c.lines()))
	}
}

// dropPartial reads the partial last line of a file that is given up: it accepts a good one and counts another as
// ignored.
func (f *Follower) dropPartial(ctx context.Context, r *reader) {
	c, ok := f.partial(ctx, r)
	if !ok {
		return
	}
	if reason := f.addLine(r, c.lines(), r.offset); reason != 0 {
		f.scan.count.ignored[reason]++
	}
	f.handOver(r, c, len(c.lines()))
}

// partial reads r to its end and returns the last line if it has no newline.
func (f *Follower) partial(ctx context.Context, r *reader) (chunk, bool) {
	if f.drain(ctx, r) != nil {
		return chunk{}, false
	}
	c, full, err := r.read(f.scan.buf)
	text := c.lines()
	if err != nil || full || len(text) == 0 || bytes.IndexByte(text, '\n') >= 0 || r.skip || len(text) > MaxLine {
		return chunk{}, false
	}
	f.scan.own = f.cfg.Own.overlapping(f.scan.own[:0], r.id, c.base, c.base+int64(len(text)))
	return c, true
}

// addLine parses the line of r at offset, and adds a good one to the batch.
func (f *Follower) addLine(r *reader, line []byte, offset int64) Reason {
	s := &f.scan
	s.batch = append(s.batch, Line{})
	l := &s.batch[len(s.batch)-1]
	reason := parse(line, l)
	if reason == 0 {
		if _, old := r.old[offset]; old {
			reason = ReadBefore
		} else {
			f.marks.add(markOf(line, l))
		}
	}
	// Check the tag too: after a truncation a range may cover other text.
	own := s.isOwn(offset, offset+int64(len(line))) && bytes.Contains(line, emittedTag)
	switch {
	case own:
		s.count.own++
		reason = 0
	case reason == 0:
		s.count.accepted++
		if l.Misread != 0 {
			s.count.misread[l.Misread]++
		}
		return 0
	}
	s.batch = s.batch[:len(s.batch)-1]
	return reason
}

// emittedTag is part of every line that the Emitter writes.
var emittedTag = []byte(" " + emitTag + "[")

func (s *scanner) isOwn(start, end int64) bool {
	for _, r := range s.own {
		if r.start <= start && end <= r.end {
			return true
		}
	}
	return false
}

// handOver moves r to byte at of c.lines and reports what was read.
func (f *Follower) handOver(r *reader, c chunk, at int) {
	s := &f.scan
	if len(s.batch) == 0 && at == int(r.offset-c.base) {
		return
	}
	s.count.bytes += uint64(c.base + int64(at) - r.offset)
	r.moveTo(c, at)
	f.report(f.current.position())
}

// report calls Handle with the batch and the position after it, unless neither is new.
func (f *Follower) report(pos Position) {
	s := &f.scan
	f.addCounters(&s.count)
	if len(s.batch) == 0 && pos == f.reported {
		return
	}
	f.reported = pos
	f.cfg.Handle(s.batch, pos)
	clear(s.batch) // frees the strings
	s.batch = s.batch[:0]
	f.marks.save() // after Handle: a crash between the two may make lines come twice, but never skips one
}
