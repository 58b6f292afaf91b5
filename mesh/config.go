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
)

const (
	// MaxName bounds a node's human name, in bytes.
	MaxName = 64
	// MaxVersion bounds the version text in a member's metadata, in bytes.
	MaxVersion = 32
	// MaxJoin bounds the join list.
	MaxJoin = 1024
	// MaxPeers bounds the peers that are remembered over a restart.
	MaxPeers = 2048
	// MaxMembers bounds the members that a node keeps track of.
	MaxMembers = 1 << 14
)

// Config says what a Mesh is and whom it tells. Functions may be nil. They are called from one goroutine each, with no
// lock held, and must not block for long; they may call back into the Mesh.
type Config struct {
	Identity  Identity
	Secrets   Secrets
	Name      string // for people; at most MaxName bytes of printable text
	Version   string // of the program; at most MaxVersion bytes of printable text
	Bind      netip.AddrPort
	Advertise netip.AddrPort // zero: the bound address, or one of this machine's, see pickAddr; port 0: the bound port
	Join      []string       // HOST[:PORT], resolved at each try; the port defaults to Bind's

	// Epoch is higher than at any start before, and on disk already; at least 1.
	Epoch uint64
	// RollEpoch stores and returns an epoch higher than any before and than atLeast. It is called when frames appear in
	// our name that this run did not publish.
	RollEpoch func(atLeast uint64) (uint64, error)

	// Authority is the key behind Secrets.Authority where it is on this node; zero: it is elsewhere.
	Authority Authority
	// Certificate is what this node got when it enrolled; zero: none, or it is in the store.
	Certificate Certificate
	Logger      *slog.Logger // nil: silent

	// Deliver gets verified, live frames that this run did not publish, each once, in the order of arrival: those of other
	// origins, own ones of earlier runs that the store had lost, and those of PublishAsAuthority on other nodes.
	Deliver func(frames []Frame)
	// Replaced gets frames in whose place Deliver gets others of the same Ref (see Problem "equivocation"), before it does:
	// what they said is void. Retold is called afterwards, at most every few seconds, with all live frames of their origins:
	// what these say may have been superseded by what is void. Both are called by the goroutine that calls Deliver.
	Replaced func(frames []Frame)
	Retold   func(live iter.Seq[Frame])
	// Admitted gets every frame that is newly held, own ones included, for the store. A later frame of the same Ref
	// replaces the earlier one. Frames given to Restore are not repeated.
	Admitted func(frames []Frame)
	// Expired gets the names of frames that are no longer held, so that the store can drop them.
	Expired func(refs []FrameRef)
	// Withdrawn gets origins that count no longer, after the frames that came with the word of it and before any later one:
	// whatever they said is void. Their frames are given to Expired. Readmitted gets origins that count now; their frames
	// come by Deliver. Both are called by the goroutine that calls Deliver.
	Withdrawn, Readmitted func(origins []ID)
	// Rewound is called after the wall clock was set back by more than a second, by the goroutine that calls Deliver, once a
	// peer holds the same frames: those that had ended by the clock as it was have come by Deliver then. Of others some of
	// what they say had, and may be live again: live yields all that are held, by origin, epoch and number. Who has no peer
	// is not called: what lifted a ban may be gone. It is also called when frames given to Restore count whose time, or that
	// of their origin's certificate, had not come by the clock as it was.
	Rewound func(live iter.Seq[Frame])

	// Early gets frames of origins that count which are refused as of the future, to tell people: the same one more than once, and of an
	// origin at most earlyTold a second. It is called by the goroutine that calls Deliver.
	Early func(f Frame)

	// Noticed gets what another member, whose certificate counts, tells this one by Notify: seldom, and at most MaxNotice
	// bytes. It is called by the goroutine that calls Deliver; the bytes may be kept.
	Noticed func(from ID, payload []byte)

	// Answer answers a question that another member, whose certificate counts, asks with Query: at most MaxAnswer bytes, before
	// ctx ends. It is called from several goroutines at a time. nil, or an error: the member gets no answer.
	Answer func(ctx context.Context, from ID, question []byte) ([]byte, error)

	Peers        []Peer             // remembered from earlier runs; at most MaxPeers are used, the first ones
	PeersChanged func(peers []Peer) // the whole list to remember, at most every few seconds
	KnownChanged func()             // Known returns other addresses than before
	OnMember     func(MemberEvent)
	OnProblem    func(kind Problem, detail string)

	// SaveSecrets stores secrets with other gossip keys. They are on disk when it returns: what cannot be stored is not
	// used. nil: they end with Run. OnKey is told what became of a rotation, after it is stored.
	SaveSecrets func(s Secrets) error
	OnKey       func(KeyEvent)

	// LoadInvites and SaveInvites keep open invitations over a restart; nil: they end with Run.
	LoadInvites func() ([]byte, error)
	SaveInvites func(b []byte) error

	// Lookup resolves a name of the join list; nil: the system's resolver.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	// NewTransport replaces the sockets; for tests.
	NewTransport func() (memberlist.Transport, error)
}

// Problem is a kind of trouble that a person should hear about. Each kind and culprit is told at most once a minute.
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
	// ProblemFlood: an address sends more than any member does; what is beyond is dropped. The detail names it.
	ProblemFlood Problem = "flood"
	// ProblemForged: somebody with the mesh's key sends frames that their origin did not sign. The detail names the origin
	// that was claimed.
	ProblemForged Problem = "forged"
	// ProblemStrangers: too many members have no certificate; further ones are not let in until one comes.
	ProblemStrangers Problem = "strangers"
	// ProblemCertificate: this node's certificate ends soon, has ended or was revoked; or one could not be renewed.
	ProblemCertificate Problem = "certificate"
	// ProblemUDP: UDP to or from a member does not arrive, or only small packets do. Members tells how it is now.
	ProblemUDP Problem = "udp"
	// ProblemAddress: this node has no address at which others reach it. Faults tells how it is now.
	ProblemAddress Problem = "address"
	// ProblemJoin: nobody on the join list answers. Faults tells how it is now.
	ProblemJoin Problem = "join"
	// ProblemSeen: a member does not reach this node at the address that it advertises. Faults tells how it is now.
	ProblemSeen Problem = "advertise"
	// ProblemClock: this machine's clock differs from that of a member. Faults tells how it is now.
	ProblemClock Problem = "clock"
	// ProblemKey: this node was not given the newest gossip key, or cannot store it, or those who answer speak another.
	ProblemKey Problem = "mesh key"
)

func (c *Config) validate() error {
	switch {
	case c.Identity.key == nil:
		return errors.New("mesh config: no identity")
	case c.Secrets.isZero():
		return errors.New("mesh config: no secrets")
	case !c.Authority.IsZero() && !bytes.Equal(c.Authority.Public(), c.Secrets.Authority[:]):
		return errors.New("mesh config: the authority's key is not that of this mesh")
	case !isCleanText(c.Name) || len(c.Name) > MaxName:
		return fmt.Errorf("mesh config: name %q: want at most %d bytes of printable text", c.Name, MaxName)
	case !isCleanText(c.Version) || len(c.Version) > MaxVersion:
		return fmt.Errorf("mesh config: version %q: want at most %d bytes of printable text", c.Version, MaxVersion)
	case !c.Bind.IsValid() && c.NewTransport == nil:
		return errors.New("mesh config: no address to bind")
	case c.Bind.Addr().Zone() != "" || c.Advertise.Addr().Zone() != "":
		return errors.New("mesh config: addresses with a zone are of no use to others")
	case c.Epoch == 0:
		return errors.New("mesh config: epoch 0")
	case len(c.Join) > MaxJoin:
		return fmt.Errorf("mesh config: join list of %d, want at most %d", len(c.Join), MaxJoin)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}
