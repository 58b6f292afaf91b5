package logsrc

import (
	"errors"
	"net/netip"
	"os"
	"time"
)

// EmitterConfig is what an Emitter needs.
type EmitterConfig struct {
	Path string     // the file; created 0640 when it is missing
	Own  *OwnRanges // shared with the Follower of the same file; nil = not followed
	Pid  int        // in brackets behind the tag; 0 = this process
	// Location is where the time stamps are local; nil = time.Local.
	Location *time.Location
}

// Emission is one ban to be written as a classic line.
type Emission struct {
	Origin string     // name of the node where the ban began; what is not a letter, digit, '.' or '-' becomes '-'
	Addr   netip.Addr // a single address: a CIDR has no classic form
	Port   uint16     // 0 = all
}

// Emitter appends classic lines to the file. It is safe for concurrent use.
type Emitter struct {
	cfg EmitterConfig
}

// NewEmitter checks cfg; it opens nothing.
func NewEmitter(cfg EmitterConfig) (*Emitter, error) {
	if cfg.Path == "" {
		return nil, errors.New("emit lines: no path")
	}
	if cfg.Pid == 0 {
		cfg.Pid = os.Getpid()
	}
	if cfg.Location == nil {
		cfg.Location = time.Local
	}
	return &Emitter{cfg: cfg}, nil
}

// Emit appends one line for each of batch, all with one write. It blocks as long as the file system does. Errors
// name the path; the lines of a failed batch are not tried again.
func (e *Emitter) Emit(now time.Time, batch []Emission) error { return nil }

// Close closes the file, if it is open. A later Emit opens it again.
func (e *Emitter) Close() error { return nil }
