package mesh

import (
	"context"
	"sync"

	"github.com/hashicorp/memberlist"
)

const (
	// maxStreamJobs bounds the large messages that wait to be sent; beyond it the session fails and is tried again.
	maxStreamJobs = 64
	// streamWorkers bounds the streams that we open for sync at a time.
	streamWorkers = 4
)

// streamer sends what does not fit a packet, each message by a stream of its own.
type streamer struct {
	jobs chan outMessage // the core sends, workers receive, nobody closes; full: the session fails
	mesh *Mesh
}

func newStreamer(m *Mesh) *streamer {
	return &streamer{jobs: make(chan outMessage, maxStreamJobs), mesh: m}
}

// run sends until ctx ends; a worker that is writing then ends with the transport.
func (s *streamer) run(ctx context.Context) {
	var wg sync.WaitGroup
	for range streamWorkers {
		wg.Go(func() {
			for {
				select {
				case job := <-s.jobs:
					if !s.mesh.sendStream(job) {
						s.mesh.tell(evSendFail{job.to, job.session})
					}
				case <-ctx.Done():
					return
				}
			}
		})
	}
	wg.Wait()
}

// sendSync sends a message of the core's: in a packet if it fits one, else by a stream. Called by the core's goroutine.
func (m *Mesh) sendSync(out outMessage) {
	n := m.peers.node(out.to)
	if n == nil {
		return // it left meanwhile
	}
	if 1+len(out.msg) <= maxPacket {
		if err := m.pusher.send(n, append([]byte{out.kind}, out.msg...)); err != nil {
			m.count.sendErrors.Add(1)
		}
		return
	}
	select {
	case m.streams.jobs <- out:
	default:
		m.count.dropped.Add(1)
		m.tell(evSendFail{out.to, out.session})
	}
}

func (m *Mesh) sendStream(out outMessage) bool {
	n := m.peers.node(out.to)
	ml := m.ml.Load()
	if n == nil || ml == nil {
		return false
	}
	if err := ml.SendReliable(n, append([]byte{out.kind}, out.msg...)); err != nil {
		m.count.sendErrors.Add(1)
		return false
	}
	return true
}

func (m *Mesh) sendPacket(to *memberlist.Node, msg []byte) error {
	ml := m.ml.Load()
	if ml == nil {
		return ErrStopped
	}
	return ml.SendBestEffort(to, msg)
}
