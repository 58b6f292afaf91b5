package daemon

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/user"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/audit"
	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/daemon/enforce"
	"github.com/meshban/meshban/cmd/meshban/internal/fail2ban"
	"github.com/meshban/meshban/cmd/meshban/internal/setup"
	"github.com/meshban/meshban/cmd/meshban/internal/statedir"
	"github.com/meshban/meshban/cmd/meshban/internal/store"
	"github.com/meshban/meshban/fw"
	"github.com/meshban/meshban/logsrc"
	"github.com/meshban/meshban/mesh"
	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/pki"
)

// Names of small values in the store.
const (
	valuePeers   = "peers"
	valueInvites = "invites"
)

// Alone reports whether the folder's mesh, if it has one, has never had another member. The folder must be locked.
func Alone(dir statedir.Dir) (bool, error) {
	has, err := dir.SetUp()
	if err != nil || !has {
		return true, err
	}
	lost := false // if the store is damaged, it is unknown whether there were others
	s, err := store.Open(dir.Store(), store.Options{OnDamage: func(store.Damage) { lost = true }})
	if err != nil {
		return false, err
	}
	var peers []mesh.Peer
	if saved := s.Value(valuePeers); saved != nil {
		err = json.Unmarshal(saved, &peers)
	}
	return len(peers) == 0 && !lost, errors.Join(err, s.Close())
}

// lineFileMode lets the owner's group read what was banned.
const lineFileMode = 0o640

// prepare opens what the node works with, in order of dependence.
func (d *Daemon) prepare(ctx context.Context) error {
	keys, err := d.home.Keys()
	if err != nil {
		return err
	}
	d.self = ban.Origin(keys.Identity.ID())
	if d.access, err = access(d.cfg); err != nil {
		return err
	}
	d.claim()
	if err := mesh.CheckPort(d.cfg.Bind); err != nil { // do not touch the kernel for an agent that cannot run
		return cmp.Or(d.claimed, err)
	}
	d.storeMissing()
	if d.store, err = store.Open(d.home.Store(), store.Options{OnDamage: d.storeDamaged}); err != nil {
		return err
	}
	// The wall clock is a floor, so that a restored snapshot of this folder never reuses an old epoch.
	epoch, err := d.store.RaiseEpoch(d.epochFloor())
	if err != nil {
		return err
	}
	d.openNames(ban.Origin(frame.IDOf(keys.Secrets.Authority[:])))
	d.loadPast()
	d.loadPause(time.Now())
	d.loadDrill()
	if err := d.resolved.load(d.store.Value(valueResolved)); err != nil {
		d.log.Warn("the names in allow have no addresses until they are looked up", "err", err)
	}
	if d.audit, err = audit.New(audit.Config{Path: d.home.Audit(), Logger: d.log, OnProblem: d.auditProblem}); err != nil {
		return err
	}
	d.metrics = newMetrics()
	d.openHooks()
	d.readSessions() // before anything is enforced

	if err := d.openState(); err != nil {
		return err
	}
	d.state.SetNever(time.Now(), d.neverList())
	if err := d.openMesh(keys, epoch); err != nil {
		return err
	}
	if err := d.restore(keys.Secrets); err != nil {
		return err
	}
	d.state.SetNever(time.Now(), d.neverList()) // now with the members, whose addresses come from the mesh and its certificates
	if err := d.openFirewall(ctx); err != nil {
		return err
	}
	if err := d.openLines(); err != nil {
		return err
	}
	if err := d.openAPI(); err != nil {
		return err
	}
	runtime.GC() // the garbage of the start must not be collected during the first ban
	return nil
}

// access finds the groups that may use the control socket.
func access(cfg config.Config) (control.Access, error) {
	find := func(key, name string) (control.Group, error) {
		g, err := control.LookupGroup(name)
		if errors.As(err, new(user.UnknownGroupError)) {
			return g, &config.Error{
				File: cfg.Path, Key: key, Problem: err.Error(),
				Remedy: fmt.Sprintf("make it with `groupadd --system %s`, or write a group that is there", name),
			}
		}
		return g, err // the group directory did not answer; later it may
	}
	read, err := find("control.read_group", cfg.Control.ReadGroup)
	if err != nil {
		return control.Access{}, err
	}
	write, err := find("control.write_group", cfg.Control.WriteGroup)
	return control.Access{Read: read, Write: write}, err
}

// epochFloor returns the current time in seconds, which exceeds any number of starts.
func (d *Daemon) epochFloor() uint64 { return uint64(max(0, time.Now().Unix())) }

// limits returns the table's limits as configured.
func limits(cfg config.Config) ban.Limits {
	l := ban.DefaultLimits()
	l.MaxFor = cfg.Bans.MaxFor
	l.PeerMinBits4, l.PeerMinBits6 = cfg.Bans.MinPrefix4, cfg.Bans.MinPrefix6
	return l
}

// quorums returns the configured quorums by source.
func quorums(cfg config.Config) []ban.SourceQuorum {
	var out []ban.SourceQuorum
	for _, q := range cfg.Bans.BySource {
		out = append(out, ban.SourceQuorum{Source: q.Source, Quorum: ban.Quorum(q.Quorum)})
	}
	return out
}

// openState makes the table and what goes with it; nothing is banned yet.
func (d *Daemon) openState() (err error) {
	d.state, err = enforce.New(time.Now(), enforce.Config{
		Table: ban.Config{Self: d.self, Limits: limits(d.cfg), Quorum: ban.Quorum(d.cfg.Bans.Quorum), Sources: quorums(d.cfg)},
		Gate: ban.AdmissionConfig{
			Self: d.self, Authority: d.names.authority, Caps: d.capsLocked, Breaker: allowance(d.cfg.Breaker),
			Last: func() (epoch, seq uint64) { return d.mesh.Last() },
		},
		Store: d.store, Escalation: func() config.Escalation { return d.cfg.Escalation },
		Changed: d.changedLocked, Answered: d.announce,
	})
	return err
}

func (d *Daemon) openMesh(keys statedir.Keys, epoch uint64) error {
	var peers []mesh.Peer
	if saved := d.store.Value(valuePeers); saved != nil {
		if err := json.Unmarshal(saved, &peers); err != nil {
			d.log.Warn("could not read the remembered peers", "err", err)
		}
	}
	m, err := mesh.New(mesh.Config{
		Identity: keys.Identity, Secrets: keys.Secrets, Epoch: epoch,
		Authority: keys.Authority, Certificate: keys.Certificate,
		Name: d.cfg.Name, Version: d.version,
		Bind: d.cfg.Bind, Advertise: d.cfg.Advertise, Join: d.cfg.Join,
		Logger:    d.log,
		RollEpoch: d.store.RaiseEpoch,
		Deliver:   d.deliver, Early: d.tooEarly, Replaced: d.replaced, Retold: d.retold, Admitted: d.admitted, Expired: d.forget,
		Withdrawn: d.withdraw, Readmitted: d.readmit, Noticed: d.noticed, Rewound: d.rewound, Answer: d.answer,
		Peers: peers,
		PeersChanged: func(peers []mesh.Peer) {
			if value, err := json.Marshal(peers); err == nil {
				d.store.Set(valuePeers, value)
			}
		},
		KnownChanged: func() { wake(d.neverWake) },
		OnMember:     d.member,
		OnProblem: func(kind mesh.Problem, detail string) {
			detail = d.nameNodes(detail)
			switch kind {
			case mesh.ProblemForged, mesh.ProblemFlood, mesh.ProblemEquivocation, mesh.ProblemClone:
				d.problems.add(string(kind), detail, "") // it names a culprit
			case mesh.ProblemUDP, mesh.ProblemJoin, mesh.ProblemAddress, mesh.ProblemSeen, mesh.ProblemClock: // status asks afresh
			case mesh.ProblemDropped, mesh.ProblemStrangers, mesh.ProblemCertificate, mesh.ProblemKey:
				d.problems.setFor(string(kind), detail, "", briefly)
			default:
				d.problems.set(string(kind), detail, "")
			}
			d.log.Warn("mesh problem", "kind", kind, "detail", detail)
		},
		SaveSecrets: func(s pki.Secrets) error { return s.Save(d.home.Secrets()) },
		OnKey:       d.keyTurned,
		LoadInvites: func() ([]byte, error) { return d.store.Value(valueInvites), nil },
		SaveInvites: func(b []byte) error { d.store.Set(valueInvites, slices.Clone(b)); return nil },
	})
	if err != nil {
		return err
	}
	d.mesh = m
	return nil
}

// restore loads the stored frames into the table and the mesh. Frames of a mesh that this node has left are dropped,
// and frames that cannot be read are skipped.
func (d *Daemon) restore(secrets pki.Secrets) error {
	now := time.Now()
	var records, live [][]byte
	var frames []frame.Frame
	var arrivals []time.Time // of each of frames
	foreign := 0
	stored, err := d.storedHolds()
	if err != nil {
		return err
	}
	err = d.store.Frames(func(arrived time.Time, raw []byte) error {
		raw = slices.Clone(raw)
		f, err := frame.Decode(raw)
		if err != nil {
			d.log.Warn("skipped a stored frame", "err", err)
			return nil
		}
		if f.MeshID != secrets.MeshID {
			foreign++
			d.store.Drop(store.KeyOf(f.Origin, f.Epoch, f.Seq))
			return nil
		}
		if ban.Origin(f.Origin) == d.names.authority {
			records = append(records, raw)
			if f.Epoch == pki.AuthorityEpoch {
				frames, arrivals = append(frames, f), append(arrivals, arrived)
			}
			return nil
		}
		live, frames, arrivals = append(live, raw), append(frames, f), append(arrivals, arrived)
		return nil
	})
	if err != nil && !errors.Is(err, store.ErrDamaged) { // what was read before the damage is sound
		return err
	}
	if foreign > 0 {
		d.log.Warn("left the bans of another mesh behind", "frames", foreign)
	}
	// What the authority published comes first, because it decides which frames count.
	if err := d.mesh.Restore(slices.Values(append(records, live...))); err != nil {
		return err
	}
	d.recapAll()
	for i, f := range frames {
		if d.mesh.Trusts(f.Origin) {
			d.admit(now, []*arrival{{f, d.decode(now, arrivals[i], f)}}, stored.judgeLocked)
		}
	}
	return nil
}

// claim makes this agent the one that drops packets in this kernel, unless another one already does.
func (d *Daemon) claim() {
	if slices.Equal(d.cfg.Firewall.Backends, []string{fw.NameNone}) {
		return
	}
	unclaim, squatter, err := fw.Claim()
	d.unclaim = unclaim
	if squatter != "" {
		d.problems.set("firewall lock", squatter, "end that process: `kill PID`")
	}
	if err != nil {
		d.claimed = fmt.Errorf("%w: stop that one and restart this, or give this one `firewall: {backends: [none]}`", err)
	}
}

func (d *Daemon) openFirewall(ctx context.Context) error {
	outbound, err := fw.ParseOutbound(string(d.cfg.Firewall.Outbound))
	if err != nil {
		return err
	}
	opts := fw.Options{Outbound: outbound, Counters: d.cfg.Firewall.Counters, Logger: d.log, Refused: d.claimed}
	backend, attempts, err := fw.Open(ctx, d.cfg.Firewall.Backends, opts)
	if err != nil {
		return cmp.Or(d.claimed, err)
	}
	d.attempts = attempts
	_, _, paused := d.pauses.at(time.Now())
	d.fw, err = fw.NewSyncer(fw.SyncerConfig{
		Backend: backend, Snapshot: d.state.Snapshot, Exceptions: d.exceptions, CheckEvery: d.cfg.Firewall.Check, Logger: d.log, Paused: paused,
		OnRepair: func(problems []string) {
			d.log.Warn("repaired the firewall", "problems", strings.Join(problems, "; "))
		},
	})
	if err != nil {
		return errors.Join(err, backend.Close())
	}
	d.state.Drive(d.fw)
	// If the kernel refuses now, Run tries again, and status shows the error.
	if err := d.fw.Replace(ctx); err != nil {
		d.log.Error("could not load the firewall; trying again", "backend", backend.Name(), "err", err)
	}
	return nil
}

// exceptions returns what the kernel should never drop.
func (d *Daemon) exceptions() fw.Exceptions {
	x := d.state.Exceptions()
	if networks := d.networks.Load(); networks != nil {
		x.Networks = *networks
	}
	return x
}

func (d *Daemon) openLines() error {
	file := d.cfg.Lines.File
	d.fail2ban = fail2ban.New(fail2ban.Config{
		LineFile: file, Installed: setup.Fail2banInstalled,
		Unban:   func() bool { return d.config().Fail2ban.Unban },
		Problem: d.fail2banProblem,
	})
	// A file server that is down must not keep the node from starting: the follower keeps trying.
	if err := logsrc.EnsureFile(file, lineFileMode); err != nil {
		d.log.Warn("could not create the line file; trying again", "err", err)
	}
	var start logsrc.Position
	if saved := d.store.Value(valuePosition); saved != nil {
		if err := json.Unmarshal(saved, &start); err != nil {
			d.log.Warn("could not read the line file's position; starting at its end", "err", err)
		}
	}
	own := new(logsrc.OwnRanges)
	var err error
	if d.emitter, err = logsrc.NewEmitter(logsrc.EmitterConfig{Path: file, Own: own, Pid: os.Getpid()}); err != nil {
		return fmt.Errorf("line file: %w", err)
	}
	d.follower, err = logsrc.NewFollower(logsrc.FollowerConfig{
		Path: file, Start: start, Handle: d.handleLines, Memory: lineMemory{d.store}, Own: own, Logger: d.log,
	})
	if err != nil {
		return fmt.Errorf("line file: %w", err)
	}
	return nil
}
