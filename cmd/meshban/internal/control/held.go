package control

import (
	"context"
	"fmt"
)

func (r DecideRequest) check() error {
	if r.Action != ActionRelease && r.Action != ActionDrop {
		return usage("unknown action %q: write %s or %s", r.Action, ActionRelease, ActionDrop)
	}
	if len(r.Prefixes) > 0 {
		if err := r.Prefixes.check("prefixes"); err != nil {
			return err
		}
	}
	return short("origin", r.Origin, MaxSource)
}

// Held calls yield for each ban on hold and stops with its error.
func (c *Client) Held(ctx context.Context, yield func(HeldEntry) error) error {
	var d entryDecoder
	return c.stream(ctx, pathHeld, nil, func(line []byte) error {
		e, err := d.decodeHeld(line)
		if err != nil {
			return fmt.Errorf("read the agent's answer: %w", err)
		}
		return yield(e)
	})
}

// Decide releases or drops bans on hold.
func (c *Client) Decide(ctx context.Context, req DecideRequest) (DecideReply, error) {
	return call[DecideReply](ctx, c, pathDecide, req)
}
