package logsrc

import (
	"bytes"
	"context"
)

// scanner turns what a reader reads into batches of lines. It belongs to Run's goroutine.
type scanner struct {
	buf   []byte     // one chunk
	batch []Line     // accepted, not yet handed over; at most MaxBatch
	own   []ownRange // what the Emitter wrote into the chunk
	count counters   // since the last time that it was added to Stats
}

type counters struct {
	accepted, own, bytes uint64
	ignored, misread     [endOfReasons]uint64
}

// drain reads r to its end and hands over what it finds. It returns early, without an error, when ctx ends.
func (f *Follower) drain(ctx context.Context, r *reader) error {
	if err := f.recognise(r); err != nil {
		return err
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

// consume takes every whole line of c, and skips over what cannot become a line.
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
		} else if reason := f.take(r, text[at:at+n], c.base+int64(at)); reason != 0 {
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
	// What is left is a partial line. NUL bytes in front of it are a hole, however long.
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

// finish takes the partial last line of a file that nobody is expected to write to any more, if it is a good one.
func (f *Follower) finish(ctx context.Context, r *reader) {
	c, ok := f.partial(ctx, r)
	if !ok {
		return
	}
	if reason := f.take(r, c.lines(), r.offset); reason == 0 {
		f.handOver(r, c, len(c.lines()))
	}
}

// abandon counts the partial last line, which was not a good one until the end.
func (f *Follower) abandon(ctx context.Context, r *reader) {
	c, ok := f.partial(ctx, r)
	if !ok {
		return
	}
	if reason := f.take(r, c.lines(), r.offset); reason != 0 {
		f.scan.count.ignored[reason]++
	}
	f.handOver(r, c, len(c.lines()))
}

// partial reads r to its end and gives the line there that has no end.
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

// take judges one line of r that begins at offset; a good one joins the batch.
func (f *Follower) take(r *reader, line []byte, offset int64) Reason {
	s := &f.scan
	s.batch = append(s.batch, Line{})
	l := &s.batch[len(s.batch)-1]
	reason := parse(line, l)
	if reason == 0 {
		if _, old := r.again[offset]; old {
			reason = ReadBefore
		} else {
			f.marks.add(markOf(line, l))
		}
	}
	// The tag is asked for too: after a truncation a range may speak of text that is no longer there.
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

// emittedTag stands in every line that the Emitter writes.
var emittedTag = []byte(" " + emitTag + "[")

func (s *scanner) isOwn(start, end int64) bool {
	for _, r := range s.own {
		if r.start <= start && end <= r.end {
			return true
		}
	}
	return false
}

// handOver moves r to at in c, and calls Handle if there is anything to say.
func (f *Follower) handOver(r *reader, c chunk, at int) {
	s := &f.scan
	if len(s.batch) == 0 && at == int(r.offset-c.base) {
		return
	}
	s.count.bytes += uint64(c.base + int64(at) - r.offset)
	r.moveTo(c, at)
	f.tell(f.current.position())
}

// tell calls Handle with the batch and the position behind it, unless neither is new.
func (f *Follower) tell(pos Position) {
	s := &f.scan
	f.addCounters(&s.count)
	if len(s.batch) == 0 && pos == f.told {
		return
	}
	f.told = pos
	f.cfg.Handle(s.batch, pos)
	clear(s.batch) // lets go of the strings
	s.batch = s.batch[:0]
	f.marks.save() // after the lines, so that a crash between the two forgets and never skips
}
