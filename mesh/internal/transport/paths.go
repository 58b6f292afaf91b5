package transport

import (
	"encoding/binary"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/wire"
	"golang.org/x/time/rate"
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
	// Over streams, one peer gets at most pathPushes pushed frames up to wire.FreshSize at once, and as many larger ones,
	// then one per pathPushEvery. Sync brings the rest.
	pathPushes, pathPushEvery = 8, 100 * time.Millisecond
	// tcpRest is how long packets are used again after a stream to the peer failed.
	tcpRest = 10 * time.Second
	// maxTCPLost bounds the peers for which such a failure is remembered.
	maxTCPLost = 1024

	neverHeard = math.MaxUint32 // ms, in a report
	// reportLen is the length of a report after its part and without its answer, in bytes.
	reportLen = 1 + 3*4
)

// UDPWay is what is known of UDP packets in one direction between two nodes.
type UDPWay uint8

// What is known of one direction.
const (
	UDPOpen    UDPWay = iota // no sign of loss
	UDPUnknown               // a sign of loss, not confirmed by the other node
	UDPSmall                 // large packets do not arrive
	UDPNone                  // nothing arrives
)

// Part is the kind of a path message.
type Part uint8

const (
	IsReport     Part = iota // over a stream
	IsSmallProbe             // by UDP
	IsLargeProbe             // by UDP, wire.MaxPacket bytes long
	parts
)

// Report is what a node reports over a stream to a peer if UDP between the two seems lost.
type Report struct {
	Want         bool          // the sender does not know yet that UDP passes both ways: answer
	Small, Large time.Duration // time since it received such a probe from the receiver; neverHeard: none
	Watched      time.Duration // how long it has sent probes and listened
	Answer       []byte        // as to a ping
}

// Encode returns the payload of a message.
func (r Report) Encode() []byte {
	b := []byte{byte(IsReport), byte(wire.Flag(r.Want))}
	for _, d := range []time.Duration{r.Small, r.Large, r.Watched} {
		b = binary.BigEndian.AppendUint32(b, uint32(min(max(d.Milliseconds(), 0), neverHeard)))
	}
	return append(b, r.Answer...)
}

// DecodeReport decodes what Encode wrote after the part. It does not check the answer.
func DecodeReport(b []byte) (r Report, ok bool) {
	if len(b) < reportLen || b[0] > 1 {
		return r, false
	}
	r.Want = b[0] == 1
	ms := func(at int) time.Duration {
		return time.Duration(binary.BigEndian.Uint32(b[at:])) * time.Millisecond
	}
	r.Small, r.Large, r.Watched = ms(1), ms(5), ms(9)
	r.Answer = b[reportLen:]
	return r, true
}

// path is what is known of UDP between this node and a peer.
type path struct {
	asked        bool // the peer asked for it
	since, next  time.Time
	small, large time.Time        // when such a probe was last received
	issued       [parts]time.Time // of the last message of each part: none is accepted twice
	theirs       Report
	theirsAt     time.Time
	fine         bool // the last report said that UDP passes both ways
	to, from     UDPWay
	fresh, bulk  *rate.Limiter // of pushes
}

// judge returns what is known of UDP to and from the peer.
func (p *path) judge(now time.Time) (to, from UDPWay) {
	to, from = UDPUnknown, UDPUnknown
	stale := p.theirsAt.IsZero() || now.Sub(p.theirsAt) > pathStale
	settled := !stale && now.Sub(p.since) >= pathSettle && p.theirs.Watched >= pathSettle
	if !stale {
		to = wayOf(p.theirs.Small, p.theirs.Large, settled)
	}
	return to, wayOf(now.Sub(p.small), now.Sub(p.large), settled)
}

// wayOf judges one direction by how long ago its probes were last heard.
func wayOf(small, large time.Duration, settled bool) UDPWay {
	switch {
	case small < pathFresh && large < pathFresh:
		return UDPOpen
	case !settled:
		return UDPUnknown
	case small < pathFresh:
		return UDPSmall
	}
	return UDPNone
}

// Paths are the peers with which UDP seems lost. Their methods may be called from any goroutine.
type Paths struct {
	Wake chan struct{} // capacity 1: there may be a report to send; the caller of Due waits
	some atomic.Bool   // there are paths, or streams that failed

	mu      sync.Mutex
	of      map[frame.ID]*path
	tcpLost map[frame.ID]time.Time // when a stream to a peer failed
	issued  time.Time              // time of this node's last message: it only increases, whatever the clock does
}

// NewPaths returns a state without signs of loss.
func NewPaths() *Paths {
	return &Paths{Wake: make(chan struct{}, 1), of: make(map[frame.ID]*path), tcpLost: make(map[frame.ID]time.Time)}
}

// Suspect records a sign that packets to or from a peer are lost.
func (t *Paths) Suspect(now time.Time, id frame.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.addLocked(now, id, false)
}

func (t *Paths) addLocked(now time.Time, id frame.ID, asked bool) *path {
	if p := t.of[id]; p != nil {
		return p
	}
	if !t.roomLocked(asked) {
		return nil
	}
	pushes := func() *rate.Limiter { return rate.NewLimiter(rate.Every(pathPushEvery), pathPushes) }
	p := &path{asked: asked, since: now, next: now, fresh: pushes(), bulk: pushes()}
	t.of[id] = p
	t.some.Store(true)
	select {
	case t.Wake <- struct{}{}:
	default:
	}
	return p
}

func (t *Paths) roomLocked(asked bool) bool {
	n := 0
	for _, p := range t.of {
		if p.asked == asked {
			n++
		}
	}
	return n < maxPaths
}

// Expects reports whether a peer's message is worth verifying.
func (t *Paths) Expects(now time.Time, from frame.ID, part Part, want bool, issued time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.of[from]
	if p == nil {
		return part == IsReport && want && t.roomLocked(true)
	}
	return issued.After(p.issued[part]) && (part != IsReport || now.Sub(p.theirsAt) >= pathEvery/2)
}

// Probed records that a probe has arrived by UDP.
func (t *Paths) Probed(now time.Time, from frame.ID, part Part, issued time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.of[from]
	if p == nil {
		return
	}
	p.issued[part] = issued
	if p.small = now; part == IsLargeProbe {
		p.large = now
	}
}

// Reported records a peer's report.
func (t *Paths) Reported(now time.Time, from frame.ID, r Report, issued time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.addLocked(now, from, true); p != nil {
		p.issued[IsReport], p.theirs, p.theirsAt = issued, r, now
	}
}

// DueReport is a report that is due. Changed: the state of UDP to or from the peer has changed.
type DueReport struct {
	ID       frame.ID
	Report   Report
	To, From UDPWay
	Changed  bool
}

// Due returns the reports that are due, and when the next one will be; zero if there is none. It drops paths that are
// fine, and those whose peer is gone or does not answer.
func (t *Paths) Due(now time.Time, there func(frame.ID) bool) (due []DueReport, next time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, p := range t.of {
		if p.next.After(now) {
			next = earlier(next, p.next)
			continue
		}
		to, from := p.judge(now)
		fine := to == UDPOpen && from == UDPOpen
		last := p.since
		if p.theirsAt.After(last) {
			last = p.theirsAt
		}
		d := DueReport{ID: id, To: to, From: from}
		if to != UDPUnknown && from != UDPUnknown {
			d.Changed = to != p.to || from != p.from
			p.to, p.from = to, from
		}
		if fine && p.fine || now.Sub(last) > pathPatience || !there(id) {
			delete(t.of, id)
			continue
		}
		p.fine, p.next = fine, now.Add(pathEvery)
		next = earlier(next, p.next)
		d.Report = Report{Want: !fine, Small: heardBefore(now, p.small), Large: heardBefore(now, p.large), Watched: now.Sub(p.since)}
		due = append(due, d)
	}
	for id, at := range t.tcpLost {
		if now.Sub(at) > tcpRest {
			delete(t.tcpLost, id)
		}
	}
	t.some.Store(len(t.of)+len(t.tcpLost) > 0)
	slices.SortFunc(due, func(a, b DueReport) int { return slices.Compare(a.ID[:], b.ID[:]) })
	return due, next
}

func heardBefore(now, at time.Time) time.Duration {
	if at.IsZero() {
		return neverHeard * time.Millisecond
	}
	return now.Sub(at)
}

// Stamp returns the time to put into this node's next message.
func (t *Paths) Stamp(now time.Time) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now = now.Truncate(time.Millisecond).Round(0); !now.After(t.issued) {
		now = t.issued.Add(time.Millisecond)
	}
	t.issued = now
	return now
}

// Route decides how a message of size bytes goes to a peer: as a packet, over a stream, or both. A push beyond the rate
// for streams goes neither way: sync brings it. While it is unknown whether UDP passes, a fresh push goes both ways, a
// larger push as a packet, and any other message over a stream.
func (t *Paths) Route(now time.Time, id frame.ID, size int, push bool) (packet, stream bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.of[id]
	if p == nil || t.tcpFailedLocked(now, id) {
		return true, false
	}
	to, _ := p.judge(now)
	fresh := size <= wire.FreshSize
	switch {
	case to == UDPOpen, to == UDPSmall && fresh, to == UDPUnknown && push && !fresh:
		return true, false
	case !push:
		return false, true
	case fresh:
		return to == UDPUnknown, p.fresh.AllowN(now, 1)
	}
	return false, p.bulk.AllowN(now, 1)
}

// TCPFailed reports whether a stream to a peer failed recently.
func (t *Paths) TCPFailed(now time.Time, id frame.ID) bool {
	if !t.some.Load() {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.tcpFailedLocked(now, id)
}

func (t *Paths) tcpFailedLocked(now time.Time, id frame.ID) bool {
	at, ok := t.tcpLost[id]
	return ok && now.Sub(at) < tcpRest
}

// Streamed records whether a stream to a peer could be opened.
func (t *Paths) Streamed(now time.Time, id frame.ID, ok bool) {
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

// Ways returns what is known of UDP to and from a peer.
func (t *Paths) Ways(now time.Time, id frame.ID) (to, from UDPWay) {
	if !t.some.Load() {
		return UDPOpen, UDPOpen
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.of[id]
	if p == nil {
		return UDPOpen, UDPOpen
	}
	return p.judge(now)
}

// Some reports whether there are paths, or streams that failed.
func (t *Paths) Some() bool { return t.some.Load() }

// Unanswered returns the peers that have not answered this node's reports for at least quiet.
func (t *Paths) Unanswered(now time.Time, quiet time.Duration) (ids []frame.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, p := range t.of {
		if !p.asked && now.Sub(p.since) >= quiet && now.Sub(p.theirsAt) >= quiet {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b frame.ID) int { return slices.Compare(a[:], b[:]) })
	return ids
}

// earlier returns the earlier of two times, of which the first may be zero.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}
