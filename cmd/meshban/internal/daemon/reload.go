package daemon

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	sdnotify "github.com/coreos/go-systemd/v22/daemon"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/fw"
)

// config returns the current configuration.
func (d *Daemon) config() (cfg config.Config) {
	d.state.View(func(*ban.Table) { cfg = d.cfg })
	return cfg
}

// serveReload rereads the configuration on each request until ctx ends. An invalid configuration leaves the old one in
// force. It also rejudges after certificates have changed, so that the two never run at once.
func (d *Daemon) serveReload(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.recapWake:
			if err := d.rejudgeRecapped(ctx); err != nil {
				d.log.Error("could not judge by the new caps of a node what it said before; it is at the next start", "err", err)
			}
			continue
		case <-d.reload: // a nil channel blocks for ever
		}
		d.notify(sdnotify.SdNotifyReloading)
		if err := d.reloadOnce(ctx); err != nil {
			d.problems.set("config", err.Error(), "correct it, then `systemctl reload meshban`; the old configuration holds until then")
			d.log.Error("kept the old configuration", "err", err)
		} else {
			d.problems.clear("config")
		}
		d.notify(sdnotify.SdNotifyReady)
	}
}

// reloadOnce applies the settings that can change while the node runs, and logs those that cannot.
func (d *Daemon) reloadOnce(ctx context.Context) error {
	next, err := d.reread()
	if err != nil {
		return err
	}
	old := d.config()
	if err := d.mesh.SetJoin(next.Join); err != nil {
		return fmt.Errorf("join: %w", err)
	}
	if fixed := needRestart(old, next); len(fixed) > 0 {
		d.log.Warn("these settings change only at a restart", "keys", strings.Join(fixed, ", "))
	}
	// Settings fixed at the start keep the values in use, so that status and errors tell the truth.
	next.Name, next.Bind, next.Advertise, next.Metrics = old.Name, old.Bind, old.Advertise, old.Metrics
	next.API = old.API
	next.Firewall, next.Control, next.Lines.File, next.Log.Format = old.Firewall, old.Control, old.Lines.File, old.Log.Format
	now := time.Now()
	d.state.Change(now, func(t *ban.Table) (changes []ban.Change) {
		if changes, err = t.SetPolicy(now, limits(next), ban.Quorum(next.Bans.Quorum), quorums(next)...); err == nil {
			d.cfg = next
			d.state.Gate.SetBreaker(allowance(next.Breaker))
		}
		return changes
	})
	if err != nil {
		return err
	}
	d.hooks.Set(next.Hooks)
	if d.level != nil {
		d.level.Set(next.Log.Level)
	}
	if err := d.rejudge(ctx, old, next); err != nil {
		d.log.Error("could not judge by the new configuration what was said before; it is at the next start", "err", err)
	}
	wake(d.resolved.wake)
	wake(d.neverWake)
	wake(d.listWake)
	e := d.bySelf(time.Now(), control.ViaSignal)
	e.What, e.Source = "reload", next.Path
	d.audit.Add(e)
	d.log.Info("took over the configuration", "file", next.Path)
	return nil
}

// fixedKeys take effect only at a restart.
var fixedKeys = []string{
	"name", "bind", "advertise", "metrics", "lines.file", "firewall.backends", "firewall.outbound", "firewall.counters", "firewall.check",
	"control.read_group", "control.write_group", "api.listen", "api.certificate", "api.key", "api.hold", "log.format",
}

// needRestart returns the changed keys that take effect only at a restart.
func needRestart(old, next config.Config) []string {
	return slices.DeleteFunc(config.Changed(old, next), func(key string) bool { return !slices.Contains(fixedKeys, key) })
}

// announceReady tells the log and systemd that the node serves, and says what to do next.
func (d *Daemon) announceReady(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-d.mesh.Ready():
	}
	select {
	case <-ctx.Done():
		return nil
	case <-d.api.Ready():
	}
	if err := d.checkName(ctx); err != nil {
		d.log.Warn("could not certify the name in the config", "err", err)
	}
	cfg := d.config()
	status := d.fw.Status()
	d.log.Info("node is up", "name", cfg.Name, "id", d.self.Short(), "addr", addrText(d.mesh.Addr()),
		"firewall", status.Backend, "banned", d.state.Counts().Active, "line_file", cfg.Lines.File)
	for _, a := range d.attempts {
		if a.Err != nil {
			d.log.Info("firewall backend not used", "backend", a.Name, "reason", a.Err)
		}
	}
	if status.Backend == fw.NameNone {
		remedy := "give firewall.backends or --firewall another backend to enforce bans"
		if d.claimed != nil {
			remedy = d.claimed.Error()
		} else if len(d.attempts) > 1 {
			remedy = "no other backend works here; on Linux, run it as root to enforce bans"
		}
		d.log.Warn("NOTHING IS BLOCKED: this node shares bans but drops no packets", "remedy", remedy)
	}
	if len(d.mesh.Members()) == 1 && len(cfg.Join) == 0 {
		d.log.Info("this is a mesh of one; to add a machine run `meshban invite` here and `meshban join TOKEN` there")
	}
	d.notify(sdnotify.SdNotifyReady)
	return nil
}

// notify sends state to systemd; without systemd it does nothing.
func (d *Daemon) notify(state string) {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return
	}
	if _, err := sdnotify.SdNotify(false, state); err != nil {
		d.log.Warn("could not notify systemd", "err", err)
	}
}
