// Package enforce holds what this node bans and has the kernel drop it. [State.Change] is the only way into the table; it
// queues for the kernel, under the same lock, what the change means there, so that the kernel sees every change in order.
package enforce

import (
	"runtime"
	"sync"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/store"
	"github.com/meshban/meshban/fw"
)

// Config is what a State needs. Its functions must not block.
type Config struct {
	Table ban.Config
	Gate  ban.AdmissionConfig
	Store *store.Store // keeps the offences

	Escalation func() config.Escalation // as it is now; called with the lock held
	// Changed is told of each change, in order, with the lock held.
	Changed func(now time.Time, c ban.Change)
	// Answered is told of the same changes once the kernel has answered: when it took them, or why it does not. Changes
	// that do not concern the kernel come at once. began is the time that Change was given. No lock is held.
	Answered func(changes []ban.Change, began, at time.Time, err error)
}

// State is what this node bans.
type State struct {
	cfg  Config
	acks acks
	wake chan struct{} // holds one token: something now ends before wakeAt. Change sends, Expire receives

	mu    sync.Mutex // guards what follows
	table *ban.Table
	// Gate and Offences are for functions that Change or View calls.
	Gate     *ban.Admission
	Offences *Offences
	kernel   *fw.Syncer // nil before Drive
	wakeAt   time.Time  // when Expire looks again unless it is woken
}

// New returns a State that bans nothing yet.
func New(now time.Time, cfg Config) (*State, error) {
	s := &State{cfg: cfg, wake: make(chan struct{}, 1), Gate: ban.NewAdmission(cfg.Gate)}
	var err error
	if s.table, err = ban.New(cfg.Table); err != nil {
		return nil, err
	}
	s.Offences, err = newOffences(cfg.Store, now, cfg.Escalation().Memory)
	return s, err
}

// Drive has all further changes queued for the kernel. What came before is in Snapshot and is reported to nobody. Call it
// before anything runs.
func (s *State) Drive(kernel *fw.Syncer) { s.kernel = kernel }

// Change calls each f with the lock held and, before releasing it, queues for the kernel what f returns, as one
// submission. Small submissions pass large ones in that queue. After the last f, it has the kernel take the queue. An
// f should take about as long as Chunk records do.
func (s *State) Change(now time.Time, fs ...func(*ban.Table) []ban.Change) {
	flush, early := false, false
	for _, f := range fs {
		s.mu.Lock()
		queued, answer := s.queueLocked(now, f(s.table))
		next, ok := s.table.Next()
		flush, early = flush || queued, early || ok && next.Before(s.wakeAt)
		s.mu.Unlock()
		if answer != nil {
			answer()
		}
	}
	if flush {
		s.kernel.Flush()
	}
	if early {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
	GiveWay()
}

// queueLocked queues changes for the kernel and reports whether there was anything to queue. If the kernel will not answer,
// the caller calls answer once the lock is released.
func (s *State) queueLocked(now time.Time, changes []ban.Change) (queued bool, answer func()) {
	if len(changes) == 0 || s.kernel == nil {
		return false, nil
	}
	updates := make([]fw.Update, 0, len(changes))
	allow, escalation := false, s.cfg.Escalation()
	for _, c := range changes {
		if escalation.Factor > 1 {
			s.Offences.Changed(now, c, escalation.Memory)
		}
		s.cfg.Changed(now, c)
		allow = allow || c.Event == ban.EventAllow || c.Event == ban.EventUnallow
		if c.Enforce || c.Lift {
			rule := ban.Rule{Prefix: c.Prefix, Ports: c.Ports, Until: c.Until, Own: c.Local}
			if !c.Ports.IsAll() && !c.Local {
				_, rule.Own = s.table.OwnBan(c.Prefix, c.Ports)
			}
			updates = append(updates, fw.Update{Entry: Entry(rule), Remove: c.Lift})
		}
	}
	if allow {
		s.kernel.ExceptionsChanged()
	}
	if len(updates) == 0 {
		return false, func() { s.cfg.Answered(changes, now, time.Now(), nil) }
	}
	batch := s.acks.begin(changes, s.Gate.Trusts)
	done := func(at time.Time, err error) {
		s.acks.end(batch, changes)
		s.cfg.Answered(changes, now, at, err)
	}
	if err := s.kernel.Queue(updates, done); err != nil {
		answer = func() { done(time.Now(), err) }
	}
	return true, answer
}

// SetNever replaces the never-ban list, and has the kernel's exceptions read again.
func (s *State) SetNever(now time.Time, list []ban.NeverEntry) {
	s.Change(now, func(t *ban.Table) []ban.Change {
		if s.kernel != nil {
			s.kernel.ExceptionsChanged()
		}
		return t.SetNever(now, list)
	})
}

// Entry converts a table rule to a firewall entry.
func Entry(rule ban.Rule) fw.Entry {
	entry := fw.Entry{Prefix: rule.Prefix, Until: rule.Until, Own: rule.Own}
	for _, r := range rule.Ports.Ranges() {
		entry.Ports = append(entry.Ports, fw.PortRange{Proto: uint8(r.Proto), First: r.First, Last: r.Last})
	}
	return entry
}

// GiveWay lets goroutines that wait for a processor, or for the lock that was just released, go first. Without it a busy
// goroutine keeps both for up to 10 ms.
func GiveWay() { runtime.Gosched() }
