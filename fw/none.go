package fw

import (
	"context"
	"time"
)

// whyNone is why an entry is not enforced with this backend.
const whyNone = "this node has no firewall backend and drops nothing"

// NewNone returns the backend that drops nothing: for a dry run, and if nothing else works.
func NewNone() Backend { return none{} }

type none struct{}

func (none) Name() string                                                 { return NameNone }
func (none) Traits() Traits                                               { return Traits{} }
func (none) Apply(context.Context, time.Time, []Update) error             { return nil }
func (none) SetExceptions(context.Context, Exceptions, *Exceptions) error { return nil }
func (none) Check(context.Context) (problems []string, _ error)           { return nil, nil }
func (none) Dropped(context.Context) (v4, v6 Dropped, _ error)            { return v4, v6, nil }
func (none) Hits(context.Context) (Hits, error)                           { return nil, ErrNotCounted }
func (none) Close() error                                                 { return nil }

// Replace iterates over the entries, as every backend does, so that a dry run costs and counts like a real one.
func (none) Replace(ctx context.Context, _ time.Time, state State) error {
	for range state.Entries {
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}
