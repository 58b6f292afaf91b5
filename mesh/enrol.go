package mesh

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/enrol"
	"github.com/meshban/meshban/mesh/internal/filter"
	"github.com/meshban/meshban/mesh/internal/wire"
	"github.com/meshban/meshban/mesh/pki"
)

// enrolTimeout bounds one enrolment, on either side.
const enrolTimeout = 10 * time.Second

var (
	// ErrInviteExpired: the token has expired.
	ErrInviteExpired = errors.New("the join token has expired")
	// ErrInviteUsed: the token has admitted as many machines as it may.
	ErrInviteUsed = errors.New("the join token is used up")
	// ErrInviteUnknown: the inviter does not know the token.
	ErrInviteUnknown = errors.New("the inviter does not know this join token (of another mesh, or withdrawn)")
	// ErrNotInviter: the node that answered is not the one that the token names.
	ErrNotInviter = errors.New("who answered is not the node that made the join token")
	// ErrUnreachable: no address of the token answered; the error lists them all.
	ErrUnreachable = errors.New("the inviter does not answer")
	// errInviterBusy: the inviter knows the token but cannot serve it now.
	errInviterBusy = errors.New("the inviter could not serve the join token now; try again")
)

// Enrol joins a mesh with a token from NewInvite: it sends the inviter our public key and name (at most pki.MaxName
// bytes) and returns what a member needs to know. It tries the token's addresses in turn. Errors match pki.ErrBadToken,
// ErrInviteExpired, ErrInviteUsed, ErrInviteUnknown, ErrNotInviter, ErrUnreachable, pki.ErrNoAuthority or
// pki.ErrRevoked.
func Enrol(ctx context.Context, text string, id pki.Identity, name string) (pki.Enrolment, error) {
	t, err := pki.ParseToken(text)
	if err != nil {
		return pki.Enrolment{}, err
	}
	if id.IsZero() {
		return pki.Enrolment{}, errors.New("enrol: no identity")
	}
	if !wire.IsText(name) || len(name) > pki.MaxName {
		return pki.Enrolment{}, fmt.Errorf("enrol: name %q: want at most %d bytes of printable text", name, pki.MaxName)
	}
	// The inviter decides, but a token that expired long ago is not worth the wait.
	if time.Since(t.Expires) > frame.FutureSkew {
		return pki.Enrolment{}, fmt.Errorf("%w (at %s)", ErrInviteExpired, t.Expires.Format(time.RFC3339))
	}
	conf, err := enrol.TLS(id, func(key ed25519.PublicKey) error {
		if frame.IDOf(key) != t.Inviter {
			return ErrNotInviter
		}
		return nil
	})
	if err != nil {
		return pki.Enrolment{}, err
	}
	conf.ServerName = enrol.Knock(t.Secret)
	request := enrol.Request{Secret: t.Secret, Name: name}.Encode()
	var tried []string
	var impostor error
	for _, addr := range t.Addrs {
		answer, err := enrolAt(ctx, addr, conf, request)
		if err == nil {
			if at := addr.String(); !slices.Contains(answer.Join, at) {
				answer.Join = append(answer.Join, at) // the inviter's own may be of a family that this machine lacks
			}
			return accepted(answer, id)
		}
		tried = append(tried, fmt.Sprintf("%v (%v)", addr, cause(err)))
		if errors.Is(err, ErrNotInviter) {
			impostor = err
		}
	}
	kind := ErrUnreachable
	if impostor != nil {
		kind = ErrNotInviter
	}
	return pki.Enrolment{}, fmt.Errorf("%w; tried %s", kind, strings.Join(tried, ", "))
}

// cause returns the innermost part of a network error, which says what happened.
func cause(err error) error {
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		return op.Err
	}
	return err
}

func enrolAt(ctx context.Context, addr netip.AddrPort, conf *tls.Config, request []byte) (enrol.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, enrolTimeout)
	defer cancel()
	raw, err := (&net.Dialer{Timeout: filter.MaxDial}).DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return enrol.Answer{}, err
	}
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	defer stop()
	conn := tls.Client(raw, conf)
	defer func() { _ = conn.Close() }()
	if err := conn.HandshakeContext(ctx); err != nil {
		return enrol.Answer{}, err
	}
	if err := enrol.WriteMessage(conn, request); err != nil {
		return enrol.Answer{}, err
	}
	b, err := enrol.ReadMessage(conn)
	if err != nil {
		return enrol.Answer{}, err
	}
	return enrol.DecodeAnswer(b)
}

// accepted returns what an answer gives to the joiner.
func accepted(a enrol.Answer, id pki.Identity) (pki.Enrolment, error) {
	if a.Code != enrol.OK {
		return pki.Enrolment{}, refusal(a.Code)
	}
	if a.Secrets == (pki.Secrets{}) {
		return pki.Enrolment{}, fmt.Errorf("%w: its answer is empty", errInviterBusy)
	}
	e := pki.Enrolment{Secrets: a.Secrets, Join: a.Join, NameTaken: a.Taken}
	if len(a.Certificate) == 0 {
		return e, nil
	}
	if err := e.Accept(a.Certificate, id); err != nil {
		return pki.Enrolment{}, err
	}
	return e, nil
}

// refusal returns what a code other than OK means.
func refusal(code enrol.Code) error {
	switch code {
	case enrol.Expired:
		return ErrInviteExpired
	case enrol.Used:
		return ErrInviteUsed
	case enrol.Unknown:
		return ErrInviteUnknown
	case enrol.NoAuthority:
		return fmt.Errorf("the inviter cannot certify this machine: %w any more", pki.ErrNoAuthority)
	case enrol.Revoked:
		return pki.ErrRevoked
	}
	return errInviterBusy
}
