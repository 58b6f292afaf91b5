package mesh

import (
	"sync/atomic"

	"github.com/meshban/meshban/mesh/internal/filter"
	"github.com/meshban/meshban/mesh/internal/replica"
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
		SendErrors:   c.SendErrors.Load(),
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
