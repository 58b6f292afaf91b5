package mesh

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/wire"
	"github.com/meshban/meshban/mesh/pki"
)

const (
	// MaxNotice bounds a notice's payload, in bytes.
	MaxNotice = 256
	// A sender may send noticeBurst notices at once, then one per noticeEvery; more are dropped.
	noticeBurst, noticeEvery = 4, 30 * time.Second
	// maxNoticers bounds the senders whose rate is tracked; once that many are, notices of others are dropped.
	maxNoticers = MaxMembers
)

// errNotAlive: a member cannot be reached now.
var errNotAlive = errors.New("the member is not alive")

var (
	noticeForm = form{"notice", "meshban notice v1\x00", 512, 6, 1}
	pathForm   = form{"path message", "meshban path v1\x00", 512, 6, 1} // see udp.go; its fields are those of a notice
)

// notice is a message of one member to another, outside the frames: nobody else gets it, and nobody stores it.
type notice struct {
	signed
	To      frame.ID
	Issued  time.Time
	Payload []byte // at most MaxNotice bytes
}

func (n notice) encodeBody() []byte {
	b := wire.AppendBin(noticeForm.begin(n.signed), n.To[:])
	b = wire.AppendUint(b, uint64(n.Issued.UnixMilli()))
	b = wire.AppendBin(b, n.Payload)
	return wire.AppendBin(b, n.Key)
}

// encode signs a notice and puts its kind in front.
func (n notice) encode(id pki.Identity) []byte {
	return append([]byte{wire.KindNotice}, n.signedIn(noticeForm, id)...)
}

// signedIn encodes and signs a notice.
func (n notice) signedIn(f form, id pki.Identity) []byte {
	n.Key = id.Public()
	return f.sign(n.encodeBody(), id)
}

// decodeNotice decodes what encode wrote after the kind, strictly, without checking the signature.
func decodeNotice(b []byte) (n notice, err error) {
	r := noticeForm.open(b, &n.signed)
	r.Fixed(n.To[:])
	n.Issued = time.UnixMilli(int64(r.Most(wire.MaxMillis))).UTC()
	n.Payload = r.Bin(MaxNotice)
	return n, noticeForm.close(r, &n.signed)
}

// noticers limits the rate of each sender of notices, and rejects repeated ones.
type noticers struct {
	mu   sync.Mutex
	last map[frame.ID]*noticer
}

type noticer struct {
	rate   *rate.Limiter
	issued time.Time // of the last one
}

// expects reports whether a notice is newer than the sender's last one, and so worth verifying.
func (v *noticers) expects(from frame.ID, issued time.Time) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := v.last[from]
	return n == nil || issued.After(n.issued)
}

// accept records a verified notice, and reports whether it is within the limits.
func (v *noticers) accept(now time.Time, from frame.ID, issued time.Time) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := v.last[from]
	if n == nil {
		if len(v.last) >= maxNoticers {
			for id, n := range v.last {
				if now.Sub(n.issued) > 2*frame.FutureSkew { // a replay is too old by now
					delete(v.last, id)
				}
			}
		}
		if len(v.last) >= maxNoticers {
			return false
		}
		n = &noticer{rate: rate.NewLimiter(rate.Every(noticeEvery), noticeBurst)}
		v.last[from] = n
	}
	if !issued.After(n.issued) || !n.rate.AllowN(now, 1) {
		return false
	}
	n.issued = issued
	return true
}

// Notify sends one member a payload (at most MaxNotice bytes) in a packet that only that member accepts. nil does not
// mean that it arrived. An error means that the member cannot be reached now.
func (m *Mesh) Notify(to frame.ID, payload []byte) error {
	if len(payload) > MaxNotice {
		return fmt.Errorf("notice of %d bytes, want at most %d", len(payload), MaxNotice)
	}
	node := m.peers.node(to)
	if node == nil {
		return errNotAlive
	}
	n := notice{signed: signed{MeshID: m.cfg.Secrets.MeshID}, To: to, Issued: m.now(), Payload: payload}
	if !m.sendPacket(node, n.encode(m.cfg.Identity)) {
		return errNotAlive
	}
	return nil
}

// noticeMessage handles a notice to us. It drops and counts a notice that is not from a trusted member, not for us, too
// old, repeated, or beyond the rate.
func (m *Mesh) noticeMessage(b []byte) {
	now := m.now()
	n, err := decodeNotice(b)
	if err != nil || !m.heeds(now, n) {
		m.count.noticesRefused.Add(1)
		return
	}
	m.count.notices.Add(1)
	if m.cfg.Noticed != nil {
		m.cfg.Noticed(frame.IDOf(n.Key), n.Payload)
	}
}

// heeds makes the cheap checks before it verifies the signature, and charges the rate only if that is good.
func (m *Mesh) heeds(now time.Time, n notice) bool {
	from, age := frame.IDOf(n.Key), now.Sub(n.Issued)
	return n.MeshID == m.cfg.Secrets.MeshID && n.To == m.id && from != m.id && m.isMember(now, from) &&
		age <= frame.FutureSkew && age >= -frame.FutureSkew && m.noticers.expects(from, n.Issued) &&
		n.verify(noticeForm) && m.noticers.accept(now, from, n.Issued)
}

// isMember reports whether an origin is trusted and is a node.
func (m *Mesh) isMember(now time.Time, id frame.ID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.core.Trusts(now, id) && (m.core.Authority().IsZero() || id != m.core.Authority())
}
