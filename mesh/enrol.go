package mesh

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/wire"
	"github.com/meshban/meshban/mesh/pki"
)

// enrolTimeout bounds one enrolment, on either side.
const enrolTimeout = 10 * time.Second

var (
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
	conf, err := enrolTLS(id, func(key ed25519.PublicKey) error {
		if frame.IDOf(key) != t.Inviter {
			return ErrNotInviter
		}
		return nil
	})
	if err != nil {
		return pki.Enrolment{}, err
	}
	conf.ServerName = knock(sha256.Sum256(t.Secret[:]))
	request := enrolRequest{Secret: t.Secret, Name: name}.encode()
	var tried []string
	var impostor error
	for _, addr := range t.Addrs {
		answer, err := enrolAt(ctx, addr, conf, request)
		if err == nil {
			if at := addr.String(); !slices.Contains(answer.Join, at) {
				answer.Join = append(answer.Join, at) // the inviter's own may be of a family that this machine lacks
			}
			return answer.result(id)
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

func enrolAt(ctx context.Context, addr netip.AddrPort, conf *tls.Config, request []byte) (enrolAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, enrolTimeout)
	defer cancel()
	raw, err := (&net.Dialer{Timeout: maxDial}).DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return enrolAnswer{}, err
	}
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	defer stop()
	conn := tls.Client(raw, conf)
	defer func() { _ = conn.Close() }()
	if err := conn.HandshakeContext(ctx); err != nil {
		return enrolAnswer{}, err
	}
	if err := writeMessage(conn, request); err != nil {
		return enrolAnswer{}, err
	}
	b, err := readMessage(conn)
	if err != nil {
		return enrolAnswer{}, err
	}
	return decodeEnrolAnswer(b)
}

func (a enrolAnswer) result(id pki.Identity) (pki.Enrolment, error) {
	switch a.Code {
	case enrolOK:
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
	case enrolExpired:
		return pki.Enrolment{}, ErrInviteExpired
	case enrolUsed:
		return pki.Enrolment{}, ErrInviteUsed
	case enrolUnknown:
		return pki.Enrolment{}, ErrInviteUnknown
	case enrolNoAuthority:
		return pki.Enrolment{}, fmt.Errorf("the inviter cannot certify this machine: %w any more", pki.ErrNoAuthority)
	case enrolRevoked:
		return pki.Enrolment{}, pki.ErrRevoked
	}
	return pki.Enrolment{}, errInviterBusy
}
