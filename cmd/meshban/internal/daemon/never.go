package daemon

import (
	"context"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/hostinfo"
)

// protection is what keeps this node from locking out its users and its mesh.
type protection struct {
	ssh       *hostinfo.Sessions               // used by New, then only by watchSessions
	sessions  atomic.Pointer[[]hostinfo.Entry] // where ssh users are logged in from
	networks  atomic.Pointer[[]netip.Prefix]   // the networks that this machine is in; neverList stores them
	neverWake chan struct{}                    // holds one token: the never-ban list may have changed. Anyone sends, guardNever receives
}

// neverList returns what this node never drops, beyond the table's built-in list: what the machine depends on, the
// addresses from which users are logged in by ssh, the members of the mesh, and the operator's allow list.
func (d *Daemon) neverList() []ban.NeverEntry {
	host, err := d.host()
	if err != nil {
		d.problems.set("host addresses", "this machine's own addresses could not all be looked up: "+err.Error(), "`meshban allow ADDR` protects one that is missing in `meshban allow --list`")
		d.log.Warn("could not read all of this machine's addresses", "err", err)
	} else {
		d.problems.clear("host addresses")
	}
	if sessions := d.sessions.Load(); sessions != nil {
		host = append(slices.Clone(host), *sessions...)
	}
	var out []ban.NeverEntry
	var networks []netip.Prefix
	for _, e := range host {
		if e.Why == hostinfo.OwnNetwork { // not protected as a whole: see fw.Exceptions
			networks = append(networks, e.Prefix)
			continue
		}
		out = append(out, ban.NeverEntry{Prefix: e.Prefix, Why: e.Why})
	}
	if err == nil || len(networks) > 0 {
		d.networks.Store(&networks)
	}
	for _, a := range d.config().Allow {
		if a.Name == "" {
			out = append(out, ban.NeverEntry{Prefix: a.Prefix, Why: whyConfigured})
			continue
		}
		for _, addr := range d.resolved.of(a.Name) {
			out = append(out, ban.NeverEntry{Prefix: netip.PrefixFrom(addr, addr.BitLen()), Why: whyConfigured + " (" + a.Name + ")"})
		}
	}
	if d.mesh != nil {
		// Members that are said to have left are included. Anybody with the gossip key can claim that; together with a
		// ban of the address it would cut the node off, and a returning member could not be heard.
		for _, m := range d.mesh.Known() {
			if addr := m.Addr.Addr().Unmap(); addr.IsValid() && d.mesh.Trusts(m.ID) {
				out = append(out, ban.NeverEntry{Prefix: netip.PrefixFrom(addr, addr.BitLen()), Why: "mesh member " + d.names.of(ban.Origin(m.ID))})
			}
		}
	}
	return out
}

// whyConfigured is the reason given for an entry of the operator's own list.
const whyConfigured = "allow list in meshban.yaml"

// neverEvery is how often the never-ban list is rebuilt without a trigger: members are forgotten silently.
const neverEvery = 10 * time.Minute

// guardNever keeps the never-ban list up to date until ctx ends.
func (d *Daemon) guardNever(ctx context.Context) error {
	tick := time.NewTicker(neverEvery)
	defer tick.Stop()
	for {
		d.state.SetNever(time.Now(), d.neverList())
		wake(d.api.spared)
		d.listChanged()
		select {
		case <-ctx.Done():
			return nil
		case <-d.neverWake:
		case <-tick.C:
		}
	}
}

// watchHost has the never-ban list rebuilt when addresses or routes change, until ctx ends.
func (d *Daemon) watchHost(ctx context.Context) error {
	return hostinfo.Watch(ctx, func() { wake(d.neverWake) })
}

// watchSessions keeps ssh users from being locked out, until ctx ends.
func (d *Daemon) watchSessions(ctx context.Context) error {
	next := func() time.Duration { // on the full second, when the agent is awake anyway
		now := time.Now()
		return now.Truncate(hostinfo.SessionsEvery).Add(hostinfo.SessionsEvery).Sub(now)
	}
	tick := time.NewTimer(next())
	defer tick.Stop()
	for {
		if d.readSessions() {
			wake(d.neverWake)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			tick.Reset(next())
		}
	}
}

// readSessions records who is logged in and reports whether that has changed.
func (d *Daemon) readSessions() bool {
	const kind = "ssh sessions"
	found, err := d.ssh.Read(time.Now())
	if err != nil {
		d.problems.set(kind, err.Error(), "`meshban allow ADDR` protects where you come from; `meshban setup systemd` runs the agent with the rights that it needs")
	} else {
		d.problems.clear(kind)
	}
	last := d.sessions.Swap(&found)
	return last == nil || !slices.Equal(*last, found)
}
