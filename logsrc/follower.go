package logsrc

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"
)

// MaxBatch is how many lines one call of Handle gets at most.
const MaxBatch = 1024

// FollowerConfig is what a Follower needs.
type FollowerConfig struct {
	// Path is the file. It need not exist: one that appears later is read from its beginning. Symbolic links
	// are followed where root or this user made them; anything but a regular file is refused (and looked at again each Tick).
	Path string
	// Start is the stored position; the zero Position means first contact.
	Start Position
	// Handle gets the accepted lines, in the order of the file, and the position behind them. It is called from
	// Run's goroutine only, and following stops until it returns. The batch has at most MaxBatch lines, is
	// reused after the return, and may be empty: the position alone has moved (noise, own lines, start, rotation).
	Handle func(batch []Line, pos Position)
	// Memory outlives this Follower, as the position does; nil = a file that is rewritten between two runs is read from
	// its end.
	Memory Memory
	// Own is shared with the Emitter for the same file; nil = nothing is emitted.
	Own *OwnRanges
	// Logger gets changes of state; nil = none.
	Logger *slog.Logger
	// Tick is how often the file is looked at without being told to (0 = 1 s): network file systems and
	// missing folders report nothing.
	Tick time.Duration
	// RotateWait is how long a file that was rotated away is still read (0 = 5 s), because programs that have
	// it open go on writing to it.
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

// Stats counts since the start.
type Stats struct {
	Accepted    uint64            // lines handed over, those with Line.Emitted included
	Own         uint64            // lines that this node's Emitter wrote in this run, skipped
	Ignored     map[Reason]uint64 // every reason is there, also at 0
	Misread     map[Reason]uint64 // of the accepted: what was said badly beside the address (Line.Misread), also at 0
	Bytes       uint64            // read, own lines included
	Rotations   uint64            // another file stood at the path
	Truncations uint64            // the file became another text in place

	Problem   string    // why the file cannot be followed now; "" = it is followed
	ProblemAt time.Time // when Problem began
	Polling   string    // why changes are seen at each Tick only; "" = they are seen at once
}

// maxRetired is how many files that were rotated away are still read at a time.
const maxRetired = 4

// Follower follows one file. Stats may be called from any goroutine.
type Follower struct {
	cfg FollowerConfig

	// Run's goroutine alone.
	scan    scanner
	marks   *marks
	now     time.Time // of the look
	current *reader   // nil = there is none yet, and from says where to begin
	from    Position  // where to begin
	told    Position  // what Handle got last
	retired []*reader // rotated away, read until their time is over

	mu    sync.Mutex
	stats Stats // Ignored is nil here
	total counters
}

// NewFollower checks cfg; it opens and starts nothing.
func NewFollower(cfg FollowerConfig) (*Follower, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	return &Follower{
		cfg: cfg, from: cfg.Start, told: cfg.Start, marks: loadMarks(cfg.Memory),
		scan: scanner{buf: make([]byte, chunkSize+fingerprintWindow), batch: make([]Line, 0, MaxBatch)},
	}, nil
}

// Run follows the file until ctx ends and returns nil then, after everything that it started has returned. A
// file that cannot be read is no reason to return: it is tried again each Tick, and Stats tells about it. Run
// may be called once.
func (f *Follower) Run(ctx context.Context) error {
	defer f.close()
	w, err := newWatch(f.cfg.Path)
	if err != nil {
		f.setPolling(err)
	}
	defer w.close()
	tick := time.NewTicker(f.cfg.Tick)
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
				f.cfg.Logger.Warn("watching the line file failed, looking at it instead", "path", f.cfg.Path, "err", err)
				wait = false
			case <-tick.C:
				w.arm(w.id)
				wait = false
			}
		}
	}
	return nil
}

// Stats gives a copy of the counters.
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

// addCounters moves c into what Stats tells.
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

func (f *Follower) setPolling(err error) {
	f.cfg.Logger.Warn("the line file cannot be watched, looking at it instead", "path", f.cfg.Path, "err", err)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stats.Polling = err.Error()
}

// setProblem takes the outcome of a look at the file, and logs when it is news.
func (f *Follower) setProblem(now time.Time, err error) {
	problem := ""
	if err != nil {
		problem = err.Error()
	}
	f.mu.Lock()
	before := f.stats.Problem
	if problem != before {
		f.stats.Problem, f.stats.ProblemAt = problem, now
		if problem == "" {
			f.stats.ProblemAt = time.Time{}
		}
	}
	f.mu.Unlock()
	switch {
	case problem == before:
	case problem == "":
		f.cfg.Logger.Info("following the line file", "path", f.cfg.Path)
	default:
		f.cfg.Logger.Warn("the line file cannot be followed, trying on", "path", f.cfg.Path, "err", err)
	}
}
