package mesh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/netip"

	"github.com/hashicorp/memberlist"
	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/filter"
	"github.com/meshban/meshban/mesh/internal/meta"
	"github.com/meshban/meshban/mesh/internal/replica"
	"github.com/meshban/meshban/mesh/internal/wire"
	"github.com/meshban/meshban/mesh/pki"
)

const (
	// maxJoin bounds the join list.
	maxJoin = 1024
	// maxPeers bounds the peers remembered across a restart.
	maxPeers = 2048
	// MaxMembers bounds the members that a node keeps track of.
	MaxMembers = wire.MaxMembers
	// SayRate and SayBurst bound the small frames that an agent sends, see pace.go of package filter.
	SayRate, SayBurst = filter.SayRate, filter.SayBurst
	// SayBulkRate bounds the bans that an agent sends in full frames in a second, SayBulkBurst those that it sends at
	// once. A peer needs 6 us of a core for each: a bulk takes a seventh of a core there, and does not delay a fresh
	// ban.
	SayBulkRate, SayBulkBurst = 22_500, 5_000
	// SyncVersion is the version of the sync protocol, which every sync message states.
	SyncVersion = replica.SyncVersion
)

// Config configures a Mesh and names the functions that it calls. Functions may be nil. Unless noted otherwise, each is
// called from one goroutine, with no lock held. It must not block for long; it may call back into the Mesh.
type Config struct {
	Identity  pki.Identity
	Secrets   pki.Secrets
	Name      string // for people; at most pki.MaxName bytes of printable text
	Version   string // of the program; at most 32 bytes of printable text
	Bind      netip.AddrPort
	Advertise netip.AddrPort // zero: the bound address, or one of this machine's, see pickAddr; port 0: the bound port
	Join      []string       // HOST[:PORT], resolved at each try; the port defaults to Bind's

	// Epoch must be higher than at any earlier start, at least 1, and already on disk.
	Epoch uint64
	// RollEpoch stores and returns an epoch higher than atLeast and any earlier one. It is called when frames appear in
	// our name that this run did not publish.
	RollEpoch func(atLeast uint64) (uint64, error)

	// Authority is the key behind Secrets.Authority, if this node has it; else zero.
	Authority pki.Authority
	// Certificate is the one that this node got when it enrolled; zero: none, or it is in the store.
	Certificate pki.Certificate
	Logger      *slog.Logger // nil: silent

	// Deliver gets verified, live frames that this run did not publish, each once, in order of arrival: those of other
	// origins, our own from earlier runs that the store had lost, and those of PublishAsAuthority on other nodes.
	Deliver func(frames []frame.Frame)
	// Replaced gets frames that were replaced by others of the same Ref (see Problem "equivocation"), before Deliver gets
	// the new ones: what the old ones said is void. Retold is called afterwards, at most every few seconds, with all live
	// frames of their origins, because a void frame may have superseded what these say. The goroutine that calls Deliver
	// calls both.
	Replaced func(frames []frame.Frame)
	Retold   func(live iter.Seq[frame.Frame])
	// Admitted gets every newly held frame, our own included, for the store. A later frame of the same Ref replaces the
	// earlier one. Frames given to Restore are not repeated.
	Admitted func(frames []frame.Frame)
	// Expired gets the names of frames that are no longer held, so that the store can drop them.
	Expired func(refs []frame.Ref)
	// Withdrawn gets origins that are no longer trusted, after the frames that arrived with that news and before any
	// later one: whatever those origins said is void. Their frames are given to Expired. Readmitted gets origins that
	// are trusted from now on; their frames come through Deliver. The goroutine that calls Deliver calls both.
	Withdrawn, Readmitted func(origins []frame.ID)
	// Rewound is called after the wall clock was set back by more than a second, by the goroutine that calls Deliver,
	// once a peer holds the same frames. By then, frames that the old clock had ended have come through Deliver. Other
	// frames may contain operations that had ended and are live again, so live yields all held frames, by origin, epoch
	// and number. A node without peers gets no call, because the frames that lifted a ban may be gone. Rewound is also
	// called when restored frames start to count that were from the future by the earlier clock, or whose origin's
	// certificate was.
	Rewound func(live iter.Seq[frame.Frame])

	// Early gets frames that were refused as from the future although their origin is trusted, so that people can be
	// told. It may get a frame more than once. Per origin it gets at most earlyTold a second, after a burst of ten times
	// that. The goroutine that calls Deliver calls it.
	Early func(f frame.Frame)

	// Noticed gets a payload that another trusted member sent to this node with Notify: at most MaxNotice bytes, which
	// may be kept. The goroutine that calls Deliver calls it.
	Noticed func(from frame.ID, payload []byte)

	// Answer answers a question that another trusted member asks with Query, before ctx ends and in at most MaxAnswer
	// bytes. Several goroutines call it at a time. If it is nil or fails, the member gets no answer.
	Answer func(ctx context.Context, from frame.ID, question []byte) ([]byte, error)

	Peers        []Peer             // remembered from earlier runs; only the first 2048 are used
	PeersChanged func(peers []Peer) // the whole list to remember, at most every few seconds
	KnownChanged func()             // the addresses that Known returns have changed
	OnMember     func(MemberEvent)
	OnProblem    func(kind Problem, detail string)

	// SaveSecrets stores secrets with changed gossip keys. They must be on disk when it returns; keys that cannot be
	// stored are not used. nil: new keys are lost when Run ends. OnKey is told each stage of a rotation, after it is
	// stored.
	SaveSecrets func(s pki.Secrets) error
	OnKey       func(KeyEvent)

	// LoadInvites and SaveInvites keep open invitations across a restart; nil: they are lost when Run ends.
	LoadInvites func() ([]byte, error)
	SaveInvites func(b []byte) error

	// Lookup resolves a host name on the join list; nil: the system's resolver.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	// newTransport replaces the sockets; for tests.
	newTransport func() (memberlist.Transport, error)
}

// Problem is a kind of trouble that a person should hear about. Each kind and culprit is reported at most once a
// minute.
type Problem string

const (
	// ProblemClone: another machine uses this node's key. The detail names its address, or what it sent.
	ProblemClone Problem = "clone"
	// ProblemEpoch: our own epoch was found in use (a restored snapshot); the node went on with a higher one.
	ProblemEpoch Problem = "epoch"
	// ProblemEquivocation: an origin signed two different frames under one number. The detail names the origin.
	ProblemEquivocation Problem = "equivocation"
	// ProblemDropped: a queue or table was full. Nothing is lost for good: the digests differ and a sync repairs it.
	ProblemDropped Problem = "dropped"
	// ProblemFlood: an address sends more than any member should; the excess is dropped. The detail names the address.
	ProblemFlood Problem = "flood"
	// ProblemForged: a holder of the mesh's key sends frames or claims that the named node did not sign. The detail names
	// that node, or the member that streamed the frames.
	ProblemForged Problem = "forged"
	// ProblemStrangers: too many members have no certificate; no more are let in until a certificate comes.
	ProblemStrangers Problem = "strangers"
	// ProblemCertificate: this node's certificate ends soon, has ended or was revoked; or one could not be renewed.
	ProblemCertificate Problem = "certificate"
	// ProblemUDP: UDP to or from a member does not arrive, or only small packets do. Members shows the current state.
	ProblemUDP Problem = "udp"
	// ProblemAddress: this node has no address at which others reach it. Faults shows the current state.
	ProblemAddress Problem = "address"
	// ProblemJoin: nobody on the join list answers. Faults shows the current state.
	ProblemJoin Problem = "join"
	// ProblemSeen: a member does not reach this node at the address that it advertises. Faults shows the current state.
	ProblemSeen Problem = "advertise"
	// ProblemClock: this machine's clock differs from a member's. Faults shows the current state.
	ProblemClock Problem = "clock"
	// ProblemKey: this node was not given the newest gossip key, cannot store, use or hand it out, or meets only nodes
	// that use another.
	ProblemKey Problem = "mesh key"
)

// authorityID returns the origin of what the mesh's authority signs, or zero if the mesh has none.
func (c *Config) authorityID() frame.ID {
	if !c.Secrets.HasAuthority() {
		return frame.ID{}
	}
	return frame.IDOf(c.Secrets.Authority[:])
}

func (c *Config) validate() error {
	switch {
	case c.Identity.IsZero():
		return errors.New("mesh config: no identity")
	case c.Secrets == (pki.Secrets{}):
		return errors.New("mesh config: no secrets")
	case !c.Authority.IsZero() && !bytes.Equal(c.Authority.Public(), c.Secrets.Authority[:]):
		return errors.New("mesh config: the authority's key is not that of this mesh")
	case !wire.IsText(c.Name) || len(c.Name) > pki.MaxName:
		return fmt.Errorf("mesh config: name %q: want at most %d bytes of printable text", c.Name, pki.MaxName)
	case !wire.IsText(c.Version) || len(c.Version) > meta.MaxVersion:
		return fmt.Errorf("mesh config: version %q: want at most %d bytes of printable text", c.Version, meta.MaxVersion)
	case !c.Bind.IsValid() && c.newTransport == nil:
		return errors.New("mesh config: no address to bind")
	case c.Bind.Addr().Zone() != "" || c.Advertise.Addr().Zone() != "":
		return errors.New("mesh config: addresses with a zone are of no use to others")
	case c.Epoch == 0:
		return errors.New("mesh config: epoch 0")
	case len(c.Join) > maxJoin:
		return fmt.Errorf("mesh config: join list of %d, want at most %d", len(c.Join), maxJoin)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}
