package mesh

import (
	"slices"
	"sync"

	"github.com/meshban/meshban/mesh/frame"
)

const (
	// maxBulkBytes bounds the waiting large messages, which come by stream, and maxBulkOf the number from one peer.
	maxBulkBytes, maxBulkOf = 32 << 20, 8
	// bulkRate (per second) and bulkBurst (at once) bound the signature checks that one peer's streams may waste: on
	// its own frames, and on frames that bring nothing new. New frames of other origins are free, because only their
	// origins can make them.
	bulkRate, bulkBurst = 1000, 16 << 10
)

// bulkQueue holds the waiting large messages by sending peer; the peers take turns. Only messages that belong to a
// session are queued, so nobody takes another's place.
type bulkQueue struct {
	wake chan struct{} // capacity 1: something may be queued

	mu    sync.Mutex
	bytes int
	peers []*bulkPeer // those with something here; the first is next
}

// bulkPeer is what one peer has waiting.
type bulkPeer struct {
	id   frame.ID
	msgs [][]byte
	work *bulkWork // in progress, taken off msgs; used only by the core's goroutine
}

// put adds a message and reports whether there was room.
func (q *bulkQueue) put(from frame.ID, b []byte) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := slices.IndexFunc(q.peers, func(p *bulkPeer) bool { return p.id == from })
	if q.bytes+len(b) > maxBulkBytes || i >= 0 && len(q.peers[i].msgs) == maxBulkOf {
		return false
	}
	if i < 0 {
		i = len(q.peers)
		q.peers = append(q.peers, &bulkPeer{id: from})
	}
	q.peers[i].msgs = append(q.peers[i].msgs, b)
	q.bytes += len(b)
	wake(q.wake)
	return true
}

// next returns the peer whose turn it is, with its next message opened by open, and moves it behind the others. It
// returns nil if nothing waits. A message that open refuses is skipped.
func (q *bulkQueue) next(open func([]byte) *bulkWork) *bulkPeer {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.peers) > 0 {
		p := q.peers[0]
		q.peers = append(q.peers[1:], p)
		if p.work == nil && len(p.msgs) > 0 {
			b := p.msgs[0]
			p.msgs = p.msgs[1:]
			q.bytes -= len(b)
			p.work = open(b)
		}
		if p.work != nil {
			return p
		}
		if len(p.msgs) == 0 {
			q.peers = q.peers[:len(q.peers)-1]
		}
	}
	return nil
}

// len returns the number of waiting messages.
func (q *bulkQueue) len() (n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, p := range q.peers {
		n += len(p.msgs)
	}
	return n
}
