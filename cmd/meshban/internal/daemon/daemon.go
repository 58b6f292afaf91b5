package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/audit"
	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/daemon/enforce"
	"github.com/meshban/meshban/cmd/meshban/internal/fail2ban"
	"github.com/meshban/meshban/cmd/meshban/internal/hook"
	"github.com/meshban/meshban/cmd/meshban/internal/hostinfo"
	"github.com/meshban/meshban/cmd/meshban/internal/statedir"
	"github.com/meshban/meshban/cmd/meshban/internal/store"
	"github.com/meshban/meshban/cmd/meshban/internal/ui"
	"github.com/meshban/meshban/fw"
	"github.com/meshban/meshban/mesh"
	"github.com/meshban/meshban/mesh/pki"
)

// Config is what a Daemon needs; the first four are required.
type Config struct {
	Home    statedir.Dir
	Config  config.Config
	Version string
	Logger  *slog.Logger
	Level   *slog.LevelVar // of Logger; a reload sets it. nil = the level stays

	Reload <-chan os.Signal              // a value asks for a reload; the caller sends, nobody closes. nil = never
	Reread func() (config.Config, error) // the configuration as it is now

	Host func() ([]hostinfo.Entry, error) // addresses this machine depends on; nil = hostinfo.Read
}

func (c *Config) validate() error {
	switch {
	case c.Home == "":
		return errors.New("daemon: no state folder")
	case c.Version == "":
		return errors.New("daemon: no version")
	case c.Logger == nil:
		return errors.New("daemon: no logger")
	case c.Reload != nil && c.Reread == nil:
		return errors.New("daemon: reload without a way to read the configuration")
	}
	return nil
}

// lockChunk is how many entries are processed under one hold of the lock.
const lockChunk = enforce.Chunk

// Daemon is one node. New prepares it, Run runs it once.
type Daemon struct {
	given
	disk
	firewall
	lineIO
	protection
	outlets
	pacing
	mesh     *mesh.Mesh
	fail2ban *fail2ban.Agent
	api      *api
	names    *names
	others   *others
	pauses   *pauses
	resolved *resolved
	drills   *drills
	state    *enforce.State
	locked
	noticeWake chan struct{} // holds one token: an origin is to be told something. Anyone sends, tellOrigins receives
	recapWake  chan struct{} // holds one token: recapped may have an entry. recapLocked sends, serveReload receives
}

// given is set by New and never changes.
type given struct {
	home     statedir.Dir
	version  string
	log      *slog.Logger
	level    *slog.LevelVar
	reload   <-chan os.Signal
	reread   func() (config.Config, error)
	host     func() ([]hostinfo.Entry, error)
	started  time.Time
	hostName string // this machine's name as syslog writes it, without the domain
	self     ban.Origin
	access   control.Access
}

// disk is what survives a restart.
type disk struct {
	store      *store.Store
	audit      *audit.Log
	refillWake chan struct{} // holds one token: the store may lack frames. Anyone sends, refillStore receives
}

// firewall is the kernel and how it was opened.
type firewall struct {
	fw       *fw.Syncer // only state submits to it
	attempts []fw.Attempt
	claimed  error        // set if another agent drops packets in this kernel
	unclaim  func() error // gives up this agent's claim to the kernel; nil if it has none
}

// outlets report what this node does.
type outlets struct {
	hub          *hub
	paces        paces
	page         *ui.Handler
	hooks        *hook.Hooks
	metrics      *metrics
	problems     *problems
	listVersion  atomic.Uint64 // is different after what lists show has changed
	listLooked   atomic.Uint64 // listVersion when a file was last written, or found as it should be
	listWake     chan struct{} // holds one token: listVersion or the list of files has changed. Anyone sends, writeLists receives
	ignoredShown atomic.Bool   // status shows the problem that the other nodes ignore this one
}

// locked is what the lock of state guards besides the table.
type locked struct {
	cfg   config.Config
	past  past
	alarm alarm
	// granted holds the caps of the nodes whose certificate is valid. The mesh's goroutine writes it.
	granted map[ban.Origin]pki.Caps
	// recapped holds the caps by which nodes were judged before their certificate changed, until their ops are judged
	// again.
	recapped map[ban.Origin]ban.Caps
	feedback map[ban.Origin]*feedback // what this node has to tell others
	reports  map[ban.Origin]report    // what others tell this node
	slowed   map[ban.Origin]time.Time // when Mesh.Slow was last called
}

// New locks the state folder, opens the store, sets up the firewall and restores the bans, so that the kernel enforces
// them before the node joins the mesh. Run releases the folder, as does New if it fails. New returns statedir.ErrLocked
// if another agent runs on the folder.
func New(ctx context.Context, cfg Config) (*Daemon, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	started := time.Now()
	d := &Daemon{
		given: given{
			home: cfg.Home, version: cfg.Version, log: cfg.Logger, level: cfg.Level,
			reload: cfg.Reload, reread: cfg.Reread, host: cfg.Host, started: started,
		},
		disk:       disk{refillWake: make(chan struct{}, 1)},
		lineIO:     lineIO{emit: newEmitQueue(), echoes: newEchoes()},
		protection: protection{ssh: hostinfo.NewSessions(), neverWake: make(chan struct{}, 1)},
		outlets:    outlets{hub: newHub(), problems: newProblems(), listWake: make(chan struct{}, 1)},
		pacing:     pacing{bulkRate: rate.NewLimiter(mesh.SayBulkRate, mesh.SayBulkBurst), smallRate: rate.NewLimiter(mesh.SayRate, mesh.SayBurst)},
		others:     newOthers(),
		pauses:     newPauses(),
		resolved:   newResolved(),
		drills:     newDrills(),
		noticeWake: make(chan struct{}, 1), recapWake: make(chan struct{}, 1),
		locked: locked{
			cfg: cfg.Config, past: newPast(started),
			granted: make(map[ban.Origin]pki.Caps), recapped: make(map[ban.Origin]ban.Caps),
			feedback: make(map[ban.Origin]*feedback), reports: make(map[ban.Origin]report), slowed: make(map[ban.Origin]time.Time),
		},
	}
	if name, err := os.Hostname(); err == nil {
		d.hostName, _, _ = strings.Cut(name, ".")
	}
	d.drills.probe = d.probeFirewall
	if d.host == nil {
		d.host = hostinfo.Read
	}
	var err error
	if d.page, err = ui.New(d, d.log); err != nil {
		return nil, err
	}
	if err := d.prepare(ctx); err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

// close releases what prepare opened.
func (d *Daemon) close() error {
	var errs []error
	if d.unclaim != nil {
		errs = append(errs, d.unclaim())
	}
	if d.store != nil {
		errs = append(errs, d.store.Close())
	}
	return errors.Join(errs...)
}

// Run serves until ctx ends or a task fails, then leaves the mesh, writes what is not yet on disk, and returns. The
// kernel keeps its bans.
func (d *Daemon) Run(ctx context.Context) error {
	// The store and the audit log outlive the tasks: what the tasks queue while they stop must reach the disk.
	storeCtx, stopStore := context.WithCancel(context.WithoutCancel(ctx))
	stored := make(chan error, 1)
	go func() { stored <- d.store.Run(storeCtx) }()
	audited := make(chan error, 1)
	go func() { audited <- d.audit.Run(storeCtx) }()

	server, err := control.NewServer(control.ServerConfig{Agent: d, Path: d.home.Socket(), Access: d.access, Page: d.page, Logger: d.log})
	if err == nil {
		tasks, ctx := errgroup.WithContext(ctx)
		var running sync.Map // names of tasks
		run := func(name string, task func(context.Context) error) {
			running.Store(name, true)
			tasks.Go(func() error {
				defer running.Delete(name)
				if err := task(ctx); err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
				return nil
			})
		}
		run("firewall", d.fw.Run)
		run("control socket", server.Run)
		run("mesh", d.mesh.Run)
		run("line file", d.follower.Run)
		run("line emission", d.emitLines)
		run("expiry", func(ctx context.Context) error { return d.state.Expire(ctx, d.mesh.Expire) }) // the mesh first, to notice a clock that is set back
		run("never-ban list", d.guardNever)
		run("store", d.refillStore)
		run("host addresses", d.watchHost)
		run("ssh sessions", d.watchSessions)
		run("pauses", d.servePauses)
		run("names", d.resolveNames)
		run("reload", d.serveReload)
		run("fail2ban", d.fail2ban.Run)
		run("notices", d.tellOrigins)
		run("metrics", d.serveMetrics)
		run("api listener", d.api.run)
		run("lists", d.writeLists)
		run("hooks", d.hooks.Run)
		run("drills", d.serveDrills)
		run("problems for hooks", func(ctx context.Context) error {
			return d.hooks.WatchProblems(ctx, func() []string { return d.localStatus().Problems })
		})
		run("readiness", d.announceReady)
		err = d.await(ctx, tasks, &running)
	}
	d.savePast()
	stopStore()
	return errors.Join(err, <-stored, d.refillLast(), <-audited, d.emitter.Close(), d.close())
}

const (
	// tasksLimit bounds how long Run waits for its tasks to stop: one that hangs must not keep the rest off the disk.
	tasksLimit = 3 * time.Second
	// awaitStep bounds how much of Await's limit one standstill of the process or the machine uses up.
	awaitStep = 100 * time.Millisecond
	// maxStacks bounds the stacks that are logged if a task hangs, in bytes.
	maxStacks = 1 << 20
)

// Await calls f and returns its error. If f has not returned within limit after ctx is done, Await returns ended
// false and f keeps running. limit is a multiple of awaitStep.
func Await(ctx context.Context, limit time.Duration, f func() error) (ended bool, err error) {
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return true, err
	case <-ctx.Done():
	}
	for ; limit > 0; limit -= awaitStep {
		select {
		case err := <-done:
			return true, err
		case <-time.After(awaitStep):
		}
	}
	return false, nil
}

// await waits until the tasks have ended, for at most tasksLimit after ctx is done. Its error names those that have not,
// and the debug log shows where they are.
func (d *Daemon) await(ctx context.Context, tasks *errgroup.Group, running *sync.Map) error {
	if ended, err := Await(ctx, tasksLimit, tasks.Wait); ended {
		return err
	}
	var names []string
	running.Range(func(name, _ any) bool { names = append(names, name.(string)); return true })
	if len(names) == 0 { // the last one has just ended
		return tasks.Wait()
	}
	slices.Sort(names)
	if d.log.Enabled(ctx, slog.LevelDebug) {
		stacks := make([]byte, maxStacks)
		d.log.Debug("tasks hang", "tasks", names, "stacks", string(stacks[:runtime.Stack(stacks, true)]))
	}
	return fmt.Errorf("not stopped within %v: %s", tasksLimit, strings.Join(names, ", "))
}
