package fw

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Attempt says how one backend fared in [Open].
type Attempt struct {
	Name string
	Err  error  // why it was refused; nil for the one that was chosen
	Note string // what the chosen one cannot do here, such as IPv6; "" = nothing
}

// opener sets a backend up for real. The note says what works only in part.
type opener func(ctx context.Context, opts Options) (b Backend, note string, err error)

// order is what NameAuto stands for, best first.
var order = []string{NameIPSet, NameNFTables, NameIPTables, NameNone}

// Open tries the backends in the given order and returns the first that works, preferring those that drop IPv6 too. The
// backend is set up in the kernel: its sets and rules exist, and what an earlier run left is still dropped. NameAuto or
// an empty order means ipset, nftables, iptables, none. The attempts say why others were refused; the chosen one comes
// last. If none works, the error says why for each.
func Open(ctx context.Context, names []string, opts Options) (Backend, []Attempt, error) {
	opts = opts.withDefaults()
	wanted, err := expandOrder(names)
	if err != nil {
		return nil, nil, err
	}
	var attempts []Attempt
	var reasons []string
	var half Backend // the first that lets IPv6 through
	var halfDone Attempt
	for _, name := range wanted {
		if err := ctx.Err(); err != nil {
			return nil, attempts, errors.Join(err, closeIf(half))
		}
		if half != nil && name == NameNone {
			break
		}
		backend, note, err := openOne(ctx, name, opts)
		if err == nil && backend.Traits().LetsThrough == "" {
			if note != "" {
				opts.Logger.Warn("the firewall works only in part", "backend", name, "note", note)
			}
			// The first load of this backend removes what the skipped one has in the kernel.
			return backend, append(attempts, Attempt{Name: name, Note: note}), closeIf(half)
		}
		if err == nil {
			err = errors.New(backend.Traits().LetsThrough)
			if half == nil {
				half, halfDone = backend, Attempt{Name: name, Note: note}
			} else {
				_ = backend.Close()
			}
		}
		attempts = append(attempts, Attempt{Name: name, Err: err})
		reasons = append(reasons, name+": "+err.Error())
	}
	if half == nil {
		return nil, attempts, fmt.Errorf("no firewall backend works: %s", strings.Join(reasons, "; "))
	}
	opts.Logger.Warn("the firewall works only in part", "backend", halfDone.Name, "note", halfDone.Note)
	attempts = slices.DeleteFunc(attempts, func(a Attempt) bool { return a.Name == halfDone.Name })
	return half, append(attempts, halfDone), nil
}

func closeIf(b Backend) error {
	if b == nil {
		return nil
	}
	return b.Close()
}

func openOne(ctx context.Context, name string, opts Options) (Backend, string, error) {
	if name == NameNone {
		return NewNone(), "", nil
	}
	if opts.Refused != nil {
		return nil, "", opts.Refused
	}
	open, ok := openers[name]
	if !ok {
		return nil, "", fmt.Errorf("this build has no such backend: %w", ErrUnsupported)
	}
	return open(ctx, opts)
}

// expandOrder expands NameAuto, drops repetitions and refuses unknown names.
func expandOrder(names []string) ([]string, error) {
	if len(names) == 0 {
		return order, nil
	}
	var out []string
	for _, name := range names {
		add := []string{name}
		if name == NameAuto {
			add = order
		} else if !slices.Contains(order, name) {
			return nil, fmt.Errorf("firewall backend %q: %w", name, errUnknownBackend)
		}
		for _, n := range add {
			if !slices.Contains(out, n) {
				out = append(out, n)
			}
		}
	}
	return out, nil
}

var errUnknownBackend = errors.New("write auto, ipset, nftables, iptables or none")
