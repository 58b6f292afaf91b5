package mesh

import (
	"context"
	"slices"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/replica"
	"github.com/meshban/meshban/mesh/internal/spread"
	"github.com/meshban/meshban/mesh/internal/transport"
	"github.com/meshban/meshban/mesh/internal/wire"
)

// pushMissed is the age below which a frame that comes by sync is a sign that its origin's push was lost.
const pushMissed = 10 * time.Second

// UDPTrouble returns which UDP packets are lost between this node and the member, which the text calls name; "" if no
// loss is known.
func (m Member) UDPTrouble(name string) string {
	lost := func(way transport.UDPWay) string {
		return map[transport.UDPWay]string{transport.UDPSmall: "large UDP packets ", transport.UDPNone: "UDP "}[way]
	}
	to, from := lost(m.udpTo), lost(m.udpFrom)
	verb, remedy := " does not arrive", "let UDP through between the two"
	if m.udpTo != transport.UDPNone && m.udpFrom != transport.UDPNone {
		verb, remedy = " do not arrive", "check the MTU between the two"
	}
	remedy = verb + "; bans go over TCP; " + remedy
	switch {
	case to == "" && from == "":
		return ""
	case to == from:
		return to + "to and from " + name + remedy
	case from == "":
		return to + "to " + name + remedy
	case to == "":
		return from + "from " + name + remedy
	}
	return to + "to " + name + " and " + from + "from it" + remedy
}

// lossSeen records a sign that packets to or from a peer are lost. It does not block.
func (m *Mesh) lossSeen(id frame.ID) {
	if id != m.id && m.trusted(id) && m.peers.node(id) != nil {
		m.paths.Suspect(m.now(), id)
	}
}

// missedPushes searches frames that came by sync for young ones that their origins should have pushed to this node.
func (m *Mesh) missedPushes(frames []frame.Frame) {
	if len(m.peers.receivers()) > spread.MaxDirect {
		return
	}
	var last frame.ID
	now := m.now()
	for _, f := range frames {
		if f.Origin == last || now.Sub(f.Issued) > pushMissed {
			continue
		}
		last = f.Origin
		if since := m.peers.aliveSince(f.Origin); !since.IsZero() && since.Before(f.Issued) {
			m.lossSeen(f.Origin)
		}
	}
}

// pathLoop reports to the peers with which UDP seems lost.
func (m *Mesh) pathLoop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-m.paths.Wake:
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		due, next := m.paths.Due(m.now(), func(id frame.ID) bool { return m.peers.node(id) != nil })
		for _, d := range due {
			m.reportPath(d)
		}
		if !next.IsZero() {
			timer.Reset(next.Sub(m.now()))
		}
	}
}

// reportPath sends a peer two probes by UDP and a report over a stream.
func (m *Mesh) reportPath(d transport.DueReport) {
	node, ml := m.peers.node(d.ID), m.ml.Load()
	if node == nil || ml == nil {
		return
	}
	if d.Changed {
		member := Member{udpTo: d.To, udpFrom: d.From}
		if text := member.UDPTrouble(d.ID.String()); text != "" {
			m.problems.report(m.now(), ProblemUDP, d.ID.String(), text, "") // the text says what to do
		} else {
			m.cfg.Logger.Info("UDP passes both ways again", "id", d.ID.Short())
		}
	}
	for _, part := range []transport.Part{transport.IsSmallProbe, transport.IsLargeProbe} {
		probe := append([]byte{wire.KindPath}, m.pathMessageTo(d.ID, []byte{byte(part)})...)
		if part == transport.IsLargeProbe {
			probe = append(probe, make([]byte, wire.MaxPacket-len(probe))...)
		}
		_ = ml.SendBestEffort(node, probe) // a lost probe is simply not received
	}
	d.Report.Answer = delegate{m}.AckPayload()
	m.streams.Put(spread.Message{To: d.ID, Kind: wire.KindPath, Body: m.pathMessageTo(d.ID, d.Report.Encode())}) // no room: the next report says the same
}

// pathMessageTo signs a path message to a peer.
func (m *Mesh) pathMessageTo(to frame.ID, payload []byte) []byte {
	n := notice{signed: signed{MeshID: m.cfg.Secrets.MeshID}, To: to, Issued: m.paths.Stamp(m.now()), Payload: payload}
	return wire.AppendPacked(nil, n.signedIn(pathForm, m.cfg.Identity))
}

// pathMessage handles a probe or a report. A message that is not from a trusted member, not for us, or not expected is
// dropped and counted.
func (m *Mesh) pathMessage(b []byte) {
	now := m.now()
	n, part, report, ok := m.openPath(b)
	from := frame.IDOf(n.Key)
	if !ok || from == m.id || !m.isMember(now, from) || !m.paths.Expects(now, from, part, report.Want, n.Issued) || !n.verify(pathForm) {
		m.count.noticesRefused.Add(1)
		return
	}
	if part != transport.IsReport {
		m.paths.Probed(now, from, part, n.Issued)
		return
	}
	node := m.peers.node(from)
	if node == nil {
		return
	}
	m.paths.Reported(now, from, report, n.Issued)
	delegate{m}.answers(from, func(p *peer) { p.seen = now })
	a, _ := readAck(report.Answer)
	m.apply(replica.RootEvent{Peer: from, Root: a.root, Clock: a.clock, Signed: m.signedBy(n.Key, a)})
	m.viewSeen(now, nodeAddr(node), a.view)
}

// openPath decodes a path message strictly, without checking the signature.
func (m *Mesh) openPath(b []byte) (n notice, part transport.Part, report transport.Report, ok bool) {
	raw, padding, ok := wire.NextPacked(b, frame.MaxSize)
	if !ok {
		return n, 0, report, false
	}
	n, err := decodeNotice(raw)
	if err != nil || n.MeshID != m.cfg.Secrets.MeshID || n.To != m.id || len(n.Payload) == 0 {
		return n, 0, report, false
	}
	switch part = transport.Part(n.Payload[0]); part {
	case transport.IsReport:
		report, ok = transport.DecodeReport(n.Payload[1:])
		ok = ok && len(report.Answer) == ackLen && len(padding) == 0
	case transport.IsSmallProbe:
		ok = len(n.Payload) == 1 && len(padding) == 0
	case transport.IsLargeProbe:
		ok = len(n.Payload) == 1 && 1+len(b) == wire.MaxPacket
	default:
		ok = false
	}
	return n, part, report, ok
}

// overStream sends a message over a stream if it could be lost as a packet, and reports whether no packet is needed.
func (m *Mesh) overStream(to *memberlist.Node, msg []byte) bool {
	if !m.paths.Some() {
		return false
	}
	id, err := frame.ParseID(to.Name)
	if err != nil {
		return false
	}
	frames := msg[0] == wire.KindPush || msg[0] == wire.KindTree
	packet, stream := m.paths.Route(m.now(), id, len(msg), frames)
	sent := packet || stream
	if stream {
		sent = m.streams.Put(spread.Message{To: id, Kind: msg[0], Body: slices.Clone(msg[1:])})
	}
	if !sent && frames { // anything else is said again
		m.count.dropped.Add(1)
	}
	return !packet
}
