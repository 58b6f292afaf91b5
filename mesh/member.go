package mesh

import (
	"net/netip"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/transport"
)

// State is the state of a member as this node sees it.
type State uint8

// The states of a member.
const (
	StateAlive   State = iota
	StateSuspect       // did not answer our last probe, or is said to be back and has not answered yet
	StateDead          // answered nobody for long enough
	StateLeft          // said goodbye
)

// String returns alive, suspect, dead or left.
func (s State) String() string {
	switch s {
	case StateAlive:
		return "alive"
	case StateSuspect:
		return "suspect"
	case StateDead:
		return "dead"
	case StateLeft:
		return "left"
	}
	return "unknown"
}

// Member is one node of the mesh as this node sees it.
type Member struct {
	Name  string // for people; not unique
	ID    frame.ID
	Addr  netip.AddrPort
	State State
	Self  bool
	// InSync says that the last comparison, which is recent for a mesh of this size, found that the member held what
	// this node held then or a few seconds before. Confirmed is when a comparison last found that; zero: none has.
	InSync    bool
	Confirmed time.Time
	RTT       time.Duration // of the last ping; 0: not known yet
	Version   string
	Since     time.Time // when State began
	// udpTo and udpFrom tell whether UDP packets pass to the member and from it.
	udpTo, udpFrom transport.UDPWay
	// KeyGeneration is that of the newest gossip key that the member says it can read; valid if KeyKnown.
	KeyKnown      bool
	KeyGeneration uint32
}

// The kinds of member events.
const (
	memberJoin   = "join"
	memberLeave  = "leave"
	memberFail   = "fail"
	memberUpdate = "update"
)

// MemberEvent is a change of a member.
type MemberEvent struct {
	Kind   string // "join", "leave", "fail" or "update"
	Member Member // as it is after the event
}

// Peer is what is stored about a member for the next start.
type Peer struct {
	ID   frame.ID
	Name string
	Addr netip.AddrPort
	Seen time.Time // last known alive
	// Proved are the addresses where it has answered, at most four.
	Proved []AddrProof
	// Forgotten is when ForgottenBy said that it is gone for good; see Mesh.Forget.
	Forgotten     time.Time `json:",omitzero"`
	ForgottenBy   frame.ID  `json:",omitzero"`
	ForgottenSure bool      `json:",omitempty"`
}

func (p Peer) forgotten() forgotten {
	return forgotten{By: p.ForgottenBy, Said: p.Forgotten, Sure: p.ForgottenSure, kept: true}
}

// Stats counts since New. Every count only grows, except Held, AwaitingCert, Queued and Slowed.
type Stats struct {
	Held         int               // live frames
	AwaitingCert int               // frames waiting for the certificate of their origin
	Waited       uint64            // of Received: had to wait for that
	Queued       int               // frames and messages waiting to be processed
	Published    uint64            // own frames
	Sent         uint64            // frames pushed, counted once per receiver
	Forwarded    uint64            // of Sent: frames of others, relayed along trees or passed on
	Received     uint64            // frames that arrived, by any way
	Delivered    uint64            // of Received: new, verified and live
	Duplicates   uint64            // of Received: already held
	Refused      map[string]uint64 // of Received, by reason: "format", "signature", "mesh", "trust" (no valid certificate), "revoked", "expired", "future", "full"; and "unasked": sync messages of no session
	Dropped      uint64            // messages lost because a queue was full
	SendErrors   uint64            // packets that the system refused to send
	Syncs        uint64            // sync sessions that exchanged vectors
	Synced       uint64            // of Delivered: came by a sync
	SyncFrames   uint64            // frames streamed to others by sync
	Problems     uint64            // reports to OnProblem, muted ones included
	Strangers    uint64            // packets and streams from senders without the mesh's key
	Limited      uint64            // packets and streams dropped because their source exceeded its limit
	Slowed       int               // origins whose rate is reduced now, see Mesh.Slow

	Notices        uint64 // given to Noticed
	NoticesRefused uint64 // not from a trusted member, not for this node, too old, repeated, or too many
}
