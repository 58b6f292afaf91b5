package mesh

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/meshban/meshban/mesh/internal/filter"
	"github.com/meshban/meshban/mesh/internal/replica"
	"github.com/meshban/meshban/mesh/internal/wire"
)

// Reasons for refusing a frame.
const (
	refusedFormat = iota
	refusedSignature
	refusedMesh
	refusedTrust
	refusedRevoked
	refusedExpired
	refusedFuture
	refusedFull
	refusedUnasked // sync messages that belong to no session
	refusedReasons
)

var refusedNames = [refusedReasons]string{"format", "signature", "mesh", "trust", "revoked", "expired", "future", "full", "unasked"}

// counters holds what Stats reports.
type counters struct {
	filter.Count
	published, received, delivered, duplicates           atomic.Uint64
	waited, dropped, syncs, synced, syncFrames, problems atomic.Uint64
	notices, noticesRefused                              atomic.Uint64
	refused                                              [refusedReasons]atomic.Uint64
}

func (c *counters) verdicts(v [replica.VerdictKinds]uint64) {
	c.duplicates.Add(v[replica.VerdictDuplicate])
	c.refused[refusedExpired].Add(v[replica.VerdictExpired])
	c.refused[refusedFuture].Add(v[replica.VerdictFuture])
	c.refused[refusedFull].Add(v[replica.VerdictFull])
	c.waited.Add(v[replica.VerdictUnknown])
	c.refused[refusedTrust].Add(v[replica.VerdictEnded])
	c.refused[refusedRevoked].Add(v[replica.VerdictRevoked])
}

// dropped returns how many messages, jobs and events full queues have dropped.
func (m *Mesh) dropped() uint64 { return m.count.dropped.Load() + m.pusher.Count.Dropped.Load() }

// Stats returns the counters.
func (m *Mesh) Stats() Stats {
	m.mu.Lock()
	use := m.core.Usage()
	m.mu.Unlock()
	c := &m.count
	s := Stats{
		Held:         use.Frames,
		AwaitingCert: use.AwaitingCert,
		Waited:       c.waited.Load(),
		Queued:       len(m.inbox) + len(m.later) + m.bulk.len() + m.pusher.Waiting(),
		Published:    c.published.Load(),
		Sent:         m.pusher.Count.Sent.Load(),
		Forwarded:    m.pusher.Count.Forwarded.Load(),
		Received:     c.received.Load(),
		Delivered:    c.delivered.Load(),
		Duplicates:   c.duplicates.Load(),
		Refused:      make(map[string]uint64, refusedReasons),
		Dropped:      m.dropped(),
		SendErrors:   c.SendErrors.Load() + m.pusher.Count.Failed.Load(),
		Syncs:        c.syncs.Load(),
		Synced:       c.synced.Load(),
		SyncFrames:   c.syncFrames.Load(),
		Problems:     c.problems.Load(),

		Notices:        c.notices.Load(),
		NoticesRefused: c.noticesRefused.Load(),
		Strangers:      c.Strangers.Load(),
		Limited:        c.Limited.Load(),
	}
	if tr := m.tr.Load(); tr != nil {
		s.Slowed = tr.Slowed()
	}
	for i, name := range refusedNames {
		s.Refused[name] = c.refused[i].Load()
	}
	s.Refused["format"] += c.Refused.Load()
	return s
}

const (
	// problemEvery is the least time between two reports of one kind and culprit.
	problemEvery = time.Minute
	// maxProblems bounds the culprits that are remembered; while that many are, further reports are dropped.
	maxProblems = 256
	// maxDetailText bounds what a report says besides the remedy, in bytes.
	maxDetailText = 512
)

// Remedies of several problems.
const (
	shutOut      = "find the captured machine: `meshban revoke NAME` and then `meshban rotate mesh-key` shut it out"
	twoUsers     = "give one of the two machines an empty state folder and a new token: `meshban join TOKEN`"
	restartAgent = "restart the agent: systemctl restart meshban"
	newStart     = "give this machine an empty state folder and a new token: `meshban join TOKEN`"
)

// problems reports to the daemon, each kind and culprit rarely.
type problems struct {
	tell  func(kind Problem, detail string)
	count *atomic.Uint64

	mu   sync.Mutex
	last map[string]time.Time
}

// report reports a problem unless it was reported recently. If remedy is empty, what contains the remedy. report calls
// p.tell, so no lock may be held.
func (p *problems) report(now time.Time, kind Problem, culprit, what, remedy string) {
	p.count.Add(1)
	key := string(kind) + " " + culprit
	p.mu.Lock()
	for k, t := range p.last {
		if now.Sub(t) >= problemEvery {
			delete(p.last, k)
		}
	}
	_, told := p.last[key]
	told = told || len(p.last) >= maxProblems
	if !told {
		p.last[key] = now
	}
	p.mu.Unlock()
	if !told && p.tell != nil {
		what = wire.Escape(what, maxDetailText)
		if remedy != "" {
			what += "; " + remedy
		}
		p.tell(kind, what)
	}
}
