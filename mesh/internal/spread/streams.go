package spread

import (
	"context"
	"slices"
	"sync"

	"github.com/meshban/meshban/mesh/frame"
)

const (
	// maxStreamJobs bounds the large messages that wait or are being sent, and streamJobsOf those to one receiver.
	// Beyond either, the session fails and is tried again.
	maxStreamJobs, streamJobsOf = 128, 8
	// streamsTo bounds the streams that we open to one receiver at a time, so that a receiver that does not read delays
	// nobody else.
	streamsTo = 2
)

// Streams sends messages that do not fit a packet, each over its own stream.
type Streams struct {
	send   func(Message) bool
	failed func(Message)
	wake   chan struct{} // capacity 1: there may be a job to begin

	mu   sync.Mutex
	jobs int           // waiting or being sent
	to   []*streamJobs // receivers with jobs, in turn
}

// streamJobs holds the messages waiting for one receiver, and how many are being sent to it.
type streamJobs struct {
	id      frame.ID
	waiting []Message
	sending int
}

// Message is a message to one member. Session is the session that it belongs to, if any.
type Message struct {
	To      frame.ID
	Kind    byte // its first byte
	Body    []byte
	Session uint64
}

// NewStreams returns a sender. send sends one message and reports whether it could; if not, failed is called.
func NewStreams(send func(Message) bool, failed func(Message)) *Streams {
	return &Streams{send: send, failed: failed, wake: make(chan struct{}, 1)}
}

// Put queues a message and reports whether there was room.
func (s *Streams) Put(job Message) bool {
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
	s.wakeRun()
	return true
}

func (s *Streams) indexLocked(to frame.ID) int {
	return slices.IndexFunc(s.to, func(q *streamJobs) bool { return q.id == to })
}

// next returns a job whose receiver has a free stream.
func (s *Streams) next() (job Message, ok bool) {
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
	return Message{}, false
}

// done ends a job.
func (s *Streams) done(job Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.jobs--
	i := s.indexLocked(job.To)
	q := s.to[i]
	if q.sending--; q.sending == 0 && len(q.waiting) == 0 {
		s.to = slices.Delete(s.to, i, i+1)
	}
	s.wakeRun()
}

// Run sends until ctx ends; streams being written then end with the transport.
func (s *Streams) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		select {
		case <-s.wake:
		case <-ctx.Done():
			return
		}
		for job, ok := s.next(); ok; job, ok = s.next() {
			wg.Go(func() { s.do(job) })
		}
	}
}

// Step sends one message, if one may be sent now, and reports whether there was one.
func (s *Streams) Step() bool {
	job, ok := s.next()
	if ok {
		s.do(job)
	}
	return ok
}

func (s *Streams) do(job Message) {
	if !s.send(job) {
		s.failed(job)
	}
	s.done(job)
}

func (s *Streams) wakeRun() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}
