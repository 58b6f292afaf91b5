package mesh

import (
	"context"
	"encoding/binary"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"golang.org/x/time/rate"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/replica"
	"github.com/meshban/meshban/mesh/internal/spread"
	"github.com/meshban/meshban/mesh/internal/wire"
)

// Pushes, pings, and the digests with them travel by UDP. If UDP, or only large UDP packets, are lost between two
// nodes, memberlist's ping by TCP keeps both alive, but no ban would get across. So a node that sees a sign of loss
// reports to the peer over a stream once a second: its digests, as the answer to a ping would, and when it last
// received UDP from the peer. Until both agree that UDP passes both ways, sync messages and pushes that would be lost
// go over streams as well.

const (
	// pathEvery is the time between two reports to a peer.
	pathEvery = time.Second
	// maxPaths bounds the peers that a node reports to because it saw signs of loss, and separately those that asked
	// for it.
	maxPaths = 4
	// pathFresh is how recent a probe must be to count as received, and pathSettle how long both sides must have sent
	// probes before missing ones count as loss.
	pathFresh, pathSettle = 2500 * time.Millisecond, 2500 * time.Millisecond
	// pathStale is how long a peer's report is valid, pathPatience how long a node waits for the first or next one.
	pathStale, pathPatience = 5 * time.Second, 30 * time.Second
	// A frame that comes by sync and is younger than pushMissed is a sign that its origin's push was lost.
	pushMissed = 10 * time.Second
	// Over streams, one peer gets at most pathPushes pushed frames up to wire.FreshSize at once, and as many larger ones,
	// then one per pathPushEvery. Sync brings the rest.
	pathPushes, pathPushEvery = 8, 100 * time.Millisecond
	// tcpRest is how long packets are used again after a stream to the peer failed.
	tcpRest = 10 * time.Second
	// maxTCPLost bounds the peers for which such a failure is remembered.
	maxTCPLost = 1024

	neverHeard = math.MaxUint32 // ms, in a report
	// pathReportLen is the length of a report after its part, in bytes.
	pathReportLen = 1 + 3*4 + ackLen
)

// udpWay is what is known of UDP packets in one direction between two nodes.
type udpWay uint8

// What is known of one direction.
const (
	udpOpen    udpWay = iota // no sign of loss
	udpUnknown               // a sign of loss, not confirmed by the other node
	udpSmall                 // large packets do not arrive
	udpNone                  // nothing arrives
)

// pathPart is the kind of a path message.
type pathPart uint8

const (
	pathIsReport     pathPart = iota // over a stream
	pathIsSmallProbe                 // by UDP
	pathIsLargeProbe                 // by UDP, wire.MaxPacket bytes long
	pathParts
)

// pathReport is what a node reports over a stream to a peer if UDP between the two seems lost.
type pathReport struct {
	want         bool          // the sender does not know yet that UDP passes both ways: answer
	small, large time.Duration // time since it received such a probe from the receiver; neverHeard: none
	watched      time.Duration // how long it has sent probes and listened
	ack          [ackLen]byte  // as in the answer to a ping
}

func (r pathReport) encode() []byte {
	b := []byte{byte(pathIsReport), byte(wire.Flag(r.want))}
	for _, d := range []time.Duration{r.small, r.large, r.watched} {
		b = binary.BigEndian.AppendUint32(b, uint32(min(max(d.Milliseconds(), 0), neverHeard)))
	}
	return append(b, r.ack[:]...)
}

// decodePathReport decodes what encode wrote after the part.
func decodePathReport(b []byte) (r pathReport, ok bool) {
	if len(b) != pathReportLen || b[0] > 1 {
		return r, false
	}
	r.want = b[0] == 1
	ms := func(at int) time.Duration {
		return time.Duration(binary.BigEndian.Uint32(b[at:])) * time.Millisecond
	}
	r.small, r.large, r.watched = ms(1), ms(5), ms(9)
	r.ack = [ackLen]byte(b[13:])
	return r, true
}

// udpPath is what is known of UDP between this node and a peer.
type udpPath struct {
	asked        bool // the peer asked for it
	since, next  time.Time
	small, large time.Time            // when such a probe was last received
	issued       [pathParts]time.Time // of the last message of each part: none is accepted twice
	theirs       pathReport
	theirsAt     time.Time
	fine         bool // the last report said that UDP passes both ways
	to, from     udpWay
	fresh, bulk  *rate.Limiter // of pushes
}

// judge returns what is known of UDP to and from the peer.
func (p *udpPath) judge(now time.Time) (to, from udpWay) {
	to, from = udpUnknown, udpUnknown
	stale := p.theirsAt.IsZero() || now.Sub(p.theirsAt) > pathStale
	settled := !stale && now.Sub(p.since) >= pathSettle && p.theirs.watched >= pathSettle
	if !stale {
		to = wayOf(p.theirs.small, p.theirs.large, settled)
	}
	return to, wayOf(now.Sub(p.small), now.Sub(p.large), settled)
}

// wayOf judges one direction by how long ago its probes were last heard.
func wayOf(small, large time.Duration, settled bool) udpWay {
	switch {
	case small < pathFresh && large < pathFresh:
		return udpOpen
	case !settled:
		return udpUnknown
	case small < pathFresh:
		return udpSmall
	}
	return udpNone
}

// udpPaths are the peers with which UDP seems lost.
type udpPaths struct {
	wake chan struct{} // capacity 1: there may be a report to send; pathLoop waits
	some atomic.Bool   // there are paths, or streams that failed

	mu      sync.Mutex
	of      map[frame.ID]*udpPath
	tcpLost map[frame.ID]time.Time // when a stream to a peer failed
	issued  time.Time              // time of this node's last message: it only increases, whatever the clock does
}

func newUDPPaths() *udpPaths {
	return &udpPaths{wake: make(chan struct{}, 1), of: make(map[frame.ID]*udpPath), tcpLost: make(map[frame.ID]time.Time)}
}

// suspect records a sign that packets to or from a peer are lost.
func (t *udpPaths) suspect(now time.Time, id frame.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.addLocked(now, id, false)
}

func (t *udpPaths) addLocked(now time.Time, id frame.ID, asked bool) *udpPath {
	if p := t.of[id]; p != nil {
		return p
	}
	if !t.roomLocked(asked) {
		return nil
	}
	pushes := func() *rate.Limiter { return rate.NewLimiter(rate.Every(pathPushEvery), pathPushes) }
	p := &udpPath{asked: asked, since: now, next: now, fresh: pushes(), bulk: pushes()}
	t.of[id] = p
	t.some.Store(true)
	wake(t.wake)
	return p
}

func (t *udpPaths) roomLocked(asked bool) bool {
	n := 0
	for _, p := range t.of {
		if p.asked == asked {
			n++
		}
	}
	return n < maxPaths
}

// expects reports whether a peer's message is worth verifying.
func (t *udpPaths) expects(now time.Time, from frame.ID, part pathPart, want bool, issued time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.of[from]
	if p == nil {
		return part == pathIsReport && want && t.roomLocked(true)
	}
	return issued.After(p.issued[part]) && (part != pathIsReport || now.Sub(p.theirsAt) >= pathEvery/2)
}

// probed records that a probe has arrived by UDP.
func (t *udpPaths) probed(now time.Time, from frame.ID, part pathPart, issued time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.of[from]
	if p == nil {
		return
	}
	p.issued[part] = issued
	if p.small = now; part == pathIsLargeProbe {
		p.large = now
	}
}

func (t *udpPaths) reported(now time.Time, from frame.ID, r pathReport, issued time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.addLocked(now, from, true); p != nil {
		p.issued[pathIsReport], p.theirs, p.theirsAt = issued, r, now
	}
}

// dueReport is a report that is due. changed: the state of UDP to or from the peer has changed.
type dueReport struct {
	id       frame.ID
	report   pathReport
	to, from udpWay
	changed  bool
}

// due returns the reports that are due, and when the next one will be; zero if there is none. It drops paths that are
// fine, and those whose peer is gone or does not answer.
func (t *udpPaths) due(now time.Time, there func(frame.ID) bool) (due []dueReport, next time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, p := range t.of {
		if p.next.After(now) {
			next = replica.Earlier(next, p.next)
			continue
		}
		to, from := p.judge(now)
		fine := to == udpOpen && from == udpOpen
		last := p.since
		if p.theirsAt.After(last) {
			last = p.theirsAt
		}
		d := dueReport{id: id, to: to, from: from}
		if to != udpUnknown && from != udpUnknown {
			d.changed = to != p.to || from != p.from
			p.to, p.from = to, from
		}
		if fine && p.fine || now.Sub(last) > pathPatience || !there(id) {
			delete(t.of, id)
			continue
		}
		p.fine, p.next = fine, now.Add(pathEvery)
		next = replica.Earlier(next, p.next)
		d.report = pathReport{want: !fine, small: heardBefore(now, p.small), large: heardBefore(now, p.large), watched: now.Sub(p.since)}
		due = append(due, d)
	}
	for id, at := range t.tcpLost {
		if now.Sub(at) > tcpRest {
			delete(t.tcpLost, id)
		}
	}
	t.some.Store(len(t.of)+len(t.tcpLost) > 0)
	slices.SortFunc(due, func(a, b dueReport) int { return slices.Compare(a.id[:], b.id[:]) })
	return due, next
}

func heardBefore(now, at time.Time) time.Duration {
	if at.IsZero() {
		return neverHeard * time.Millisecond
	}
	return now.Sub(at)
}

// stamp returns the time to put into this node's next message.
func (t *udpPaths) stamp(now time.Time) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now = now.Truncate(time.Millisecond).Round(0); !now.After(t.issued) {
		now = t.issued.Add(time.Millisecond)
	}
	t.issued = now
	return now
}

// route decides how a message of size bytes goes to a peer: as a packet, over a stream, or both. A push beyond the rate
// for streams goes neither way: sync brings it. While it is unknown whether UDP passes, a fresh push goes both ways, a
// larger push as a packet, and any other message over a stream.
func (t *udpPaths) route(now time.Time, id frame.ID, size int, push bool) (packet, stream bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.of[id]
	if p == nil || t.tcpFailedLocked(now, id) {
		return true, false
	}
	to, _ := p.judge(now)
	fresh := size <= wire.FreshSize
	switch {
	case to == udpOpen, to == udpSmall && fresh, to == udpUnknown && push && !fresh:
		return true, false
	case !push:
		return false, true
	case fresh:
		return to == udpUnknown, p.fresh.AllowN(now, 1)
	}
	return false, p.bulk.AllowN(now, 1)
}

// tcpFailed reports whether a stream to a peer failed recently.
func (t *udpPaths) tcpFailed(now time.Time, id frame.ID) bool {
	if !t.some.Load() {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.tcpFailedLocked(now, id)
}

func (t *udpPaths) tcpFailedLocked(now time.Time, id frame.ID) bool {
	at, ok := t.tcpLost[id]
	return ok && now.Sub(at) < tcpRest
}

// streamed records whether a stream to a peer could be opened.
func (t *udpPaths) streamed(now time.Time, id frame.ID, ok bool) {
	if ok && !t.some.Load() {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if ok {
		delete(t.tcpLost, id)
		return
	}
	if len(t.tcpLost) < maxTCPLost {
		t.tcpLost[id] = now
		t.some.Store(true)
	}
}

// ways returns what is known of UDP to and from a peer.
func (t *udpPaths) ways(now time.Time, id frame.ID) (to, from udpWay) {
	if !t.some.Load() {
		return udpOpen, udpOpen
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.of[id]
	if p == nil {
		return udpOpen, udpOpen
	}
	return p.judge(now)
}

// UDPTrouble returns which UDP packets are lost between this node and the member, which the text calls name; "" if no
// loss is known.
func (m Member) UDPTrouble(name string) string {
	lost := func(way udpWay) string {
		return map[udpWay]string{udpSmall: "large UDP packets ", udpNone: "UDP "}[way]
	}
	to, from := lost(m.udpTo), lost(m.udpFrom)
	verb, remedy := " does not arrive", "let UDP through between the two"
	if m.udpTo != udpNone && m.udpFrom != udpNone {
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
		m.paths.suspect(m.now(), id)
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
		case <-m.paths.wake:
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		due, next := m.paths.due(m.now(), func(id frame.ID) bool { return m.peers.node(id) != nil })
		for _, d := range due {
			m.reportPath(d)
		}
		if !next.IsZero() {
			timer.Reset(next.Sub(m.now()))
		}
	}
}

// reportPath sends a peer two probes by UDP and a report over a stream.
func (m *Mesh) reportPath(d dueReport) {
	node, ml := m.peers.node(d.id), m.ml.Load()
	if node == nil || ml == nil {
		return
	}
	if d.changed {
		member := Member{udpTo: d.to, udpFrom: d.from}
		if text := member.UDPTrouble(d.id.String()); text != "" {
			m.problems.report(m.now(), ProblemUDP, d.id.String(), text, "") // the text says what to do
		} else {
			m.cfg.Logger.Info("UDP passes both ways again", "id", d.id.Short())
		}
	}
	for _, part := range []pathPart{pathIsSmallProbe, pathIsLargeProbe} {
		probe := append([]byte{wire.KindPath}, m.pathMessageTo(d.id, []byte{byte(part)})...)
		if part == pathIsLargeProbe {
			probe = append(probe, make([]byte, wire.MaxPacket-len(probe))...)
		}
		_ = ml.SendBestEffort(node, probe) // a lost probe is simply not received
	}
	d.report.ack = [ackLen]byte(delegate{m}.AckPayload())
	m.streams.Put(spread.Message{To: d.id, Kind: wire.KindPath, Body: m.pathMessageTo(d.id, d.report.encode())}) // no room: the next report says the same
}

// pathMessageTo signs a path message to a peer.
func (m *Mesh) pathMessageTo(to frame.ID, payload []byte) []byte {
	n := notice{MeshID: m.cfg.Secrets.MeshID, To: to, Issued: m.paths.stamp(m.now()), Payload: payload}
	return wire.AppendPacked(nil, n.signed(pathDomain, m.cfg.Identity))
}

// pathMessage handles a probe or a report. A message that is not from a trusted member, not for us, or not expected is
// dropped and counted.
func (m *Mesh) pathMessage(b []byte) {
	now := m.now()
	n, part, report, ok := m.openPath(b)
	from := frame.IDOf(n.Key)
	if !ok || from == m.id || !m.isMember(now, from) || !m.paths.expects(now, from, part, report.want, n.Issued) || !n.verify(pathDomain) {
		m.count.noticesRefused.Add(1)
		return
	}
	if part != pathIsReport {
		m.paths.probed(now, from, part, n.Issued)
		return
	}
	node := m.peers.node(from)
	if node == nil {
		return
	}
	m.paths.reported(now, from, report, n.Issued)
	delegate{m}.answers(from, func(p *peer) { p.seen = now })
	a, _ := readAck(report.ack[:])
	m.apply(replica.RootEvent{Peer: from, Root: a.root, Clock: a.clock, Signed: m.signedBy(n.Key, a)})
	m.viewSeen(now, node, a.view)
}

// openPath decodes a path message strictly, without checking the signature.
func (m *Mesh) openPath(b []byte) (n notice, part pathPart, report pathReport, ok bool) {
	raw, padding, ok := wire.NextPacked(b, frame.MaxSize)
	if !ok {
		return n, 0, report, false
	}
	n, err := decodeNotice(raw)
	if err != nil || n.MeshID != m.cfg.Secrets.MeshID || n.To != m.id || len(n.Payload) == 0 {
		return n, 0, report, false
	}
	switch part = pathPart(n.Payload[0]); part {
	case pathIsReport:
		report, ok = decodePathReport(n.Payload[1:])
		ok = ok && len(padding) == 0
	case pathIsSmallProbe:
		ok = len(n.Payload) == 1 && len(padding) == 0
	case pathIsLargeProbe:
		ok = len(n.Payload) == 1 && 1+len(b) == wire.MaxPacket
	default:
		ok = false
	}
	return n, part, report, ok
}

// overStream sends a message over a stream if it could be lost as a packet, and reports whether no packet is needed.
func (m *Mesh) overStream(to *memberlist.Node, msg []byte) bool {
	if !m.paths.some.Load() {
		return false
	}
	id, err := frame.ParseID(to.Name)
	if err != nil {
		return false
	}
	frames := msg[0] == wire.KindPush || msg[0] == wire.KindTree
	packet, stream := m.paths.route(m.now(), id, len(msg), frames)
	sent := packet || stream
	if stream {
		sent = m.streams.Put(spread.Message{To: id, Kind: msg[0], Body: slices.Clone(msg[1:])})
	}
	if !sent && frames { // anything else is said again
		m.count.dropped.Add(1)
	}
	return !packet
}
