package mesh

import (
	"context"
	"errors"
	"iter"
	"net/netip"
	"time"
)

// ErrStopped tells that the mesh's Run has ended.
var ErrStopped = errors.New("the mesh has stopped")

var errNotBuilt = errors.New("mesh: not built yet")

// Mesh is this node's membership in a mesh. Its methods may be called from any goroutine.
type Mesh struct {
	cfg   Config
	ready chan struct{}
}

// New checks the configuration and opens nothing.
func New(cfg Config) (*Mesh, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	return &Mesh{cfg: cfg, ready: make(chan struct{})}, nil
}

// Restore takes back live frames from the node's own store, before Run. They are decoded strictly but, being from our
// own disk, not verified again; what is broken is skipped and counted, what has expired is reported to Expired once Run
// has begun.
func (m *Mesh) Restore(raws iter.Seq[[]byte]) error { return errNotBuilt }

// Run opens the sockets, joins and serves until ctx ends; then it leaves the mesh cleanly, within 3 s, and returns nil.
// It can be called once.
func (m *Mesh) Run(ctx context.Context) error { return errNotBuilt }

// Ready is closed when the sockets are open; joining goes on after that.
func (m *Mesh) Ready() <-chan struct{} { return m.ready }

// Addr is the address that others reach this node at; valid once Ready is closed.
func (m *Mesh) Addr() netip.AddrPort { return netip.AddrPort{} }

// Publish signs payload (at most MaxPayload bytes) as our next frame and queues it for every member. It never waits for
// the network. Before Run the frame is held and travels by sync.
func (m *Mesh) Publish(now time.Time, payload []byte, expires time.Time) (Frame, error) {
	return Frame{}, errNotBuilt
}

// SetJoin replaces the join list.
func (m *Mesh) SetJoin(join []string) error { return errNotBuilt }

// Members lists this node and every other that it knows of, by name.
func (m *Mesh) Members() []Member { return nil }

// Digest is equal on two nodes exactly when they hold the same live frames.
func (m *Mesh) Digest() [32]byte { return [32]byte{} }

// Stats gives the counters.
func (m *Mesh) Stats() Stats { return Stats{} }

// NewInvite makes a token with which up to uses machines can enrol within ttl. It needs Run.
func (m *Mesh) NewInvite(uses int, ttl time.Duration) (token string, err error) {
	return "", errNotBuilt
}

// Enrolment is what a new member gets.
type Enrolment struct {
	Secrets Secrets
	Join    []string // addresses for the join list, the inviter's first
}

// Enrol joins a mesh with a token from NewInvite: it gives the inviter our public key and name, and brings back what a
// member needs to know. The errors say what to do: ErrInviteExpired, ErrInviteUsed, ErrInviteUnknown, ErrUnreachable.
func Enrol(ctx context.Context, token string, id Identity, name string) (Enrolment, error) {
	return Enrolment{}, errNotBuilt
}

var (
	// ErrBadToken: the text is no token.
	ErrBadToken = errors.New("not a join token")
	// ErrInviteExpired: the token's time is over.
	ErrInviteExpired = errors.New("the join token has expired")
	// ErrInviteUsed: the token has been used as often as it allows.
	ErrInviteUsed = errors.New("the join token is used up")
	// ErrInviteUnknown: the inviter does not know the token (another mesh, or withdrawn).
	ErrInviteUnknown = errors.New("the inviter does not know this join token")
	// ErrNotInviter: who answered is not the node that the token names.
	ErrNotInviter = errors.New("who answered is not the node that made the join token")
	// ErrUnreachable: no address of the token answered; the error names all of them.
	ErrUnreachable = errors.New("the inviter does not answer")
)
