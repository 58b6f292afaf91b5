package mesh

import (
	"net/netip"
	"time"
)

// State is what we know of a member.
type State uint8

// The states of a member.
const (
	StateAlive   State = iota
	StateSuspect       // did not answer our last probe
	StateDead          // did not answer anyone for long enough
	StateLeft          // said goodbye
)

// String gives alive, suspect, dead or left.
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
	ID    ID
	Addr  netip.AddrPort
	State State
	Self  bool
	// InSync: at the last comparison it held what this node held then or a few seconds before, and that was not long ago for a
	// mesh of this size. Confirmed is when a comparison last said so; zero: none has.
	InSync    bool
	Confirmed time.Time
	RTT       time.Duration // of the last ping; 0: not known yet
	Version   string
	Since     time.Time // when State began
	// UDPTo and UDPFrom are what is known of UDP packets to it and from it.
	UDPTo, UDPFrom UDPWay
	// KeyGeneration is that of the newest gossip key that it says it can read, if it says so (KeyKnown).
	KeyKnown      bool
	KeyGeneration uint32
}

// MemberEventKind says what happened to a member.
type MemberEventKind uint8

// The kinds of member events.
const (
	MemberJoin MemberEventKind = iota
	MemberLeave
	MemberFail
	MemberUpdate
)

// String gives join, leave, fail or update.
func (k MemberEventKind) String() string {
	switch k {
	case MemberJoin:
		return "join"
	case MemberLeave:
		return "leave"
	case MemberFail:
		return "fail"
	case MemberUpdate:
		return "update"
	}
	return "unknown"
}

// MemberEvent tells that a member changed.
type MemberEvent struct {
	Kind   MemberEventKind
	Member Member // as it is after the event
}

// Peer is what is worth remembering of a member over a restart.
type Peer struct {
	ID   ID
	Name string
	Addr netip.AddrPort
	Seen time.Time // last known alive
	// Proved are the addresses at which it has answered, at most four.
	Proved []AddrProof
	// Forgotten is when ForgottenBy said that it is gone for good; see Mesh.Forget.
	Forgotten     time.Time `json:",omitzero"`
	ForgottenBy   ID        `json:",omitzero"`
	ForgottenSure bool      `json:",omitempty"`
}

func (p Peer) forgotten() forgotten {
	return forgotten{By: p.ForgottenBy, Said: p.Forgotten, Sure: p.ForgottenSure, kept: true}
}

// Stats counts since New. Every count only grows, but for Held and Queued.
type Stats struct {
	Held       int               // live frames
	Parked     int               // frames that wait for the certificate of their origin
	Waited     uint64            // of Received: had to wait for that
	Queued     int               // frames and messages that wait to be looked at
	Published  uint64            // own frames
	Sent       uint64            // frames pushed, counted once per receiver
	Forwarded  uint64            // of Sent: frames of others, relayed along trees or passed on
	Received   uint64            // frames that arrived, any way
	Delivered  uint64            // of Received: new, verified and live
	Duplicates uint64            // of Received: held already
	Refused    map[string]uint64 // of Received, by reason: "format", "signature", "mesh", "trust" (no valid certificate), "revoked", "expired", "future", "full"
	Dropped    uint64            // messages lost because a queue was full
	SendErrors uint64            // packets that the system refused to send
	Syncs      uint64            // sync sessions that exchanged vectors
	Synced     uint64            // of Delivered: came by a sync
	SyncFrames uint64            // frames that we streamed to others by sync
	Problems   uint64            // reports to OnProblem, muted ones included
	Strangers  uint64            // packets and streams that no holder of the mesh's key sent
	Limited    uint64            // packets and streams dropped because their source takes more than its share
	Slowed     int               // origins that may say less than others now, see Mesh.Slow

	Notices        uint64 // given to Noticed
	NoticesRefused uint64 // of no member that counts, for others, old, heard before, or too many
}
