package logsrc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"syscall"
	"time"
)

// poll reads what is new in the file, and switches to another file that has appeared at the path. It does all of a
// Follower's work; Run only decides when.
func (f *Follower) poll(ctx context.Context, now time.Time) {
	f.now = now
	err := f.readCurrent(ctx)
	next, openErr := f.openOther()
	switch {
	case next != nil && f.current != nil:
		err = f.rotate(ctx, next)
	case f.current == nil:
		err = f.begin(ctx, next, openErr)
	}
	f.drainRetired(ctx)
	f.addCounters(&f.scan.count)
	if ctx.Err() == nil {
		f.setProblem(errors.Join(err, openErr))
	}
}

// openOther opens the file at the path unless it is the current one.
func (f *Follower) openOther() (*reader, error) {
	info, err := os.Stat(f.cfg.Path)
	if err == nil && f.current != nil && idOf(info) == f.current.id {
		return nil, nil
	}
	if err == nil && !info.Mode().IsRegular() {
		err = errNotRegular
	}
	var r *reader
	if err == nil {
		r, err = openReader(f.cfg.Path)
	}
	if err != nil {
		return nil, fmt.Errorf("follow %q: %w", f.cfg.Path, err)
	}
	if f.current != nil && r.id == f.current.id { // renamed and renamed back
		r.close()
		return nil, nil
	}
	return r, nil
}

// readCurrent reads what is new in the current file, and starts over in one that was truncated.
func (f *Follower) readCurrent(ctx context.Context) error {
	if f.current == nil {
		return nil
	}
	r := f.current
	err := f.drain(ctx, r)
	if errors.Is(err, errChanged) {
		f.mu.Lock()
		f.stats.Truncations++
		f.mu.Unlock()
		f.cfg.Logger.Info("the line file was truncated", "path", f.cfg.Path, "offset", r.offset)
		return f.readAll(ctx, f.plan(r.position(), r))
	}
	if err != nil {
		// A network file system may have dropped the descriptor: open the file again at its position.
		f.from, f.current = r.position(), nil
		r.close()
		return fmt.Errorf("follow %q: %w", f.cfg.Path, err)
	}
	return nil
}

// rotate switches from the current file to next, which has taken its place.
func (f *Follower) rotate(ctx context.Context, next *reader) error {
	old := f.current
	f.acceptPartial(ctx, old) // what was written between the last poll and the rotation
	if ctx.Err() != nil {
		next.close()
		return nil
	}
	f.mu.Lock()
	f.stats.Rotations++
	f.mu.Unlock()
	f.cfg.Logger.Info("the line file was rotated", "path", f.cfg.Path, "offset", old.offset)
	queue := f.plan(old.position(), next)
	if queue[0].id == old.id { // the old file under its new name, which is still open
		queue[0].close()
		queue = queue[1:]
	}
	f.retire(ctx, old)
	return f.readAll(ctx, queue)
}

// begin starts reading where from says, or at the end on first contact. next is the file at the path, or nil because
// of openErr.
func (f *Follower) begin(ctx context.Context, next *reader, openErr error) error {
	if !f.from.IsZero() {
		queue := f.plan(f.from, next)
		if len(queue) > 0 {
			f.report(queue[0].position())
		}
		return f.readAll(ctx, queue)
	}
	if next == nil {
		// Everything in a file that appears later is new only if there is no file now.
		for _, absent := range []error{fs.ErrNotExist, syscall.ENOTDIR, errNotRegular} {
			if errors.Is(openErr, absent) {
				f.from = Position{Fingerprint: fingerprint(nil)}
				f.report(f.from)
				break
			}
		}
		return nil
	}
	err := next.seekEnd()
	if err == nil {
		err = f.rememberRead(next)
	}
	if err != nil {
		next.close()
		return fmt.Errorf("follow %q: %w", f.cfg.Path, err)
	}
	f.report(next.position())
	return f.readAll(ctx, []*reader{next})
}

// readAll reads the files of queue in turn; the last becomes the current one. If ctx ends early, the last position
// passed to Handle still leads back here. The position in a new file is not passed on until some of the file was read:
// until then the end of the old file is the better place to resume.
func (f *Follower) readAll(ctx context.Context, queue []*reader) error {
	for i, r := range queue {
		f.current = r
		err := f.drain(ctx, r)
		if ctx.Err() != nil {
			for _, unread := range queue[i+1:] {
				unread.close()
			}
			return nil
		}
		if i == len(queue)-1 {
			if err != nil && !errors.Is(err, errChanged) { // the next poll handles errChanged
				return fmt.Errorf("follow %q: %w", r.name, err)
			}
			return nil
		}
		if err != nil {
			f.cfg.Logger.Warn("lost the rest of a rotated line file", "path", r.name, "err", err)
		}
		f.acceptPartial(ctx, r)
		f.retire(ctx, r)
	}
	return nil
}

// retire keeps r open for programs that still write to it.
func (f *Follower) retire(ctx context.Context, r *reader) {
	if len(f.retired) == maxRetired {
		f.dropPartial(ctx, f.retired[0])
		f.retired[0].close()
		f.retired = slices.Delete(f.retired, 0, 1)
	}
	r.until = f.now.Add(f.cfg.RotateWait)
	f.retired = append(f.retired, r)
}

// drainRetired reads what was written late, and closes files whose time is up.
func (f *Follower) drainRetired(ctx context.Context) {
	f.retired = slices.DeleteFunc(f.retired, func(r *reader) bool {
		err := f.drain(ctx, r)
		if err == nil && f.now.Before(r.until) {
			return false
		}
		f.dropPartial(ctx, r)
		r.close()
		return true
	})
}

func (f *Follower) close() {
	if f.current != nil {
		f.current.close()
	}
	for _, r := range f.retired {
		r.close()
	}
	f.current, f.retired = nil, nil
}
