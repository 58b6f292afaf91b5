package cli

import (
	"fmt"
	"io"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// progressEvery is the shortest interval between two updates of a progress line.
const progressEvery = 100 * time.Millisecond

// progress is a line on a terminal that is overwritten in place. If stderr is no terminal it is silent.
type progress struct {
	out   io.Writer // nil = silent
	now   func() time.Time
	size  int64 // bytes to read in all, 0 = unknown
	last  time.Time
	shown bool
}

func newProgress(c *command, size int64) *progress {
	p := &progress{now: c.now, size: size}
	if c.isTerm {
		p.out = c.err
	}
	return p
}

// at shows the progress.
func (p *progress) at(done int, bytes int64) {
	now := p.now()
	if p.out == nil || now.Sub(p.last) < progressEvery {
		return
	}
	p.last, p.shown = now, true
	percent := ""
	if p.size > 0 {
		percent = fmt.Sprintf(", %d %%", min(100*bytes/p.size, 100))
	}
	fmt.Fprintf(p.out, "\r\x1b[K%s addresses banned%s", control.Count(done), percent)
}

// clear erases the line.
func (p *progress) clear() {
	if p.shown {
		fmt.Fprint(p.out, "\r\x1b[K")
		p.shown = false
	}
}
