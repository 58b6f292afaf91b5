package logsrc

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"
)

// MaxBatch is the most lines that one call of Handle gets.
const MaxBatch = 1024

// FollowerConfig configures a Follower.
type FollowerConfig struct {
	// Path is the file. It need not exist: a file that appears later is read from its beginning. Symbolic links are
	// followed if they belong to root or this user. Anything but a regular file is refused, and tried again every
	// Tick.
	Path string
	// Start is the stored position; the zero Position means first contact.
	Start Position
	// Handle gets the accepted lines in file order and the position after them. Only Run's goroutine calls it, and
	// nothing is read until it returns. The batch holds at most MaxBatch lines and is reused afterwards. It is empty
	// when only the position moved (noise, own lines, start, rotation).
	Handle func(batch []Line, pos Position)
	// Memory is kept beyond this Follower, as the position is. If it is nil, a file that was rewritten between two runs
	// is read from its end.
	Memory Memory
	// Own is shared with the Emitter of the same file; nil = nothing is emitted.
	Own *OwnRanges
	// Logger logs changes of state; nil = none.
	Logger *slog.Logger
	// Tick is how often the file is polled even without an event (0 = 1 s): network file systems and missing folders
	// send none.
	Tick time.Duration
	// RotateWait is how long a rotated file is still read (0 = 5 s): programs that have it open go on writing to it.
	RotateWait time.Duration
}

func (c *FollowerConfig) validate() error {
	if c.Path == "" {
		return errors.New("follow the line file: no path")
	}
	if c.Handle == nil {
		return errors.New("follow the line file: no handler")
	}
	if c.Tick < 0 || c.RotateWait < 0 {
		return errors.New("follow the line file: negative duration")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Tick == 0 {
		c.Tick = time.Second
	}
	if c.RotateWait == 0 {
		c.RotateWait = 5 * time.Second
	}
	return nil
}

// Stats counts since the start of the Follower.
type Stats struct {
	Accepted    uint64            // lines passed to Handle, including those with Line.Emitted
	Own         uint64            // lines that the Emitter wrote in this run; skipped
	Ignored     map[Reason]uint64 // has every reason, also those that are 0
	Misread     map[Reason]uint64 // accepted lines with this Line.Misread; has every reason
	Bytes       uint64            // read, including own lines
	Rotations   uint64            // times that another file appeared at the path
	Truncations uint64            // times that the file's text was replaced in place

	Network   string    // the kind of network file system that the file is on, such as "nfs"; "" = none, or unknown
	Problem   error     // why the file cannot be followed; nil = it is followed
	ProblemAt time.Time // when Problem began
}

// maxRetired is how many rotated files are read at once.
const maxRetired = 4

// Follower follows one file. Stats may be called from any goroutine.
type Follower struct {
	cfg FollowerConfig

	// Used only by Run's goroutine.
	scan     scanner
	marks    *marks
	now      time.Time // of the current poll
	current  *reader   // nil = none yet; reading starts at from
	from     Position  // where to begin while current is nil
	reported Position  // last position passed to Handle
	retired  []*reader // rotated files, each read until its time is up

	mu    sync.Mutex
	stats Stats // Ignored and Misread are nil here: see total
	total counters
}

// NewFollower validates cfg. It opens and starts nothing.
func NewFollower(cfg FollowerConfig) (*Follower, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	return &Follower{
		cfg: cfg, from: cfg.Start, reported: cfg.Start, marks: loadMarks(cfg.Memory),
		scan: scanner{buf: make([]byte, chunkSize+fingerprintWindow), batch: make([]Line, 0, MaxBatch)},
	}, nil
}

// Run follows the file until ctx ends, then returns nil once everything it started has returned, except that it waits
// at most closeLimit for the kernel to end its events. If the file cannot be read, Run retries every Tick and reports
// the problem in Stats. Run may be called once.
func (f *Follower) Run(ctx context.Context) error {
	defer f.close()
	w, err := newWatch(f.cfg.Path)
	if err != nil {
		f.cfg.Logger.Warn("cannot watch the line file, polling it", "path", f.cfg.Path, "err", err)
	}
	defer w.close()
	next := func() time.Duration { // on the clock's beat, like all that the agent does each second: an idle processor wakes once
		now := time.Now()
		return now.Truncate(f.cfg.Tick).Add(f.cfg.Tick).Sub(now)
	}
	tick := time.NewTimer(next())
	defer tick.Stop()
	w.arm(fileID{})
	for ctx.Err() == nil {
		f.poll(ctx, time.Now())
		if f.current != nil && f.current.id != w.id && w.arm(f.current.id) {
			continue
		}
		for wait := true; wait; {
			select {
			case <-ctx.Done():
				wait = false
			case event := <-w.events():
				wait = !w.concerns(event)
			case err := <-w.errors():
				f.cfg.Logger.Warn("lost an event of the line file, polling it", "path", f.cfg.Path, "err", err)
				wait = false
			case <-tick.C:
				tick.Reset(next())
				w.arm(w.id)
				wait = false
			}
		}
	}
	return nil
}

// Stats returns a copy of the counters.
func (f *Follower) Stats() Stats {
	f.mu.Lock()
	defer f.mu.Unlock()
	stats := f.stats
	stats.Accepted, stats.Own, stats.Bytes = f.total.accepted, f.total.own, f.total.bytes
	stats.Ignored, stats.Misread = make(map[Reason]uint64, endOfReasons), make(map[Reason]uint64, endOfReasons)
	for _, r := range Reasons() {
		stats.Ignored[r], stats.Misread[r] = f.total.ignored[r], f.total.misread[r]
	}
	return stats
}

// addCounters adds c to the totals that Stats returns and resets it.
func (f *Follower) addCounters(c *counters) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.total.accepted += c.accepted
	f.total.own += c.own
	f.total.bytes += c.bytes
	for r, n := range c.ignored {
		f.total.ignored[r] += n
		f.total.misread[r] += c.misread[r]
	}
	*c = counters{}
}

// setProblem records the result of a poll, and logs it if it has changed.
func (f *Follower) setProblem(err error) {
	text := func(err error) string {
		if err == nil {
			return ""
		}
		return err.Error()
	}
	problem := text(err)
	f.mu.Lock()
	before := text(f.stats.Problem)
	if f.current != nil {
		f.stats.Network = f.current.mount
	}
	if problem != before {
		f.stats.Problem, f.stats.ProblemAt = err, f.now
		if err == nil {
			f.stats.ProblemAt = time.Time{}
		}
	}
	f.mu.Unlock()
	switch {
	case problem == before:
	case problem == "":
		f.cfg.Logger.Info("following the line file", "path", f.cfg.Path)
	default:
		f.cfg.Logger.Warn("cannot follow the line file, will retry", "path", f.cfg.Path, "err", err)
	}
}
