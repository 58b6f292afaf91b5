package hostinfo

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

func readGateways() ([]netip.Addr, error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("read routes: %w", err)
	}
	var out []netip.Addr
	for _, r := range routes {
		if addr, ok := netip.AddrFromSlice(r.Gw); ok {
			out = append(out, addr)
		}
		for _, hop := range r.MultiPath {
			if addr, ok := netip.AddrFromSlice(hop.Gw); ok {
				out = append(out, addr)
			}
		}
	}
	return out, nil
}

// subscribe returns a channel that receives a token after each change of an address or route and is closed when ctx
// ends.
func subscribe(ctx context.Context) (<-chan struct{}, error) {
	addrs, routes := make(chan netlink.AddrUpdate, 64), make(chan netlink.RouteUpdate, 64)
	if err := netlink.AddrSubscribe(addrs, ctx.Done()); err != nil {
		return nil, fmt.Errorf("subscribe to addresses: %w", err)
	}
	if err := netlink.RouteSubscribe(routes, ctx.Done()); err != nil {
		return nil, fmt.Errorf("subscribe to routes: %w", err)
	}
	out := make(chan struct{}, 1)
	go func() { // returns when ctx ends: both subscriptions then close their channels
		defer close(out)
		for addrs != nil || routes != nil {
			select {
			case _, ok := <-addrs:
				if !ok {
					addrs = nil
					continue
				}
			case _, ok := <-routes:
				if !ok {
					routes = nil
					continue
				}
			}
			select {
			case out <- struct{}{}:
			default:
			}
		}
	}()
	return out, nil
}
