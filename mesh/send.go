package mesh

import (
	"github.com/hashicorp/memberlist"
	"github.com/meshban/meshban/mesh/internal/replica"
	"github.com/meshban/meshban/mesh/internal/spread"
	"github.com/meshban/meshban/mesh/internal/wire"
)

// sendSync sends a message for the core: in a packet if it is small, otherwise over a stream, because a path may lose
// every large packet. If streams fail, messages that fit go in packets. Only the core's goroutine calls it.
func (m *Mesh) sendSync(out replica.Outgoing) {
	n := m.peers.node(out.To)
	if n == nil {
		return // it left meanwhile
	}
	size := 1 + len(out.Msg)
	if size <= wire.FreshSize || size <= wire.MaxPacket && m.paths.TCPFailed(m.now(), out.To) {
		m.pusher.Send(n, append([]byte{out.Kind}, out.Msg...))
		return
	}
	if !m.streams.Put(spread.Message{To: out.To, Session: out.Session, Kind: out.Kind, Body: out.Msg}) {
		m.count.dropped.Add(1)
		m.tell(replica.SendFailedEvent{Peer: out.To, Session: out.Session})
	}
}

func (m *Mesh) sendStream(out spread.Message) bool {
	n := m.peers.node(out.To)
	ml := m.ml.Load()
	if n == nil || ml == nil {
		return false
	}
	msg := append([]byte{out.Kind}, out.Body...)
	err := ml.SendReliable(n, msg)
	if m.paths.Streamed(m.now(), out.To, err == nil); err != nil {
		m.peers.unheard(out.To)
	}
	if err != nil && len(msg) <= wire.MaxPacket && out.Kind != wire.KindPath {
		err = ml.SendBestEffort(n, msg)
	}
	if err != nil {
		m.count.SendErrors.Add(1)
	}
	return err == nil
}

// sendPacket reports whether the packet could be sent.
func (m *Mesh) sendPacket(to *memberlist.Node, msg []byte) bool {
	ml := m.ml.Load()
	if ml != nil && (m.overStream(to, msg) || ml.SendBestEffort(to, msg) == nil) {
		return true
	}
	m.count.SendErrors.Add(1)
	return false
}
