package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/hostinfo"
)

const (
	// valueResolved is the name in the store of the last addresses of names in allow.
	valueResolved = "allow-names"
	// resolveEvery is the time between two look-ups of a name, up to resolveJitter more: the resolver does not tell how
	// long an answer holds. resolveLimit bounds one.
	resolveEvery, resolveJitter, resolveLimit = time.Minute, 10 * time.Second, 5 * time.Second
	// maxResolved bounds the addresses that count of one name.
	maxResolved = 8
)

// resolved holds the last good answers for the names in allow.
type resolved struct {
	lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)
	wake   chan struct{} // holds one token: the names may have changed. Anyone sends, resolveNames receives

	mu sync.Mutex // guards what follows
	by map[string][]netip.Addr
}

func newResolved() *resolved {
	return &resolved{lookup: net.DefaultResolver.LookupNetIP, wake: make(chan struct{}, 1), by: map[string][]netip.Addr{}}
}

func (r *resolved) of(name string) []netip.Addr {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.by[name]
}

// load takes over what an earlier run has found.
func (r *resolved) load(saved []byte) error {
	if saved == nil {
		return nil
	}
	by := map[string][]netip.Addr{}
	if err := json.Unmarshal(saved, &by); err != nil {
		return fmt.Errorf("read the stored addresses of names: %w", err)
	}
	for name, addrs := range by {
		r.by[name] = public(addrs)
	}
	return nil
}

// set replaces the addresses of a name, and forgets names that are not in names. It reports whether that changed anything.
func (r *resolved) set(names []string, name string, addrs []netip.Addr) (save []byte, changed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for old := range r.by {
		if !slices.Contains(names, old) {
			delete(r.by, old)
			changed = true
		}
	}
	if len(addrs) > 0 && !slices.Equal(r.by[name], addrs) {
		r.by[name], changed = addrs, true
	}
	save, _ = json.Marshal(r.by) // addresses always encode
	return save, changed
}

// public returns the public addresses of an answer, sorted, maxResolved at most. Who answers for a name must not have
// this machine's own or neighbouring networks let through.
func public(answer []netip.Addr) (addrs []netip.Addr) {
	for _, a := range answer {
		a = a.Unmap().WithZone("")
		if hostinfo.IsPublic(a) {
			addrs = append(addrs, a)
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	addrs = slices.Compact(addrs)
	return addrs[:min(len(addrs), maxResolved)]
}

// allowNames returns the names in allow.
func (d *Daemon) allowNames() (names []string) {
	for _, a := range d.config().Allow {
		if a.Name != "" && !slices.Contains(names, a.Name) {
			names = append(names, a.Name)
		}
	}
	return names
}

// resolveNames looks up the names in allow, again and again, until ctx ends.
func (d *Daemon) resolveNames(ctx context.Context) error {
	for {
		names := d.allowNames()
		if save, changed := d.resolved.set(names, "", nil); changed {
			d.store.Set(valueResolved, save)
		}
		for _, name := range names {
			d.resolve(ctx, names, name)
		}
		var again <-chan time.Time
		if len(names) > 0 {
			again = time.After(resolveEvery + rand.N(resolveJitter))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-d.resolved.wake:
		case <-again:
		}
	}
}

// resolve looks up one name. The last good answer stays until there is another one.
func (d *Daemon) resolve(ctx context.Context, names []string, name string) {
	limited, cancel := context.WithTimeout(ctx, resolveLimit)
	defer cancel()
	answer, err := d.resolved.lookup(limited, "ip", name+".")
	if ctx.Err() != nil {
		return
	}
	addrs, kind := public(answer), "allow "+name
	if err == nil && len(addrs) == 0 {
		err = fmt.Errorf("it has no public address, only %v", answer[:min(len(answer), maxResolved)])
	}
	if err != nil {
		what := "the name in `allow` of meshban.yaml cannot be looked up: " + err.Error()
		if last := d.resolved.of(name); len(last) > 0 {
			what += "; its last addresses stay allowed: " + strings.Trim(fmt.Sprint(last), "[]")
		} else {
			what += "; none of its addresses is allowed"
		}
		d.problems.setFor(kind, what, "see what `getent ahosts "+name+"` says here, or correct the name; `meshban allow ADDR` allows an address now", briefly)
		return
	}
	d.problems.clear(kind)
	if save, changed := d.resolved.set(names, name, addrs); changed {
		d.log.Info("a name that is allowed has new addresses", "name", name, "addrs", addrs)
		d.store.Set(valueResolved, save)
		wake(d.neverWake)
	}
}
