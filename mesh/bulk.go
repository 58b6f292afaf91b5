package mesh

import (
	"slices"
	"sync"
)

const (
	// maxBulkBytes bounds the large messages that wait, which come by stream, and maxBulkOf those of one peer.
	maxBulkBytes, maxBulkOf = 32 << 20, 8
	// bulkRate is how many signatures of what one peer streams are checked in vain a second, and bulkBurst at once: of frames
	// that are its own, or bring nothing. Frames of others that are news here are free: nobody but their origins can make them.
	bulkRate, bulkBurst = 1000, 16 << 10
)

// bulkQueue holds the large messages that wait, by the peers that sent them, who take turns. Only what belongs to a session
// is put in, so that nobody takes another's place.
type bulkQueue struct {
	wake chan struct{} // capacity 1: there may be something

	mu    sync.Mutex
	bytes int
	peers []*bulkPeer // that have something here; the first is next
}

// bulkPeer is what waits of one peer.
type bulkPeer struct {
	id   ID
	msgs [][]byte
	work *bulkWork // taken off msgs and begun; of the core's goroutine alone
}

// put adds a message and reports whether there was room.
func (q *bulkQueue) put(from ID, b []byte) bool {
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
	signal(q.wake)
	return true
}

// next gives the peer whose turn it is, with its next message begun by open, and moves it behind the others; nil: nothing
// waits. A message that open refuses is skipped.
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

// len is how many messages wait.
func (q *bulkQueue) len() (n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, p := range q.peers {
		n += len(p.msgs)
	}
	return n
}
