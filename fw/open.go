package fw

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Attempt tells how one backend fared in [Open].
type Attempt struct {
	Name string
	Err  error  // why it was refused; nil for the one that was chosen
	Note string // what the chosen one cannot do here, such as IPv6; "" = nothing
}

// opener sets a backend up for real. The note says what works only in part.
type opener func(ctx context.Context, opts Options) (b Backend, note string, err error)

// order is what NameAuto stands for, best first.
var order = []string{NameIPSet, NameNFTables, NameIPTables, NameNone}

// Open tries the backends in the given order and returns the first that works, set up in the kernel: its sets and rules
// are there, and what a former run left goes on being dropped. NameAuto or an empty order means ipset, nftables,
// iptables, none. The attempts tell why others were refused; the chosen one stands last. If none works the error says
// why for each.
func Open(ctx context.Context, names []string, opts Options) (Backend, []Attempt, error) {
	opts = opts.withDefaults()
	wanted, err := expandOrder(names)
	if err != nil {
		return nil, nil, err
	}
	var attempts []Attempt
	var reasons []string
	for _, name := range wanted {
		if err := ctx.Err(); err != nil {
			return nil, attempts, err
		}
		backend, note, err := openOne(ctx, name, opts)
		attempts = append(attempts, Attempt{Name: name, Err: err, Note: note})
		if err == nil {
			if note != "" {
				opts.Logger.Warn("the firewall works only in part", "backend", name, "note", note)
			}
			return backend, attempts, nil
		}
		reasons = append(reasons, name+": "+err.Error())
	}
	return nil, attempts, fmt.Errorf("no firewall backend works: %s", strings.Join(reasons, "; "))
}

func openOne(ctx context.Context, name string, opts Options) (Backend, string, error) {
	if name == NameNone {
		return NewNone(), "", nil
	}
	open, ok := openers[name]
	if !ok {
		return nil, "", fmt.Errorf("this build has no such backend: %w", ErrUnsupported)
	}
	return open(ctx, opts)
}

// expandOrder puts NameAuto in full, drops repetitions and refuses unknown names.
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
