package mesh

import (
	"context"
	"slices"
	"sync"

	"github.com/hashicorp/memberlist"
	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/replica"
)

const (
	// maxStreamJobs bounds the large messages that wait or are being sent, and streamJobsOf those to one receiver.
	// Beyond either, the session fails and is tried again.
	maxStreamJobs, streamJobsOf = 128, 8
	// streamsTo bounds the streams that we open to one receiver at a time, so that a receiver that does not read delays
	// nobody else.
	streamsTo = 2
)

// streamer sends messages that do not fit a packet, each over its own stream.
type streamer struct {
	send   func(replica.Outgoing) bool
	failed func(replica.Outgoing)
	wake   chan struct{} // capacity 1: there may be a job to begin

	mu   sync.Mutex
	jobs int           // waiting or being sent
	to   []*streamJobs // receivers with jobs, in turn
}

// streamJobs holds the messages waiting for one receiver, and how many are being sent to it.
type streamJobs struct {
	id      frame.ID
	waiting []replica.Outgoing
	sending int
}

func newStreamer(m *Mesh) *streamer {
	return &streamer{
		send: m.sendStream, failed: func(job replica.Outgoing) { m.tell(replica.SendFailedEvent{Peer: job.To, Session: job.Session}) },
		wake: make(chan struct{}, 1),
	}
}

// put queues a message and reports whether there was room.
func (s *streamer) put(job replica.Outgoing) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.indexLocked(job.To)
	if s.jobs >= maxStreamJobs || i >= 0 && len(s.to[i].waiting)+s.to[i].sending >= streamJobsOf {
		return false
	}
	if i < 0 {
		i = len(s.to)
		s.to = append(s.to, &streamJobs{id: job.To})
	}
	q := s.to[i]
	s.jobs++
	q.waiting = append(q.waiting, job)
	signal(s.wake)
	return true
}

func (s *streamer) indexLocked(to frame.ID) int {
	return slices.IndexFunc(s.to, func(q *streamJobs) bool { return q.id == to })
}

// next returns a job whose receiver has a free stream.
func (s *streamer) next() (job replica.Outgoing, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, q := range s.to {
		if len(q.waiting) > 0 && q.sending < streamsTo {
			job, q.waiting = q.waiting[0], q.waiting[1:]
			q.sending++
			s.to = append(slices.Delete(s.to, i, i+1), q)
			return job, true
		}
	}
	return replica.Outgoing{}, false
}

// done ends a job.
func (s *streamer) done(job replica.Outgoing) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.jobs--
	i := s.indexLocked(job.To)
	q := s.to[i]
	if q.sending--; q.sending == 0 && len(q.waiting) == 0 {
		s.to = slices.Delete(s.to, i, i+1)
	}
	signal(s.wake)
}

// run sends until ctx ends; streams being written then end with the transport.
func (s *streamer) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		select {
		case <-s.wake:
		case <-ctx.Done():
			return
		}
		for job, ok := s.next(); ok; job, ok = s.next() {
			wg.Go(func() {
				if !s.send(job) {
					s.failed(job)
				}
				s.done(job)
			})
		}
	}
}

// sendSync sends a message for the core: in a packet if it is small, otherwise over a stream, because a path may lose
// every large packet. If streams fail, messages that fit go in packets. Only the core's goroutine calls it.
func (m *Mesh) sendSync(out replica.Outgoing) {
	n := m.peers.node(out.To)
	if n == nil {
		return // it left meanwhile
	}
	size := 1 + len(out.Msg)
	if size <= replica.FreshSize || size <= maxPacket && m.paths.tcpFailed(m.now(), out.To) {
		if err := m.pusher.send(n, append([]byte{out.Kind}, out.Msg...)); err != nil {
			m.count.sendErrors.Add(1)
		}
		return
	}
	if !m.streams.put(out) {
		m.count.dropped.Add(1)
		m.tell(replica.SendFailedEvent{Peer: out.To, Session: out.Session})
	}
}

func (m *Mesh) sendStream(out replica.Outgoing) bool {
	n := m.peers.node(out.To)
	ml := m.ml.Load()
	if n == nil || ml == nil {
		return false
	}
	msg := append([]byte{out.Kind}, out.Msg...)
	err := ml.SendReliable(n, msg)
	if m.paths.streamed(m.now(), out.To, err == nil); err != nil {
		m.peers.unheard(out.To)
	}
	if err != nil && len(msg) <= maxPacket && out.Kind != kindPath {
		err = ml.SendBestEffort(n, msg)
	}
	if err != nil {
		m.count.sendErrors.Add(1)
	}
	return err == nil
}

func (m *Mesh) sendPacket(to *memberlist.Node, msg []byte) error {
	ml := m.ml.Load()
	if ml == nil {
		return ErrStopped
	}
	if m.overStream(to, msg) {
		return nil
	}
	return ml.SendBestEffort(to, msg)
}
