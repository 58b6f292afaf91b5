package logsrc

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

// MaxBatch is how many lines one call of Handle gets at most.
const MaxBatch = 1024

// FollowerConfig is what a Follower needs.
type FollowerConfig struct {
	// Path is the file. It need not exist: one that appears later is read from its beginning. Symbolic links
	// are followed; anything but a regular file is refused (and looked at again each Tick).
	Path string
	// Start is the stored position; the zero Position means first contact.
	Start Position
	// Handle gets the accepted lines, in the order of the file, and the position behind them. It is called from
	// Run's goroutine only, and following stops until it returns. The batch has at most MaxBatch lines, is
	// reused after the return, and may be empty: the position alone has moved (noise, own lines, start, rotation).
	Handle func(batch []Line, pos Position)
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

// Stats counts since the start. Problem is "" while the file is being followed.
type Stats struct {
	Accepted    uint64            // lines handed over, those with Line.Emitted included
	Own         uint64            // lines that this node's Emitter wrote in this run, skipped
	Ignored     map[Reason]uint64 // every reason is there, also at 0
	Bytes       uint64            // read, own lines included
	Rotations   uint64            // another file stood at the path
	Truncations uint64            // the file became another text in place
	Problem     string            // why the file cannot be followed now, with its path
	ProblemAt   time.Time         // when it began; zero without one
}

// Follower follows one file. Stats may be called from any goroutine.
type Follower struct {
	cfg FollowerConfig
}

// NewFollower checks cfg; it opens and starts nothing.
func NewFollower(cfg FollowerConfig) (*Follower, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	return &Follower{cfg: cfg}, nil
}

// Run follows the file until ctx ends and returns nil then, after everything that it started has returned. A
// file that cannot be read is no reason to return: it is tried again each Tick, and Stats tells about it.
func (f *Follower) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Stats gives a copy of the counters.
func (f *Follower) Stats() Stats {
	return Stats{Ignored: map[Reason]uint64{}}
}
