//go:build !linux

package prober

import (
	"context"
	"net/netip"
)

// Probe fails: see ErrUnsupported.
func Probe(context.Context, netip.Addr, netip.Addr, func(context.Context) (uint64, error)) (Result, error) {
	return Result{}, ErrUnsupported
}
